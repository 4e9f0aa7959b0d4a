"""The pace that a service is fastest at, found in simulated time, and what each event does."""

import pytest

from rba_pipeline.core.answers import Answered
from rba_pipeline.core.backlog import USUAL_STEPS, BacklogSteps
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.pacing import (
    Pace,
    after_answer,
    after_failure,
    after_refusal,
    after_timeout,
    for_backlog,
    started,
    within,
)
from rba_pipeline.core.presets import Bounds
from rba_pipeline_tests.core.simulated_service import (
    Phase,
    Shape,
    SimulatedService,
    best_fixed,
    contends,
    falls_off_a_cliff,
    peaks,
    saturates,
    settings,
)

STEPS = BacklogSteps.read(USUAL_STEPS)
UPPER = Bounds(32, 8)
SHAPES = [saturates, peaks, falls_off_a_cliff, contends]
SPEED = 100.0


def pace_of(upper: Bounds = UPPER, backlog: int = 10**6, timeout_s: float = 240) -> Pace:
    return started(upper, timeout_s=timeout_s, backlog=backlog, steps=STEPS)


def answers(pace: Pace, rate: float, count: int, at_s: float = 0.0) -> tuple[Pace, float]:
    """Let ``count`` answers arrive, evenly, at ``rate`` texts per second; return pace and time."""
    for _ in range(count):
        texts = pace.now.batch_size
        at_s += texts / rate
        sent_at_s = at_s - texts * pace.now.parallel_batches / rate
        pace = after_answer(pace, Answered(pace.change, sent_at_s, at_s, texts, 100 * texts))
    return pace, at_s


@pytest.mark.parametrize(
    "upper", [UPPER, pytest.param(Bounds(32, 64), marks=pytest.mark.long)], ids=str
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "factors", [(1, 4, 1, 0.25), (1, 0.25, 1, 4), (4, 1, 0.25, 1)], ids=lambda factors: str(factors)
)
@pytest.mark.parametrize("limit", [None, 64], ids=["admits-all", "refuses"])
@pytest.mark.parametrize(
    ("speed", "seconds", "share"), [(SPEED, 300, 0.9), (10, 1000, 0.85)], ids=["fast", "slow"]
)
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 21))]
)
def test_nine_tenths_of_the_best_fixed_setting_whatever_the_service_and_its_changes(
    upper: Bounds, shape: Shape, factors: tuple[float, ...], limit: int | None, seed: int,
    speed: float, seconds: float, share: float,
) -> None:  # fmt: skip
    """Of phases of 15,000 texts or more. Where they are of a third as many, it may be a little less
    of one, and with still fewer a search does not pay: the README says so.
    """
    phases = [
        Phase(seconds / factor**0.5, speed * factor, int(limit * factor) if limit else 1 << 30)
        for factor in factors
    ]

    # What a service admits grows with its speed.
    found = SimulatedService(shape, phases, seed=seed).run(pace_of(upper), STEPS)

    for phase, texts in zip(phases, found.texts, strict=True):
        best = phase.texts_per_second * best_fixed(shape, upper, phase.limit)
        assert texts / phase.seconds >= share * best
    assert found.refusals < 0.02 * found.requests


@pytest.mark.parametrize("shape", SHAPES)
def test_the_simulated_services_tell_settings_apart(shape: Shape) -> None:
    shares = [share for _, share in settings(shape, UPPER)]

    assert min(shares) <= 0.5 * max(shares)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_setting_is_beyond_the_launch_values(shape: Shape) -> None:
    upper = Bounds(6, 3)

    found = SimulatedService(shape, [Phase(600, SPEED)]).run(pace_of(upper), STEPS)

    assert found.largest.batch_size <= 6
    assert found.largest.parallel_batches <= 3


def test_a_run_begins_with_the_batch_size_of_its_backlog_and_two_requests() -> None:
    begun = {backlog: pace_of(backlog=backlog).now for backlog in (1, 100, 101, 1000, 1001)}

    assert begun == {
        1: Bounds(8, 2), 100: Bounds(8, 2), 101: Bounds(16, 2), 1000: Bounds(16, 2),
        1001: Bounds(32, 2),
    }  # fmt: skip


def test_the_launch_values_bound_the_beginning_too() -> None:
    assert pace_of(Bounds(4, 1)).now == Bounds(4, 1)


def test_when_little_is_left_requests_get_smaller_and_more() -> None:
    pace = for_backlog(pace_of(Bounds(32, 8), backlog=5000), 900, STEPS)
    later = for_backlog(pace, 60, STEPS)

    assert (pace.now, later.now) == (Bounds(16, 4), Bounds(8, 8))


def test_no_more_texts_are_tried_than_the_service_takes_from_now_on() -> None:
    bounded = within(pace_of(Bounds(32, 8), backlog=5000), 12, "less is taken")
    small = within(pace_of(Bounds(32, 8), backlog=50), 12, "less is taken")

    # As many texts in flight as before.
    assert (bounded.now, bounded.upper, bounded.why) == (
        Bounds(12, 5),
        Bounds(12, 8),
        "less is taken",
    )
    assert (small.now, small.upper, small.change) == (Bounds(8, 2), Bounds(12, 8), 0)
    assert within(bounded, 32, "more is taken") == bounded


def test_more_requests_are_kept_if_they_are_faster() -> None:
    pace, at_s = answers(pace_of(), 50, 9)
    assert pace.now == Bounds(32, 4)

    faster, _ = answers(pace, 80, 17, at_s)

    assert faster.now == Bounds(32, 8)


