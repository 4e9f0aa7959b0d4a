"""Every stage has its level, and waiting is divided without losing or finding time."""

import pytest

from rba_pipeline.core.stages import (
    ABOUT,
    STAGES_OF,
    Level,
    RequestSeconds,
    Stage,
    StepTimes,
    divided,
)

ANSWERS = RequestSeconds(exchanged=16.0, waited=8.0, computed=4.0, decoded=4.0, told=9)


def test_every_stage_has_a_level_and_belongs_to_a_step() -> None:
    assert set(ABOUT) == set(Stage)
    assert set().union(*STAGES_OF.values()) == set(Stage)
    assert {about.level for about in ABOUT.values()} == set(Level)


def test_waiting_is_divided_as_the_requests_that_overlap_were() -> None:
    seconds = divided({Stage.READING: 1.0, Stage.WAITING: 5.0, Stage.DECODING: 0.5}, ANSWERS)

    assert seconds == {
        Stage.READING: 1.0,
        Stage.WAITING: 0.0,
        Stage.HTTP: 1.0,
        Stage.QUEUEING: 2.0,
        Stage.COMPUTING: 1.0,
        Stage.DECODING: 1.5,
    }


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(RequestSeconds(), id="nobody-said-what-it-did"),
        pytest.param(RequestSeconds(told=3), id="answers-took-no-time"),
    ],
)
def test_waiting_that_nobody_explains_stays_whole(answers: RequestSeconds) -> None:
    assert divided({Stage.WAITING: 5.0}, answers) == {Stage.WAITING: 5.0}


def test_a_service_whose_clock_runs_fast_takes_no_more_than_the_exchange() -> None:
    seconds = RequestSeconds(exchanged=3.0, waited=4.0, computed=2.0, told=1).by_stage()

    assert seconds == {
        Stage.HTTP: 0.0, Stage.QUEUEING: 2.0, Stage.COMPUTING: 1.0, Stage.DECODING: 0.0,
    }  # fmt: skip


def test_answers_add_up() -> None:
    both = ANSWERS + RequestSeconds(exchanged=1.0, waited=0.5, computed=0.25, decoded=2.0, told=1)

    assert both == RequestSeconds(17.0, 8.5, 4.25, 6.0, told=10)
    assert both.total == 23.0


def test_a_level_is_the_sum_of_its_stages() -> None:
    times = StepTimes(
        "chunks", {Stage.READING: 1.0, Stage.CUTTING: 2.0, Stage.WRITING: 4.0, Stage.HTTP: 8.0}
    )

    found = [times.at(level) for level in Level]
    assert found == [2.0, 8.0, 0.0, 5.0, 0.0, 0.0]
    assert times.total == 15.0
