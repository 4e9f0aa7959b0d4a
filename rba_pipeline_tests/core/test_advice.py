"""The pitfalls of the guide, each with the value to use; and silence where none applies."""

from dataclasses import replace

import pytest

from rba_pipeline.core.advice import Circumstances, advice
from rba_pipeline.core.presets import Bounds

FINE = Circumstances(
    model="nomic-ai/nomic-embed-text-v1.5",
    prompt="search_document: ",
    batch_size=8,
    parallel_batches=4,
    preset=None,
    in_flight=Bounds(8, 4),
    timeout_s=240,
    device="cpu",
    cores=2,
    max_texts=2048,
    server_batch_size=32,
    tokens_per_text=500,
    rate=1000,
)


def test_where_no_pitfall_applies_nothing_is_said() -> None:
    assert advice(FINE) == []


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        pytest.param(
            {"parallel_batches": 16},
            ["parallel_batches=16 is too much parallelism for 2 cores", "Use 4"],
            id="too-much-parallelism",
        ),
        pytest.param(
            {"batch_size": 64}, ["batch_size=64 is over the service's own", "Use 32"],
            id="over-the-servers-batch",
        ),
        pytest.param(
            {"batch_size": 2048, "max_texts": 100},
            ["batch_size=2048 is over the service's limit", "Use 100"],
            id="over-the-servers-limit",
        ),
        pytest.param(
            {"timeout_s": 20},
            ["timeout_s=20 is below what the service needs", "32 texts", "about 16 s", "Use 32"],
            id="time-out-too-short",
        ),
        pytest.param(
            {"timeout_s": 3600, "rate": 1.0},
            ["timeout_s=3600", "Use at most 3 texts in flight"],
            id="no-longer-time-out-is-allowed",
        ),
        pytest.param(
            {"timeout_s": 10, "rate": 50.0, "in_flight": Bounds(1, 1)},
            ["1 texts in flight take it about 10 s", "Use 20"],
            id="one-text-is-too-many",
        ),
        pytest.param({"prompt": ""}, ["nomic-embed-text-v1.5 is served without"], id="no-prompt"),
        pytest.param(
            {"parallel_batches": 16, "services": 3},
            ["parallel_batches=16 is too much parallelism for 3 × 2 cores", "Use 12"],
            id="too-much-for-several",
        ),
        pytest.param(
            {"unreachable": ("http://b",)}, ["http://b does not answer"], id="an-address-is-down"
        ),
    ],
)  # fmt: skip
def test_a_pitfall_is_named_with_the_value_to_use(
    change: dict[str, object], parts: list[str]
) -> None:
    (sentence,) = advice(replace(FINE, **change))

    for part in parts:
        assert part in sentence


def test_what_a_preset_stands_for_is_judged_like_what_was_set() -> None:
    unset = replace(FINE, batch_size=None, parallel_batches=None, preset="gpu")

    found = advice(replace(unset, in_flight=Bounds(32, 8), server_batch_size=8, rate=0.0))

    parallelism, batch = found
    assert "parallel_batches=8, from preset gpu, is too much parallelism for 2 cores" in parallelism
    assert parallelism.endswith("Use 4")
    assert "batch_size=32, from preset gpu, is over the service's own" in batch
    assert batch.endswith("Use 8")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"parallel_batches": 16, "device": "cuda"}, id="a-gpu"),
        pytest.param({"parallel_batches": 16, "cores": 8}, id="many-cores"),
        pytest.param({"parallel_batches": 12, "services": 3}, id="many-services"),
        pytest.param({"prompt": "", "model": "all-MiniLM-L6-v2"}, id="a-model-without-prompts"),
        pytest.param({"parallel_batches": None, "batch_size": None}, id="nothing-set"),
        pytest.param({"timeout_s": 20, "rate": 0.0}, id="a-speed-that-is-not-known"),
        pytest.param({"tokens_per_text": 0.0}, id="nothing-to-embed"),
    ],
)
def test_what_is_no_pitfall_is_not_named(change: dict[str, object]) -> None:
    assert advice(replace(FINE, **change)) == []
