"""When it is said how far something has come: soon, seldom, and with the right figures."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from rba_pipeline.core.progress import EVERY_S, LONGEST_S, SOON_S, Figures, Progress


def said(seconds: int) -> Iterator[float]:
    """Yield when something is said of work that is looked at ten times a second."""
    progress = Progress.begun(1000, 5.0)
    for tenth in range(seconds * 10 + 1):
        now_s = 5.0 + tenth / 10
        if not progress.due_in_s(now_s):
            progress = progress.said(0, now_s)
            yield now_s - 5.0


@pytest.mark.parametrize(
    ("seconds", "moments"),
    [
        pytest.param(1, [], id="nothing-of-what-is-over-soon"),
        pytest.param(2, [2], id="soon"),
        pytest.param(35, [2, 12, 22, 32], id="and-then-every-ten-seconds"),
    ],
)
def test_it_is_said_soon_and_seldom(seconds: int, moments: list[float]) -> None:
    assert list(said(seconds)) == moments


def test_what_takes_hours_is_said_once_a_minute() -> None:
    gaps = [after - before for before, after in pairwise(said(7200))]

    assert min(gaps) >= EVERY_S
    assert gaps[-1] == pytest.approx(LONGEST_S, abs=0.2)
    assert max(gaps) == pytest.approx(LONGEST_S, abs=0.2)


def test_whoever_comes_back_when_told_finds_it_due_and_not_before() -> None:
    progress = Progress.begun(1000, 5.0)

    assert progress.due_in_s(5.0) == SOON_S
    assert progress.due_in_s(6.5) == SOON_S - 1.5
    assert progress.due_in_s(7.0) == progress.due_in_s(70.0) == 0
    assert progress.said(10, 7.5).due_in_s(8.5) == EVERY_S - 1


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
