"""Every moment of a step belongs to one stage, and none is lost or counted twice."""

from collections.abc import Iterator

import pytest

from rba_pipeline.core.stages import RequestSeconds, Stage
from rba_pipeline.resources.stopwatch import Stopwatch


class Clock:
    """Moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stopwatch(clock: Clock) -> Stopwatch:
    return Stopwatch("embeddings", clock)


def spent(stopwatch: Stopwatch, requests: RequestSeconds | None = None) -> dict[Stage, float]:
    """Return the stages that took any time."""
    times = stopwatch.times(requests)
    return {stage: seconds for stage, seconds in times.seconds.items() if seconds}


def test_a_moment_belongs_to_the_innermost_stage(clock: Clock, stopwatch: Stopwatch) -> None:
    clock.passes(1)
    with stopwatch.stage(Stage.WRITING):
        clock.passes(2)
        with stopwatch.stage(Stage.READING):
            clock.passes(4)
        clock.passes(8)
    clock.passes(16)

    assert spent(stopwatch) == {Stage.PREPARING: 17.0, Stage.WRITING: 10.0, Stage.READING: 4.0}


def test_a_stage_that_fails_ends(clock: Clock, stopwatch: Stopwatch) -> None:
    def fail() -> None:
        with stopwatch.stage(Stage.WRITING):
            clock.passes(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.passes(1)

    assert spent(stopwatch) == {Stage.PREPARING: 1.0, Stage.WRITING: 2.0}


def test_only_getting_the_items_counts_not_what_is_done_with_them(
    clock: Clock, stopwatch: Stopwatch
) -> None:
    def slowly() -> Iterator[int]:
        for item in range(3):
            clock.passes(2)
            yield item
        clock.passes(5)

    for _ in stopwatch.timed(Stage.READING, slowly()):
        clock.passes(1)

    assert spent(stopwatch) == {Stage.READING: 11.0, Stage.PREPARING: 3.0}


def test_what_is_done_while_all_requests_are_open_costs_nothing(
    clock: Clock, stopwatch: Stopwatch
) -> None:
    stopwatch.allow(2)
    with stopwatch.request(), stopwatch.request(), stopwatch.stage(Stage.READING):
        clock.passes(3)

    assert spent(stopwatch) == {Stage.WAITING: 3.0}


def test_with_half_of_the_requests_open_half_of_the_time_is_waited(
    clock: Clock, stopwatch: Stopwatch
) -> None:
    stopwatch.allow(2)
    with stopwatch.request(), stopwatch.stage(Stage.WRITING):
        clock.passes(4)
    with stopwatch.stage(Stage.WRITING):
        clock.passes(1)

    assert spent(stopwatch) == {Stage.WAITING: 2.0, Stage.WRITING: 3.0}


def test_more_requests_than_are_allowed_wait_no_longer_than_time_passes(
    clock: Clock, stopwatch: Stopwatch
) -> None:
    stopwatch.allow(2)
    with stopwatch.request(), stopwatch.request():
        stopwatch.allow(1)
        clock.passes(4)

    assert spent(stopwatch) == {Stage.WAITING: 4.0}


def test_waiting_is_divided_by_what_the_answers_say(clock: Clock, stopwatch: Stopwatch) -> None:
    with stopwatch.stage(Stage.WAITING):
        clock.passes(4)
    answers = RequestSeconds(exchanged=8.0, waited=2.0, computed=4.0, told=1)

    assert spent(stopwatch, answers) == {
        Stage.HTTP: 1.0, Stage.QUEUEING: 1.0, Stage.COMPUTING: 2.0,
    }  # fmt: skip


def test_all_stages_of_the_step_are_there_from_the_start(stopwatch: Stopwatch) -> None:
    times = stopwatch.times()

    assert times.asset == "embeddings"
    assert times.total == 0.0
    assert {Stage.PREPARING, Stage.HELD, Stage.COMPUTING} <= set(times.seconds)
