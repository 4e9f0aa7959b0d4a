"""Predictions are kept and found again; whatever else lies in their place is none."""

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path

import pytest

from rba_pipeline.core.plans import Prediction
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.predictions import Predictions

WINDOW = Window(date(2011, 1, 1), date(2012, 1, 1))
OTHER = Window(date(2012, 1, 1), date(2013, 1, 1))
KEPT = Prediction("inputs", "PROCESSES", reuse=3, add=2, seconds=30.0, seconds_beside=40.0)
FIELDS = asdict(KEPT)


def test_each_window_has_the_latest_of_its_own(tmp_path: Path) -> None:
    first, second = Predictions(str(tmp_path), "a"), Predictions(str(tmp_path), "a")
    later = Prediction("others", "PROCESSES", reuse=0, add=0, seconds=1.0, seconds_beside=1.0)

    first.keep({WINDOW: later})
    second.keep({OTHER: later})
    first.keep({WINDOW: KEPT})

    assert (second.of(WINDOW), first.of(OTHER)) == (KEPT, later)
    assert Predictions(str(tmp_path), "b").of(WINDOW) is None


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "null",
        "5",
        "[1]",
        '"text"',
        "{}",
        "\x00",
        "[" * 100_000,
        json.dumps({WINDOW.name: FIELDS}),
        json.dumps(FIELDS | {"seconds": "q"}),
        json.dumps(FIELDS | {"seconds": float("nan")}),
        json.dumps(FIELDS | {"reuse": None}),
        json.dumps(FIELDS | {"of_another_version": 1}),
        json.dumps({name: value for name, value in FIELDS.items() if name != "way"}),
    ],
)
def test_a_damaged_file_holds_no_prediction(tmp_path: Path, damaged: str) -> None:
    predictions = Predictions(str(tmp_path), "a")
    predictions.keep({WINDOW: KEPT})
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damaged)

    assert predictions.of(WINDOW) is None


def test_a_folder_in_its_place_is_none_either(tmp_path: Path) -> None:
    (tmp_path / "plans" / "a" / f"{WINDOW.name}.json").mkdir(parents=True)

    assert Predictions(str(tmp_path), "a").of(WINDOW) is None
