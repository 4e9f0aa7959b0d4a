"""Runs side by side: what they take from each other is found, and foretold."""

import pytest

from rba_pipeline.core.run_costs import PastRun, Way, earlier_rate, own_costs, run_costs
from rba_pipeline.core.side_by_side import Course, Load, SideBySide, courses, loads

NONE = (0.0, 0.0)


def course(begin: float, end: float, streaming: tuple[float, float] = NONE) -> Course:
    return Course((begin, end), (), streaming)


def past(begin: float, end: float, *, stream_s: float, waited_s: float = 0.0) -> PastRun:
    """Return a run that worked, waited for a place, and streamed 1,000 tokens until its end."""
    let_in = end - stream_s
    return PastRun(
        Way.PROCESSES,
        "a",
        Course((begin, end), ((let_in - waited_s, let_in),), (let_in, end)),
        cut_s=0.0,
        tokens=1000,
        publish_s=0.5,
        added=0,
    )


def predicted_s(runs: list[PastRun], count: int, beside: SideBySide) -> float:
    """Return the wall time of so many runs of 1,000 tokens each, learnt from ``runs``."""
    own = own_costs(runs, beside.cores)
    rate = earlier_rate(own, "a")
    costs = run_costs(own, way=Way.PROCESSES, beside=beside, rate=rate, origin="")
    load = costs.load(cut_s=0.0, tokens=1000, added=0)
    assert load is not None
    return max(end for _, end in courses([load] * count, beside, costs.between_s))


def test_what_the_others_took_is_left_out() -> None:
    four = [course(0, 24)] * 4
    apart = [course(0, 12), course(20, 32)]
    streams = [course(0, 14, (10, 14)), course(0, 14, (10, 14))]

    assert loads(four, cores=2) == [Load(pytest.approx(12.0), 0.0)] * 4
    assert loads(four, cores=8) == [Load(pytest.approx(24.0), 0.0)] * 4
    assert loads(apart, cores=1) == [Load(pytest.approx(12.0), 0.0)] * 2
    assert loads(streams, cores=2) == [Load(pytest.approx(10.0), pytest.approx(2.0))] * 2


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param(((10.0, 30.0),), id="for-a-place"),
        pytest.param(((10.0, 15.0), (15.0, 15.0), (15.0, 30.0)), id="for-a-place-and-for-others"),
    ],
)
def test_a_wait_is_no_cost_and_slows_nobody(waiting: tuple[tuple[float, float], ...]) -> None:
    waits = Course((0.0, 40.0), waiting, NONE)
    beside = course(10, 30)

    assert loads([waits, beside], cores=1) == [Load(pytest.approx(20.0), 0.0)] * 2


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        pytest.param(SideBySide(1, 1, 2), [(0, 12), (13, 25), (26, 38)], id="in-turn"),
        pytest.param(SideBySide(2, 2, 8), [(0, 12), (0, 12), (13, 25)], id="two"),
        pytest.param(SideBySide(None, 2, 2), [(0, 18), (0, 18), (0, 18)], id="few-cores"),
        pytest.param(SideBySide(None, 2, 8), [(0, 12), (0, 12), (0, 12)], id="all"),
    ],
)
def test_runs_begin_when_they_may_and_share_the_cores(
    beside: SideBySide, expected: list[tuple[float, float]]
) -> None:
    found = courses([Load(12.0, 0.0)] * 3, beside, between_s=1.0)

    assert [each for span in found for each in span] == pytest.approx(
        [each for span in expected for each in span]
    )


def test_streams_share_the_service_and_wait_for_a_place() -> None:
    runs = [Load(2.0, 10.0)] * 3

    both = courses(runs, SideBySide(3, 2, 8), between_s=0.0)
    one = courses(runs, SideBySide(3, 1, 8), between_s=0.0)

    # However many stream at once, the service takes 30 s for all.
    assert [end for _, end in both] == pytest.approx([22, 22, 32])
    assert [end for _, end in one] == pytest.approx([12, 22, 32])
    assert courses([Load(0.0, 0.0)] * 2, SideBySide(1, 1, 1), between_s=0.0) == [NONE, NONE]
    assert courses([], SideBySide(1, 1, 1), between_s=0.0) == []


# On two cores a run works for 12 s, and the service takes 3 s for its texts.
IN_TURN = [past(n * 16.0, n * 16.0 + 15, stream_s=3) for n in range(8)]
# Four times 12 s on two cores, then two of them stream for 6 s while the others wait.
FOUR = [
    past(at, at + (30 if first else 36), stream_s=6, waited_s=0 if first else 6)
    for at in (0.0, 37.0)
    for first in (True, True, False, False)
]
# Eight on sixteen cores do not slow each other down but at the service.
WIDE = [past(at, at + 15, stream_s=3) for at in (0.0, 15.0, 30.0, 45.0)]


@pytest.mark.parametrize("history", [IN_TURN, FOUR, IN_TURN + FOUR], ids=["turn", "four", "both"])
def test_a_history_in_turn_and_one_side_by_side_foretell_both(history: list[PastRun]) -> None:
    # Apart, if both are told.
    runs = [run if run in IN_TURN else past_later(run) for run in history]
    runs.reverse()

    assert predicted_s(runs, 8, SideBySide(1, 1, 2)) == pytest.approx(8 * 15 + 7, rel=0.1)
    assert predicted_s(runs, 8, SideBySide(4, 2, 2)) == pytest.approx(2 * 36 + 1, rel=0.1)


def past_later(run: PastRun) -> PastRun:
    (begin, end), [(asked, let_in)] = run.course.run, run.course.waiting
    return past(begin + 1e6, end + 1e6, stream_s=end - let_in, waited_s=let_in - asked)


def test_on_many_cores_runs_side_by_side_take_as_long_as_one() -> None:
    assert predicted_s(WIDE[::-1], 4, SideBySide(4, 4, 16)) == pytest.approx(12 + 4 * 3, rel=0.1)
