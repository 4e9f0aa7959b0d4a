"""The tuned preset as it is kept in a file."""

import json
from dataclasses import replace
from typing import Any

import pytest

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tuned import MeasuredService, TunedPreset, rows
from rba_pipeline.core.tuning import Measurement

SERVICE = MeasuredService("ab" * 16, "all-MiniLM-L6-v2", "cpu", 2)
PRESET = TunedPreset(
    Bounds(16, 4), SERVICE, "2024-05-06T07:08:09+00:00", 41.5, "not faster",
    rows([Measurement(Bounds(16, 4), 41.5, 5.0, p50_s=0.25)]),
)  # fmt: skip


def test_what_is_written_is_read() -> None:
    assert TunedPreset.from_json(PRESET.to_json(), "here") == PRESET


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"batch_size": 0}, "batch_size=0: .* 1 to 2048", id="too-few-texts"),
        pytest.param({"batch_size": 4.5}, "batch_size=4.5", id="no-whole-number"),
        pytest.param({"batch_size": True}, "batch_size=True", id="a-claim"),
        pytest.param({"parallel_batches": 65}, "parallel_batches=65: .* 1 to 64", id="too-many"),
        pytest.param({"service": None}, "no tuned preset", id="no-service"),
        pytest.param({"chunks_per_second": "fast"}, "no tuned preset", id="no-rate"),
    ],
)
def test_a_value_out_of_range_is_refused_with_place_range_and_remedy(
    change: dict[str, Any], message: str
) -> None:
    content = json.dumps(json.loads(PRESET.to_json()) | change)

    with pytest.raises(BadSetting, match=f"^/data/t.json.*{message}.*rba-pipeline tune"):
        TunedPreset.from_json(content, "/data/t.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", PRESET.to_json().encode()[:80]]
)
def test_a_damaged_file_is_refused(content: bytes) -> None:
    with pytest.raises(BadSetting, match=r"t\.json is no tuned preset"):
        TunedPreset.from_json(content, "t.json")


def test_what_sets_another_service_apart_is_named() -> None:
    assert PRESET.difference(SERVICE) is None
    assert PRESET.difference(replace(SERVICE, cores=8)) == "cores 2, now 8"
    other = replace(SERVICE, device="cuda", cores=8)
    assert PRESET.difference(other) == "device cpu, now cuda; cores 2, now 8"
