"""Down on refusal, up again within the bounds."""

from rba_pipeline.core.pacing import Pace, after_answer, after_refusal
from rba_pipeline.core.presets import Bounds

UPPER = Bounds(8, 4)


def test_waves_of_refusals_halve_requests_first_and_texts_last() -> None:
    pace = Pace(UPPER)
    seen = [pace.now]
    for _ in range(6):
        for _ in range(pace.now.parallel_batches):
            pace = after_refusal(pace)
        while pace.unanswered:
            pace = after_refusal(pace)
        seen.append(pace.now)

    assert seen == [
        Bounds(8, 4), Bounds(8, 2), Bounds(8, 1),
        Bounds(4, 1), Bounds(2, 1), Bounds(1, 1), Bounds(1, 1),
    ]  # fmt: skip


def test_the_requests_of_one_wave_halve_once() -> None:
    pace = Pace(UPPER)
    for _ in range(UPPER.parallel_batches):
        pace = after_refusal(pace)

    assert pace.now == Bounds(8, 2)


def test_answers_lead_back_to_the_upper_bound_and_never_beyond() -> None:
    pace = Pace(Bounds(1, 1))
    seen = [pace.now]
    for _ in range(40):
        pace = after_answer(pace, UPPER)
        seen.append(pace.now)

    assert seen[-1] == UPPER
    assert max(bounds.batch_size for bounds in seen) == 8
    assert max(bounds.parallel_batches for bounds in seen) == 4


def test_one_step_up_needs_a_whole_round_of_answers() -> None:
    pace = Pace(Bounds(8, 3))

    first, second = after_answer(pace, UPPER), after_answer(after_answer(pace, UPPER), UPPER)

    assert first.now == second.now == Bounds(8, 3)
    assert after_answer(second, UPPER).now == Bounds(8, 4)