def test_more_requests_are_let_in_one_by_one_as_long_as_answers_keep_up() -> None:
    pace, at_s = answers(pace_of(), 50, 9)
    slower, _ = answers(pace, 10, 1, at_s)
    as_fast, _ = answers(pace, 50, 1, at_s)

    assert (pace.now, pace.room) == (Bounds(32, 4), 3)
    assert (slower.room, as_fast.room) == (3, 4)


@pytest.mark.parametrize(
    ("rate", "measured"),
    [pytest.param(49, 16, id="no-faster"), pytest.param(51, 32, id="a-little-faster-seen-twice")],
)
def test_more_requests_are_given_up_if_they_are_no_faster(rate: float, measured: int) -> None:
    pace, at_s = answers(pace_of(), 50, 9)

    # One lets the fourth request in, and at the next the window opens.
    still, at_s = answers(pace, rate, 1 + 1 + measured - 1, at_s)
    back, _ = answers(still, rate, 1, at_s)

    assert still.now == Bounds(32, 4)
    assert back.now == Bounds(32, 2)
    assert back.why == "more requests: no gain"


def test_a_trial_in_which_many_requests_fail_is_given_up() -> None:
    pace, at_s = answers(pace_of(), 50, 9)
    few, at_s = answers(pace, 50, 8, at_s)
    for _ in range(3):
        pace = after_failure(pace, pace.change, at_s, pauses=False)
        few = after_failure(few, few.change, at_s, pauses=False)
    stale = after_failure(few, few.change - 1, at_s, pauses=False)

    assert (pace.now, pace.why) == (Bounds(32, 2), "more requests: failing")
    assert few.now == stale.now == Bounds(32, 4)
    assert after_failure(stale, stale.change, at_s, pauses=False).now == Bounds(32, 2)


def test_the_pause_after_a_failure_is_no_slowness_and_what_was_measured_stays() -> None:
    pace, at_s = answers(pace_of(), 50, 5)
    pace = after_failure(pace, pace.change, at_s, pauses=True)
    # Sent before it failed, and answered in the pause.
    late = after_answer(pace, Answered(pace.change, at_s - 1, at_s + 9, 32, 3200))

    # From the first on, which comes after a minute, the clock runs again.
    on, _ = answers(late, 50, 5, at_s + 60)

    assert late.now == Bounds(32, 2)
    assert on.now == Bounds(32, 4)
    assert on.rate == pytest.approx(5000)


def test_refusals_outside_of_a_trial_do_not_add_up() -> None:
    pace, at_s, tried = pace_of(Bounds(8, 4)), 0.0, set[str]()
    for _ in range(10):
        pace = after_refusal(pace, pace.change)
    refused = pace.now
    # Nine windows of eight answers.
    for _ in range(9 * 8 + 1):
        pace, at_s = answers(pace, 20, 1, at_s)
        tried.add(pace.why)

    assert refused == Bounds(1, 1)
    assert "more requests" in tried


def test_a_setting_that_is_much_slower_is_left_before_its_window_is_full() -> None:
    pace, at_s = answers(pace_of(), 50, 9)

    back, _ = answers(pace, 5, 4, at_s)

    assert (back.now, back.why) == (Bounds(32, 2), "more requests: much slower")


def test_a_wave_of_refusals_halves_once() -> None:
    pace = pace_of(Bounds(8, 4))
    wave = pace.change
    for _ in range(4):
        pace = after_refusal(pace, wave)

    assert pace.now == Bounds(8, 1)


def test_refusals_lead_down_to_one_text_in_one_request_and_no_further() -> None:
    pace, seen = pace_of(Bounds(8, 4)), []
    for _ in range(6):
        pace = after_refusal(pace, pace.change)
        seen.append(pace.now)

    assert seen == [
        Bounds(8, 1), Bounds(4, 1), Bounds(2, 1), Bounds(1, 1), Bounds(1, 1), Bounds(1, 1)
    ]  # fmt: skip


def test_a_time_out_counts_unless_others_are_answered_promptly() -> None:
    pace, timeout_s = pace_of(Bounds(8, 4)), pace_of().timeout_s
    late = Answered(pace.change, 0, timeout_s / 2, 8, 800)
    prompt = Answered(pace.change, 0, timeout_s / 8, 8, 800)

    hung = after_timeout(after_answer(pace, prompt), pace.change)

    assert after_timeout(pace, pace.change).now == Bounds(8, 1)
    assert after_timeout(after_answer(pace, late), pace.change).now == Bounds(8, 1)
    assert hung.now == pace.now == Bounds(8, 2)
    assert after_timeout(hung, hung.change).now == Bounds(8, 1)


def test_a_trial_that_is_refused_leads_back_to_the_best_setting() -> None:
    pace, _ = answers(pace_of(), 50, 9)

    assert after_refusal(pace, pace.change).now == Bounds(32, 2)


def test_answers_of_an_earlier_setting_do_not_count() -> None:
    pace, at_s = answers(pace_of(), 50, 9)
    stale = Answered(pace.change - 1, at_s, at_s + 1, 32, 3200)

    for _ in range(40):
        pace = after_answer(pace, stale)

    assert pace.now == Bounds(32, 4)


def test_no_more_is_tried_where_an_answer_would_come_near_its_time_out() -> None:
    # Two requests of 32 at 3 texts per second: 21 s each, with four 43 s; a quarter is allowed.
    patient, _ = answers(pace_of(timeout_s=240), 3, 9)
    hurried, _ = answers(pace_of(timeout_s=60), 3, 9)

    assert (patient.now, hurried.now) == (Bounds(32, 4), Bounds(32, 1))


@pytest.mark.parametrize(
    "text", ["", "8", "0:8,x:16", "10:8", "0:8,0:16", "100:16,0:8", "0:0", "0:8:9"]
)
def test_steps_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(BadSetting):
        BacklogSteps.read(text)
