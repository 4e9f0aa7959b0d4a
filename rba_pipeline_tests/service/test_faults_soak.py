"""Faults of the service that only time shows: S18, mixed load for minutes, or for an hour."""

import pytest

from benchmarks.server_processes import Command
from benchmarks.soak import growth, soak
from benchmarks.texts import whole_words
from embedding_service.backend.models import find_model

MODEL = "all-MiniLM-L6-v2"
# Of the five minutes too: allocators settle as long as new lengths come in new orders.
WARM_UP_S = 120


@pytest.mark.case("S18")
@pytest.mark.model
@pytest.mark.parametrize(
    "measured_s",
    [
        pytest.param(180, id="five-minutes", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
        pytest.param(3480, id="an-hour", marks=[pytest.mark.full, pytest.mark.timeout(4200)]),
    ],
)
def test_memory_is_flat_under_mixed_load(measured_s: int) -> None:
    command = Command("embedding_service", environment={"EMBEDDING_MODEL": MODEL})

    counts, samples, _ = soak(
        command,
        whole_words(find_model(MODEL, None).path),
        callers=6,
        seconds=measured_s,
        warm_up_s=WARM_UP_S,
    )

    goal = growth(samples).goal()
    assert goal.met, goal
    assert min(counts[kind] for kind in ("short", "long", "query", "bad", "leaver")) > 0
