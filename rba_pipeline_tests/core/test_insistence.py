"""Asking again: a person is told soon; a run goes on for an outage, and then says how long."""

import pytest

from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    RequestTimedOut,
    ServiceOverloaded,
    ServiceUnavailable,
)
from rba_pipeline.core.insistence import BRIEF, Insistence

RUN = Insistence(300, jitter=lambda: 1.0)
AWAY, FULL = ServiceUnavailable("away"), ServiceOverloaded("full", 30.0)


@pytest.mark.parametrize(
    ("insistence", "error", "failed", "waited_s", "expected"),
    [
        pytest.param(BRIEF, AWAY, 1, 0.0, 0.5, id="somebody-waits"),
        pytest.param(BRIEF, FULL, 2, 0.5, 1.5, id="not-as-long-as-it-is-told"),
        pytest.param(RUN, AWAY, 1, 0.0, 0.5, id="soon-at-first"),
        pytest.param(RUN, AWAY, 4, 9.0, 4.0, id="doubled"),
        pytest.param(RUN, ModelFailed("500"), 5000, 290.0, 5.0, id="never-seldom"),
        pytest.param(RUN, FULL, 1, 0.0, 30.0, id="as-it-is-told"),
        pytest.param(RUN, ServiceUnavailable("starts", 9.0), 1, 0.0, 9.0, id="as-who-starts-tells"),
        pytest.param(RUN, ServiceOverloaded("full", 0.0), 1, 0.0, 0.5, id="told-to-come-at-once"),
        pytest.param(RUN, ServiceOverloaded("full", 3600.0), 1, 0.0, 100.0, id="told-too-long"),
        pytest.param(RUN, FULL, 9, 290.0, 10.0, id="the-last-try-is-at-the-end"),
        pytest.param(RUN, RequestTimedOut("late"), 1, 310.0, 0.5, id="three-tries-at-least"),
    ],
)
def test_the_next_pause(
    insistence: Insistence, error: EmbeddingError, failed: int, waited_s: float, expected: float
) -> None:
    assert insistence.pause_s(error, failed, waited_s) == expected


@pytest.mark.parametrize(
    ("error", "failed"),
    [pytest.param(FULL, 3, id="third"), pytest.param(RequestTimedOut("late"), 1, id="time-out")],
)
def test_whoever_waits_is_told_what_failed_as_it_is(error: EmbeddingError, failed: int) -> None:
    with pytest.raises(type(error)) as raised:
        BRIEF.pause_s(error, failed, 2.0)

    assert raised.value is error


@pytest.mark.parametrize("error", [FULL, AWAY, ModelFailed("500")])
def test_a_run_ends_after_an_outage_with_its_kind_and_how_long_it_was(
    error: EmbeddingError,
) -> None:
    with pytest.raises(type(error), match=r"for 300 s, in 12 tries: .*outage_s=300") as raised:
        RUN.pause_s(error, 12, 300.0)

    assert str(error) in str(raised.value)


def test_a_try_takes_a_part_of_the_outage() -> None:
    assert (RUN.longest_try_s, Insistence(3).longest_try_s) == (100.0, 10.0)
    assert BRIEF.longest_try_s == 60.0
