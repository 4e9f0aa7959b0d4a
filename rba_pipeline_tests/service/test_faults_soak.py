"""Faults of the service that only time shows: S18, mixed load for minutes, or for an hour."""

import pytest

from benchmarks.server_processes import Command
from benchmarks.soak import TIMES, WARM_UP_REQUESTS, growth, soak
from benchmarks.texts import whole_words
from embedding_service.backend.models import find_model

MODEL = "all-MiniLM-L6-v2"


@pytest.mark.case("S18")
@pytest.mark.model
@pytest.mark.parametrize(
    "then_s",
    [
        pytest.param(0, id="minutes", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
        pytest.param(3300, id="an-hour", marks=[pytest.mark.full, pytest.mark.timeout(5400)]),
    ],
)
def test_memory_is_flat_under_mixed_load(then_s: int) -> None:
    """After a warm-up of about two minutes: three minutes of load in which it is flat, or an hour.

    In the first three memory may not have settled yet, and up to three more are tried. A leak is in
    each of them.
    """
    command = Command("embedding_service", environment={"EMBEDDING_MODEL": MODEL})

    counts, samples, _ = soak(
        command,
        whole_words(find_model(MODEL, None).path),
        callers=6,
        seconds=180,
        warm_up=WARM_UP_REQUESTS,
        times=TIMES,
        then_s=then_s,
    )

    goal = growth(samples).goal()
    assert goal.met, goal
    assert min(counts[kind] for kind in ("short", "long", "query", "bad", "leaver")) > 0
