"""Presets and ranges."""

import math

import pytest

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import (
    RANGES,
    Bounds,
    Preset,
    check_settings,
    effective_bounds,
    setting_problems,
)


@pytest.mark.parametrize(
    ("preset", "device", "cores", "adaptive", "expected"),
    [
        pytest.param("cpu-dev", "cuda", 64, True, Bounds(4, 2), id="cpu-dev-on-any-machine"),
        pytest.param("cpu-prod", "cpu", 1, True, Bounds(8, 4), id="cpu-prod"),
        pytest.param("gpu", "cpu", 1, False, Bounds(32, 8), id="gpu"),
        pytest.param("auto", "cpu", 2, False, Bounds(4, 2), id="auto-on-a-small-cpu"),
        pytest.param("auto", "cpu", 4, False, Bounds(8, 4), id="auto-on-four-cores"),
        pytest.param("auto", "cuda", 2, False, Bounds(32, 8), id="auto-on-a-gpu"),
        pytest.param("auto", "cpu", 2, True, Bounds(32, 8), id="auto-finds-its-own-pace"),
    ],
)
def test_a_preset_gives_both_bounds(
    preset: str, device: str, cores: int, adaptive: bool, expected: Bounds
) -> None:
    bounds = effective_bounds(
        preset,
        batch_size=None,
        parallel_batches=None,
        device=device,
        cores=cores,
        adaptive=adaptive,
    )

    assert bounds == expected


def test_a_value_that_was_set_beats_the_preset() -> None:
    bounds = effective_bounds(
        "gpu", batch_size=5, parallel_batches=None, device="cpu", cores=2, adaptive=True
    )

    assert bounds == Bounds(5, 8)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(0, id="below"),
        pytest.param(-1, id="negative"),
        pytest.param(2049, id="above"),
        pytest.param(2**70, id="huge"),
        pytest.param(True, id="true-is-not-one"),
        pytest.param(1.5, id="fraction"),
        pytest.param("16", id="text"),
        pytest.param(math.nan, id="not-a-number"),
        pytest.param(math.inf, id="endless"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(value: object) -> None:
    problems = setting_problems({"batch_size": value})

    assert problems == [
        f"batch_size={value!r}: allowed is a whole number from 1 to 2048 (texts per request)"
    ]


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_a_range_are_allowed(name: str) -> None:
    low, high, _ = RANGES[name]

    assert setting_problems({name: low}) == setting_problems({name: high}) == []


def test_all_wrong_values_are_in_one_message() -> None:
    with pytest.raises(
        BadSetting, match=r"batch_size=0.*parallel_batches=99.*EMBEDDING_BATCH_SIZE"
    ):
        check_settings({"batch_size": 0, "parallel_batches": 99, "timeout_s": None})


def test_the_names_that_dagster_shows_are_the_values() -> None:
    assert {name: preset.value for name, preset in Preset.__members__.items()} == {
        name: name for name in ("auto", "cpu-dev", "cpu-prod", "gpu", "tuned")
    }
