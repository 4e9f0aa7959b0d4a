"""Faults of the service that only time shows: S18, mixed load for minutes, or for an hour."""

import pytest

from benchmarks.server_processes import Command
from benchmarks.soak import WARM_UP_REQUESTS, growth, soak
from benchmarks.texts import whole_words
from embedding_service.backend.models import find_model

MODEL = "all-MiniLM-L6-v2"


@pytest.mark.case("S18")
@pytest.mark.model
@pytest.mark.parametrize(
    "measured_s",
    [
        pytest.param(180, id="3-minutes", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
        pytest.param(3480, id="58-minutes", marks=[pytest.mark.full, pytest.mark.timeout(5400)]),
    ],
)
def test_memory_is_flat_under_mixed_load(measured_s: int) -> None:
    """After a warm-up of about two minutes: five minutes of load in all, or an hour."""
    command = Command("embedding_service", environment={"EMBEDDING_MODEL": MODEL})

    counts, samples, _ = soak(
        command,
        whole_words(find_model(MODEL, None).path),
        callers=6,
        seconds=measured_s,
        warm_up=WARM_UP_REQUESTS,
    )

    goal = growth(samples).goal()
    assert goal.met, goal
    assert min(counts[kind] for kind in ("short", "long", "query", "bad", "leaver")) > 0
