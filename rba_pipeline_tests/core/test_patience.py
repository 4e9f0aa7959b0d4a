"""Trying again: soon at first, then seldom, and not for ever."""

import pytest

from rba_pipeline.core.patience import Patience

PATIENCE = Patience(attempts=6, within_s=60.0, pause_s=1.0, longest_pause_s=4.0)


@pytest.mark.parametrize(
    ("failed", "elapsed_s", "jitter", "expected"),
    [
        pytest.param(1, 0.0, 1.0, 1.0, id="first"),
        pytest.param(2, 0.0, 1.0, 2.0, id="doubled"),
        pytest.param(3, 0.0, 1.0, 4.0, id="doubled-again"),
        pytest.param(4, 0.0, 1.0, 4.0, id="longest"),
        pytest.param(3, 0.0, 0.0, 2.0, id="jitter-takes-half-at-most"),
        pytest.param(6, 0.0, 1.0, None, id="no-attempt-left"),
        pytest.param(1, 59.0, 1.0, 1.0, id="just-in-time"),
        pytest.param(1, 59.1, 1.0, None, id="too-late"),
    ],
)
def test_the_next_pause(
    failed: int, elapsed_s: float, jitter: float, expected: float | None
) -> None:
    pause = PATIENCE.next_pause_s(failed=failed, elapsed_s=elapsed_s, jitter=jitter)

    assert pause == expected


def test_one_attempt_is_never_followed_by_another() -> None:
    once = Patience(attempts=1, within_s=60.0)

    assert once.next_pause_s(failed=1, elapsed_s=0.0, jitter=0.0) is None


def test_very_many_failures_are_no_larger_number_than_fits() -> None:
    dogged = Patience(attempts=10_000, within_s=1e9)

    assert dogged.next_pause_s(failed=5000, elapsed_s=0.0, jitter=1.0) == 4.0
