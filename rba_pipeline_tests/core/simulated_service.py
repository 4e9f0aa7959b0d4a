"""A service in simulated time: its speed depends on what is in flight, and changes as it is told.

Requests in flight share its speed by their texts, as texts in one line do.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rba_pipeline.core.answers import Answered
from rba_pipeline.core.backlog import BacklogSteps
from rba_pipeline.core.pacing import Pace, after_answer, after_refusal, for_backlog
from rba_pipeline.core.presets import Bounds

TOKENS_PER_TEXT = 100
# What a refused request waits before it comes again, in seconds.
RETRY_AFTER_S = 0.5

# Share of the full speed by texts and requests in flight, in (0, 1].
Shape = Callable[[int, int], float]


def saturates(texts: int, requests: int) -> float:
    """Rise with diminishing returns: at 12 texts half of the full speed."""
    return texts / (texts + 12)


def peaks(texts: int, requests: int) -> float:
    """Rise to 32 texts in flight, and fall to a quarter at 256."""
    ratio = texts / 32
    return 2 * ratio / (1 + ratio * ratio)


def falls_off_a_cliff(texts: int, requests: int) -> float:
    """Saturate to 64 texts in flight; with one more an eighth is left."""
    return saturates(texts, requests) * (1.0 if texts <= 64 else 0.125)


def contends(texts: int, requests: int) -> float:
    """Saturate in texts, and lose more and more beyond four requests."""
    return saturates(texts, requests) / (1 + 0.3 * max(0, requests - 4))


@dataclass(slots=True)
class _Request:
    texts: int
    left: float
    change: int
    sent_at_s: float


@dataclass(frozen=True, slots=True)
class Phase:
    """So many seconds at so many texts per second of full speed.

    Attributes:
        limit: Texts in flight beyond which requests are refused.
    """

    seconds: float
    texts_per_second: float
    limit: int = 1 << 30


@dataclass(slots=True)
class Outcome:
    """What was computed in each phase, in texts; and over all, in requests."""

    largest: Bounds = field(default_factory=lambda: Bounds(1, 1))
    texts: list[float] = field(default_factory=list)
    requests: int = 0
    refusals: int = 0


@dataclass(slots=True)
class SimulatedService:
    """A closed loop of one run and one service.

    Args:
        noise: Spread of the work of a text, as a share of it; seeded.
    """

    shape: Shape
    phases: Sequence[Phase]
    noise: float = 0.1
    seed: int = 1

    def run(self, pace: Pace, steps: BacklogSteps, backlog: int = 1 << 40) -> Outcome:
        """Keep the service as busy as ``pace`` allows through all phases."""
        chance, outcome = random.Random(self.seed), Outcome()
        now_s, held_until_s, in_flight = 0.0, 0.0, list[_Request]()
        for phase in self.phases:
            end_s, done = now_s + phase.seconds, 0
            while now_s < end_s:
                pace = for_backlog(pace, backlog, steps)
                while now_s >= held_until_s and len(in_flight) < pace.room:
                    outcome.requests += 1
                    outcome.largest = _larger(outcome.largest, pace.now)
                    texts = pace.now.batch_size
                    if sum(each.texts for each in in_flight) + texts > phase.limit:
                        outcome.refusals += 1
                        pace = after_refusal(pace, pace.change)
                        held_until_s = now_s + RETRY_AFTER_S
                        continue
                    work = texts * chance.uniform(1 - self.noise, 1 + self.noise)
                    in_flight.append(_Request(texts, work, pace.change, now_s))
                now_s, answered = self._next(
                    in_flight, phase, now_s, min(end_s, _soon(held_until_s, now_s))
                )
                if answered is None:
                    continue
                in_flight.remove(answered)
                done += answered.texts
                backlog -= answered.texts
                pace = after_answer(
                    pace,
                    Answered(
                        answered.change,
                        answered.sent_at_s,
                        now_s,
                        answered.texts,
                        answered.texts * TOKENS_PER_TEXT,
                    ),
                )
            outcome.texts.append(done)
        return outcome

    def answers(self, bounds: Bounds, seed: int = 1) -> list[Answered]:
        """Return the answers of a closed loop at one setting through all phases."""
        chance, found = random.Random(seed), list[Answered]()
        now_s, in_flight = 0.0, list[_Request]()
        for phase in self.phases:
            end_s = now_s + phase.seconds
            while now_s < end_s:
                while len(in_flight) < bounds.parallel_batches:
                    work = bounds.batch_size * chance.uniform(1 - self.noise, 1 + self.noise)
                    in_flight.append(_Request(bounds.batch_size, work, 0, now_s))
                now_s, answered = self._next(in_flight, phase, now_s, end_s)
                if answered is not None:
                    in_flight.remove(answered)
                    texts = answered.texts
                    found.append(
                        Answered(0, answered.sent_at_s, now_s, texts, texts * TOKENS_PER_TEXT)
                    )
        return found

    def _next(
        self, in_flight: list[_Request], phase: Phase, now_s: float, until_s: float
    ) -> tuple[float, _Request | None]:
        """Let the service work until the next answer, or ``until_s``."""
        texts = sum(each.texts for each in in_flight)
        if not texts:
            return until_s, None
        speed = phase.texts_per_second * self.shape(texts, len(in_flight))
        first = min(in_flight, key=lambda each: each.left / each.texts)
        takes_s = first.left / (speed * first.texts / texts)
        span_s = min(takes_s, until_s - now_s)
        for each in in_flight:
            each.left -= span_s * speed * each.texts / texts
        return now_s + span_s, first if takes_s <= until_s - now_s else None


def _larger(one: Bounds, other: Bounds) -> Bounds:
    return Bounds(
        max(one.batch_size, other.batch_size), max(one.parallel_batches, other.parallel_batches)
    )


def _soon(held_until_s: float, now_s: float) -> float:
    return held_until_s if held_until_s > now_s else float("inf")


def best_fixed(shape: Shape, upper: Bounds, limit: int = 1 << 30) -> float:
    """Return the largest share of the full speed that one setting within ``upper`` reaches."""
    return max(share for _, share in settings(shape, upper, limit))


def settings(shape: Shape, upper: Bounds, limit: int = 1 << 30) -> list[tuple[Bounds, float]]:
    """Return every setting in powers of two with its share of the full speed."""
    found = []
    for batch_size in (1, 2, 4, 8, 16, 32):
        for parallel in (1, 2, 4, 8, 16, 32, 64):
            bounds = Bounds(batch_size, parallel)
            fits = batch_size <= upper.batch_size and parallel <= upper.parallel_batches
            if fits and batch_size * parallel <= limit:
                found.append((bounds, shape(batch_size * parallel, parallel)))
    return found
