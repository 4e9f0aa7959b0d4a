"""How many requests are in flight: down when the service refuses, up again while it keeps up."""

from dataclasses import dataclass, replace

from rba_pipeline.core.presets import Bounds


@dataclass(frozen=True, slots=True)
class Pace:
    """The bounds in force now.

    Attributes:
        answers: Answers since the last change.
        unanswered: Requests sent before the last halving; what they met says nothing of it.
    """

    now: Bounds
    answers: int = 0
    unanswered: int = 0


def after_refusal(pace: Pace) -> Pace:
    """Return the pace after the service was full: half the requests, then half the texts.

    One wave of refusals halves once.
    """
    if pace.unanswered:
        return replace(pace, unanswered=pace.unanswered - 1)
    left = pace.now.parallel_batches - 1
    if pace.now.parallel_batches > 1:
        fewer = replace(pace.now, parallel_batches=pace.now.parallel_batches // 2)
        return Pace(fewer, unanswered=left)
    return Pace(replace(pace.now, batch_size=max(1, pace.now.batch_size // 2)), unanswered=left)


def after_answer(pace: Pace, upper: Bounds) -> Pace:
    """Return the pace after an answer: one step up, towards ``upper``, for every round of answers.

    Additive increase and halving on refusal keep a shared service stable (Chiu and Jain, 1989).
    """
    if pace.unanswered:
        return replace(pace, unanswered=pace.unanswered - 1)
    answers = pace.answers + 1
    if pace.now == upper or answers < pace.now.parallel_batches:
        return Pace(pace.now, answers)
    if pace.now.batch_size < upper.batch_size:
        return Pace(replace(pace.now, batch_size=min(upper.batch_size, pace.now.batch_size * 2)))
    return Pace(replace(pace.now, parallel_batches=pace.now.parallel_batches + 1))
