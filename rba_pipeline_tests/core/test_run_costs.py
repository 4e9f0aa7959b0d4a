"""What a run costs, learnt from the runs before."""

import pytest

from rba_pipeline.core.run_costs import (
    OwnCost,
    PastRun,
    RunCosts,
    Way,
    earlier_rate,
    own_costs,
    run_costs,
    trusted_rate,
)
from rba_pipeline.core.side_by_side import Course, Load, SideBySide

ONE = SideBySide(1, 1, 2)


def past(
    seconds: float = 10.0,
    *,
    way: Way = Way.PROCESSES,
    space: str = "a",
    stream_s: float = 0.0,
    tokens: int = 0,
    publish_s: float = 0.5,
    added: int = 0,
    launched: float = 0.0,
) -> OwnCost:
    return OwnCost(
        way=way,
        space=space,
        launched=launched,
        ended=launched + seconds,
        work_s=seconds - stream_s,
        cut_s=1.0,
        stream_s=stream_s,
        tokens=tokens,
        publish_s=publish_s,
        added=added,
    )


def costs_of(*runs: OwnCost, way: Way = Way.PROCESSES) -> RunCosts:
    return run_costs(runs, way=way, beside=ONE, rate=100.0, origin="told")


def test_a_run_itself_is_what_is_left_of_earlier_ones_launched_alike() -> None:
    odd = past(99.0)
    busy = past(70.0, stream_s=50.0, publish_s=4.5, added=4000)
    other = past(2.0, way=Way.ONE_PROCESS)

    costs = costs_of(odd, busy, past(11.0), other)

    # A chunk costs 1 ms: the line through (0, 0.5) and (4000, 4.5).
    assert costs.chunk_s == pytest.approx(0.001, rel=0.05)
    assert costs.run_s == pytest.approx(70 - 1 - 50 - 4, rel=0.02)
    assert costs.run_from == "median of 3 earlier runs"
    assert costs_of(odd, other, way=Way.ONE_PROCESS).run_s == pytest.approx(1.0)


@pytest.mark.parametrize("publish_s", [(0.40, 0.47, 0.54), (0.54, 0.47, 0.40), (0.1, 9.0, 0.1)])
def test_runs_that_added_few_chunks_say_nothing_of_the_cost_of_one(
    publish_s: tuple[float, ...],
) -> None:
    runs = [past(publish_s=each, added=8 + n) for n, each in enumerate(publish_s)]

    costs = costs_of(*runs)

    # A line through them would have 3,064 chunks take 214 s, or nothing.
    (few, many) = (costs.load(cut_s=0.0, tokens=0, added=added) for added in (0, 3064))
    assert few is not None
    assert many is not None
    assert many.work_s - few.work_s == pytest.approx(3064 * 0.0005, rel=0.01)
    assert costs.run_s == pytest.approx(9.0, rel=0.01)


def test_publishing_faster_than_usual_does_not_make_a_run_cost_nothing() -> None:
    fast = past(1.5, publish_s=0.2, added=3000, way=Way.ONE_PROCESS)

    costs = costs_of(fast, way=Way.ONE_PROCESS)

    assert costs.run_s == pytest.approx(1.5 - 1 - 0.2)


def test_a_run_that_was_slowed_down_is_learnt_from_as_if_it_were_alone() -> None:
    course = Course((0.0, 40.0), (), (20.0, 40.0))
    run = PastRun(Way.PROCESSES, "a", course, cut_s=4.0, tokens=300, publish_s=8.0, added=8)

    (alone,) = own_costs([run], cores=1)
    first, second = own_costs([run, run], cores=1)

    assert (alone.work_s, alone.stream_s, alone.cut_s, alone.publish_s) == (20, 20, 4, 8)
    assert first == second
    assert (first.work_s, first.stream_s, first.cut_s, first.publish_s) == (10, 10, 2, 4)


def test_what_passes_between_one_run_and_the_next_is_a_part_of_its_cost() -> None:
    after_a_pause = past(launched=1000.0)
    third, second, first = past(launched=24.0), past(launched=12.0), past(launched=0.0)
    beside = past(launched=8.0)

    assert costs_of(after_a_pause, third, second, first).between_s == pytest.approx(2.0)
    # From the end of the run whose place it took.
    assert costs_of(third, beside, first).between_s == pytest.approx(6.0)
    assert costs_of(third).between_s == 0.0


def test_without_earlier_runs_it_is_the_usual_one_and_says_so() -> None:
    costs = costs_of(past(way=Way.ONE_PROCESS))

    assert costs.run_s == 20.0
    assert costs.run_from == "no earlier run: as usual"
    assert 0 < costs.chunk_s < 0.01


def test_a_prediction_adds_up_what_there_is_to_do() -> None:
    costs = RunCosts(Way.PROCESSES, ONE, 10.0, 1.0, "", 0.5, 100.0, "")
    unknown = RunCosts(Way.PROCESSES, ONE, 10.0, 0.0, "", 0.5, None, "")

    assert costs.load(cut_s=2.0, tokens=500, added=4) == Load(10 + 2 + 2, 5)
    assert unknown.load(cut_s=0.0, tokens=0, added=0) == Load(10.0, 0.0)
    assert unknown.load(cut_s=0.0, tokens=1, added=0) is None


def test_the_earlier_rate_is_that_of_the_latest_runs_in_the_same_space() -> None:
    latest = past(stream_s=50.0, tokens=5000)
    old = past(stream_s=50.0, tokens=500)
    ancient = past(stream_s=10.0, tokens=10**9)

    assert earlier_rate([past(), latest, old, ancient], "a") == 55.0
    assert earlier_rate([latest], "b") == 0.0
    assert earlier_rate([], "a") == 0.0


@pytest.mark.parametrize(
    ("earlier", "engine", "expected"),
    [
        pytest.param(100, 150, (100, "of earlier runs"), id="both-alike"),
        pytest.param(100, 0, (100, "of earlier runs"), id="only-runs"),
        pytest.param(0, 150, (150, "measured by the service"), id="only-service"),
        pytest.param(100, 201, None, id="service-is-faster-now"),
        pytest.param(100, 49, None, id="service-is-slower-now"),
        pytest.param(0, 0, None, id="neither"),
    ],
)
def test_a_rate_is_trusted_or_to_be_measured(
    earlier: float, engine: float, expected: tuple[float, str] | None
) -> None:
    assert trusted_rate(earlier, engine) == expected
