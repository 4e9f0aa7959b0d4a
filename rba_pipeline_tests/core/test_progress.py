"""When it is said how far something has come: soon, seldom, and with the right figures."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rba_pipeline.core.progress import EVERY_S, LONGEST_S, SOON_S, Figures, Progress


def said(total: int, done_at: Callable[[float], int], seconds: int) -> Iterator[float]:
    """Yield when something is said of work that is looked at ten times a second."""
    progress = Progress.begun(total, 0.0)
    for tenth in range(seconds * 10 + 1):
        now_s = tenth / 10
        if progress.is_due(done_at(now_s), now_s):
            progress = progress.said(done_at(now_s), now_s)
            yield now_s


@pytest.mark.parametrize(
    ("total", "per_second", "seconds", "moments"),
    [
        pytest.param(100, 100, 1, [], id="nothing-of-what-is-over-soon"),
        pytest.param(1000, 20, 10, [2, 7], id="soon-and-then-each-tenth-of-the-work"),
        pytest.param(1000, 100, 7, [2, 4, 6], id="never-twice-within-two-seconds"),
        pytest.param(100_000, 1, 35, [2, 12, 22, 32], id="every-ten-seconds-of-much-work"),
        pytest.param(10, 0, 35, [2, 12, 22, 32], id="though-nothing-is-done"),
    ],
)
def test_it_is_said_soon_and_seldom(
    total: int, per_second: int, seconds: int, moments: list[float]
) -> None:
    assert list(said(total, lambda now_s: int(per_second * now_s), seconds)) == moments


def test_what_takes_hours_is_said_once_a_minute() -> None:
    moments = list(said(10_000_000, lambda now_s: int(10 * now_s), 7200))

    gaps = [after - before for before, after in pairwise(moments)]
    assert min(gaps) >= EVERY_S
    assert gaps[-1] == pytest.approx(LONGEST_S, abs=0.2)
    assert max(gaps) == pytest.approx(LONGEST_S, abs=0.2)


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 500))
def test_whoever_comes_back_when_told_finds_it_due(waits: list[float], total: int) -> None:
    progress, now_s = Progress.begun(total, 5.0), 5.0
    for wait_s in waits:
        due_s = now_s + progress.due_in_s(now_s)
        assert progress.is_due(progress.said_done, due_s + 1e-6)
        now_s += wait_s
        if progress.is_due(progress.said_done, now_s):
            assert now_s - progress.said_s >= SOON_S
            progress = progress.said(progress.said_done, now_s)


def test_the_rate_is_that_of_the_time_since_it_was_said_last() -> None:
    progress = Progress.begun(100, 0.0).said(20, 10.0)

    assert progress.figures(40, 20.0) == Figures(40, 60, 2.0, 30.0)
    assert progress.figures(20, 20.0) == Figures(20, 80, 0.0, None)


def test_the_last_figures_are_those_of_the_whole() -> None:
    progress = Progress.begun(100, 0.0).said(90, 20.0)

    assert progress.last(100, 25.0) == Figures(100, 0, 4.0, 0.0)
    assert progress.last(100, 0.0) == Figures(100, 0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("figures", "detail", "sentence"),
    [
        pytest.param(
            Figures(1200, 800, 12.34, 64.8), "",
            "1,200 of 2,000 texts, 12.3 per second, 65 s left", id="under-way",
        ),
        pytest.param(
            Figures(0, 8, 0.0, None), "waiting for http://a (full)",
            "0 of 8 texts, 0.0 per second, waiting for http://a (full)", id="waiting",
        ),
    ],
)  # fmt: skip
def test_the_sentence_holds_all_that_is_known(figures: Figures, detail: str, sentence: str) -> None:
    assert figures.sentence("texts", detail) == sentence
