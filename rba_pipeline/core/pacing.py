"""How many texts per request and requests in flight: the pace that a service is fastest at.

Hill climbing on measured throughput. One setting at a time is tried against the best one known,
each over some rounds of requests: more of something is kept if it is faster, less of something if
it is no slower. A refusal counts as too much, whatever the throughput; so does a time-out, but for
one amid prompt answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from rba_pipeline.core.backlog import BacklogSteps
from rba_pipeline.core.presets import Bounds

# A window of measurement: so many rounds of requests, so many answers, so many seconds at least.
# Whole rounds, because answers of requests that left together come back together.
ROUNDS, ANSWERS, WINDOW_S = 4, 8, 0.25
# Below the first, more is not worth what it costs in latency and in work lost by a kill; beyond the
# second, the service itself has changed and what was known of it is forgotten.
GAIN, SHIFT = 1.04, 1.25
# Windows until a move that did not help is tried again, doubled each time up to the second.
PAUSE, LONGEST_PAUSE = 8, 256
# A move that made everything much slower counts as so many that only did not help.
PAINFUL = 5
# A trial that is so much slower than the best is ended before its window is full.
HOPELESS = 1.5
# Requests wait so long at most, as a share of their time-out: beyond, noise alone makes some fail.
LATENCY_SHARE = 0.25
FIRST_PARALLEL = 2


class Move(StrEnum):
    """One step away from the present setting: twice as many of something, or half as many."""

    MORE_REQUESTS = "more requests"
    MORE_TEXTS = "more texts"
    FEWER_REQUESTS = "fewer requests"
    FEWER_TEXTS = "fewer texts"


_OPPOSITE = {
    Move.MORE_REQUESTS: Move.FEWER_REQUESTS,
    Move.FEWER_REQUESTS: Move.MORE_REQUESTS,
    Move.MORE_TEXTS: Move.FEWER_TEXTS,
    Move.FEWER_TEXTS: Move.MORE_TEXTS,
}
_MORE = (Move.MORE_REQUESTS, Move.MORE_TEXTS)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as the pace sees it; times in seconds on one monotonic clock.

    Attributes:
        change: ``Pace.change`` at the moment when the request was sent.
    """

    change: int
    sent_at_s: float
    at_s: float
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Window:
    """What was answered since ``since_s``."""

    since_s: float
    answers: int = 0
    texts: int = 0
    tokens: int = 0
    latency_s: float = 0.0

    def plus(self, answer: Answered) -> "_Window":
        return _Window(
            self.since_s,
            self.answers + 1,
            self.texts + answer.texts,
            # A service that counts no tokens is measured in texts.
            self.tokens + max(answer.tokens, answer.texts),
            self.latency_s + answer.at_s - answer.sent_at_s,
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """The setting in force, the best one known, and what was learned on the way.

    Attributes:
        upper: The launch values: never exceeded.
        timeout_s: The time-out of one request, in seconds.
        now: The setting in force.
        change: How often it has changed: requests carry it, so that answers to older settings do
            not count for this one.
        why: The reason of the last change, for people.
        rate: Tokens per second of the best setting; 0 while unknown.
    """

    upper: Bounds
    timeout_s: float
    now: Bounds
    _best: Bounds
    change: int = 0
    why: str = "start"
    rate: float = 0.0
    _trial: Move | None = None
    _window: _Window | None = None
    _since_change: _Window | None = None
    _windows: int = 0
    _shifted: int = 0
    _latency_s: float = 0.0
    _was_prompt: bool = False
    _due: Mapping[Move, int] = field(default_factory=lambda: MappingProxyType({}))
    _failures: Mapping[Move, int] = field(default_factory=lambda: MappingProxyType({}))


def started(
    upper: Bounds,
    *,
    timeout_s: float,
    backlog: int,
    steps: BacklogSteps,
    parallel: int = FIRST_PARALLEL,
) -> Pace:
    """Return the pace that a run begins with: the backlog's batch size, ``parallel`` requests."""
    batch_size = min(upper.batch_size, steps.size(backlog))
    now = Bounds(batch_size, min(upper.parallel_batches, parallel))
    return Pace(upper, timeout_s, now, now)


def fixed(bounds: Bounds, *, timeout_s: float) -> Pace:
    """Return a pace at ``bounds``; it stays there as long as it is told of nothing."""
    return Pace(bounds, timeout_s, bounds, bounds)


def after_answer(pace: Pace, answer: Answered) -> Pace:
    """Return the pace after an answer came."""
    is_prompt = answer.at_s - answer.sent_at_s <= LATENCY_SHARE * pace.timeout_s
    since_change = _opened(pace._since_change, answer)
    pace = replace(pace, _since_change=since_change, _was_prompt=is_prompt)
    if _is_hopeless(pace, answer.at_s):
        return _given_up(pace, painful=True)
    if answer.change != pace.change:
        # As long as requests of another setting are in flight, it is theirs that is measured.
        return replace(pace, _window=None)
    if pace._window is None:
        return replace(pace, _window=_Window(answer.at_s))
    window = pace._window.plus(answer)
    rate = window.tokens / max(answer.at_s - window.since_s, 1e-9)
    if not _is_full(pace, window, answer.at_s, rate):
        return replace(pace, _window=window)
    latency_s = window.latency_s / window.answers
    measured = replace(pace, _window=None, _windows=pace._windows + 1, _latency_s=latency_s)
    return _judged(measured, rate)


def _opened(window: _Window | None, answer: Answered) -> _Window:
    return (window or _Window(answer.at_s)).plus(answer)


def _is_full(pace: Pace, window: _Window, at_s: float, rate: float) -> bool:
    """Return whether ``window`` is enough to judge by: whole rounds, and fewer for a clear gain."""
    clear = pace._trial is not None and rate > SHIFT * pace.rate
    rounds = ROUNDS // 2 if clear else ROUNDS
    asked = max(ANSWERS, rounds * pace.now.parallel_batches)
    whole = window.answers % pace.now.parallel_batches == 0
    return whole and window.answers >= asked and at_s - window.since_s >= WINDOW_S


def _is_hopeless(pace: Pace, at_s: float) -> bool:
    """Return whether a trial is so slow that nothing more has to be seen of it."""
    since = pace._since_change
    if pace._trial is None or since is None:
        return False
    elapsed_s = at_s - since.since_s
    in_flight = pace.now.batch_size * pace.now.parallel_batches * since.tokens / since.texts
    # Two rounds at the best speed: within one, answers may still come in waves.
    patience_s = max(WINDOW_S, 2 * in_flight / pace.rate)
    return elapsed_s > patience_s and since.tokens / elapsed_s * HOPELESS < pace.rate


def interrupted(pace: Pace) -> Pace:
    """Return the pace after a failure, whose pause would be taken for slowness: measure anew."""
    return replace(pace, _window=None, _since_change=None)


def after_timeout(pace: Pace, change: int) -> Pace:
    """Return the pace after a request timed out: less of everything, as after a refusal.

    But one that hangs while others are answered promptly says nothing of the pace.

    Args:
        change: As for ``after_refusal``.
    """
    if pace._was_prompt:
        return replace(pace, _was_prompt=False)
    return after_refusal(pace, change)


def after_refusal(pace: Pace, change: int) -> Pace:
    """Return the pace after a request was refused: less of everything.

    Args:
        change: ``Pace.change`` at the moment when the request was sent: the requests of one wave
            count once.
    """
    if change != pace.change:
        return pace
    if pace._trial in _MORE:
        return replace(_given_up(pace, painful=True), why="refused")
    fewer = _moved(pace, Move.FEWER_REQUESTS) or _moved(pace, Move.FEWER_TEXTS) or pace.now
    # How fast the service is with less is not known: the next window says it.
    less = replace(_changed(pace, fewer, "refused"), rate=0.0, _trial=None, _best=fewer)
    for move in _MORE:
        less = _postponed(less, move, 2)
    return less


def for_backlog(pace: Pace, backlog: int, steps: BacklogSteps) -> Pace:
    """Return the pace for what is left: smaller requests, and as many texts in flight as before."""
    size = steps.size(backlog)
    if steps.is_largest(size) or pace.now.batch_size <= size:
        return pace
    parallel = pace.now.parallel_batches * pace.now.batch_size // size
    now = Bounds(size, max(1, min(pace.upper.parallel_batches, parallel)))
    upper = replace(pace.upper, batch_size=size)
    changed = _changed(replace(pace, upper=upper), now, "little is left")
    return replace(changed, _best=now, _trial=None)


def _judged(pace: Pace, rate: float) -> Pace:
    """Return the pace after a full window under the present setting."""
    if pace._trial is not None:
        wanted = pace.rate * (GAIN if pace._trial in _MORE else 1.0)
        return _kept(pace, pace._trial, rate) if rate >= wanted else _given_up(pace)
    if not pace.rate:
        return _tried(replace(pace, rate=rate))
    if 1 / SHIFT < rate / pace.rate < SHIFT:
        return _tried(replace(pace, rate=(pace.rate + rate) / 2, _shifted=0))
    if not pace._shifted:
        return replace(pace, _shifted=1)
    return _tried(_forgetful(pace, rate))


def _forgetful(pace: Pace, rate: float) -> Pace:
    """Return the pace for a service that became another: every move may help now.

    What hurt before is tried again soon if the service became faster, and as planned if slower.
    """
    hurt = {move for move, failures in pace._failures.items() if failures >= PAINFUL}
    soon = pace._windows + PAUSE if rate > pace.rate else LONGEST_PAUSE + pace._windows
    due = {move: min(pace._due[move], soon) for move in hurt}
    return replace(
        pace, rate=rate, _shifted=0, _due=MappingProxyType(due),
        _failures=MappingProxyType(dict.fromkeys(hurt, PAINFUL)),
    )  # fmt: skip


def _tried(pace: Pace) -> Pace:
    """Return the pace with the first move that is due and allowed, or as it is."""
    # With twice as much in flight, an answer may take twice as long.
    more_is_safe = 2 * pace._latency_s <= LATENCY_SHARE * pace.timeout_s
    for move in Move:
        to = _moved(pace, move)
        due = pace._due.get(move, 0) <= pace._windows
        if to is not None and due and (more_is_safe or move not in _MORE):
            return replace(_changed(pace, to, str(move)), _trial=move)
    return pace


def _kept(pace: Pace, trial: Move, rate: float) -> Pace:
    """Return the pace after a trial that helped; the same move is the next one tried."""
    # The way back was just measured to be worse.
    due = {**pace._due, trial: 0, _OPPOSITE[trial]: pace._windows + PAUSE}
    kept = replace(
        pace, rate=rate, _best=pace.now, _trial=None, _due=MappingProxyType(due),
        _failures=MappingProxyType({**pace._failures, trial: 0}),
    )  # fmt: skip
    return _tried(kept)


def _given_up(pace: Pace, *, painful: bool = False) -> Pace:
    """Return the pace back at the best setting after a trial that did not help."""
    if pace._trial is None:
        raise RuntimeError("no trial is given up: this is a bug in pacing")
    back = _changed(pace, pace._best, f"{pace._trial}: {'much slower' if painful else 'no gain'}")
    return _postponed(replace(back, _trial=None), pace._trial, PAINFUL if painful else 1)


def _postponed(pace: Pace, move: Move, failures: int) -> Pace:
    """Return the pace with ``move`` put off, the longer the more often it failed."""
    failed = min(pace._failures.get(move, 0) + failures, 16)
    pause = min(LONGEST_PAUSE, PAUSE * 2 ** (failed - 1))
    return replace(
        pace,
        _due=MappingProxyType({**pace._due, move: pace._windows + pause}),
        _failures=MappingProxyType({**pace._failures, move: failed}),
    )


def _changed(pace: Pace, now: Bounds, why: str) -> Pace:
    return replace(
        pace, now=now, change=pace.change + 1, why=why,
        _window=None, _since_change=None, _shifted=0,
    )  # fmt: skip


def _moved(pace: Pace, move: Move) -> Bounds | None:
    """Return the neighbour in the direction of ``move``; ``None`` where there is none."""
    batch, parallel = pace.now.batch_size, pace.now.parallel_batches
    match move:
        case Move.MORE_REQUESTS:
            to = Bounds(batch, min(parallel * 2, pace.upper.parallel_batches))
        case Move.MORE_TEXTS:
            to = Bounds(min(batch * 2, pace.upper.batch_size), parallel)
        case Move.FEWER_REQUESTS:
            to = Bounds(batch, max(1, parallel // 2))
        case Move.FEWER_TEXTS:
            to = Bounds(max(1, batch // 2), parallel)
    return None if to == pace.now else to
