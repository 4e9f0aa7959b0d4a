"""How many texts per request and requests in flight: the pace that a service is fastest at.

Hill climbing on measured throughput. One setting at a time is tried against the best one known,
each over some rounds of requests: more of something is kept if it is faster, less of something if
it is no slower. A refusal counts as too much, whatever the throughput; so does a time-out, but for
one amid prompt answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from rba_pipeline.core.answers import Answered, Window
from rba_pipeline.core.backlog import BacklogSteps
from rba_pipeline.core.moves import MORE, OPPOSITE, Move, moved
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
# A trial that is so much slower than the best is ended before its window is full, and one in which
# as many requests failed, and half as many as were answered.
HOPELESS, FAILING = 1.5, 3
# Requests wait so long at most, as a share of their time-out: beyond, noise alone makes some fail.
LATENCY_SHARE = 0.25
FIRST_PARALLEL = 2


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
    _let_in: int = 0
    _window: Window | None = None
    _since_change: Window = field(default_factory=Window)
    _failed: int = 0
    _answered_at_s: float | None = None
    _interrupted_at_s: float = float("-inf")
    _windows: int = 0
    _doubted: int = 0
    _latency_s: float = 0.0
    _was_prompt: bool = False
    _due: Mapping[Move, int] = field(default_factory=lambda: MappingProxyType({}))
    _failures: Mapping[Move, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def room(self) -> int:
        """Return how many requests may be in flight at this moment.

        While more are tried, one more than before, and another with each answer that comes fast
        enough: a service that breaks down beyond some load is soon out of it again.
        """
        requests = self.now.parallel_batches
        if self._trial is not Move.MORE_REQUESTS:
            return requests
        return min(requests, self._best.parallel_batches + 1 + self._let_in)


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
    pace = replace(pace, _was_prompt=is_prompt)
    if answer.sent_at_s < pace._interrupted_at_s:
        return pace
    before_s, pace = pace._answered_at_s, replace(pace, _answered_at_s=answer.at_s)
    if before_s is None or not answer.is_usual:
        # From here on the clock runs.
        return replace(pace, _window=pace._window or _opened(pace, answer))
    return _measured(pace, answer, answer.at_s - before_s)


def _measured(pace: Pace, answer: Answered, seconds: float) -> Pace:
    """Return the pace after an answer that came ``seconds`` after the one before."""
    pace = replace(pace, _since_change=pace._since_change.plus(answer, seconds))
    is_slow = _is_slow(pace)
    if is_slow and _is_hopeless(pace):
        return _given_up(pace, "much slower", PAINFUL)
    if pace.room < pace.now.parallel_batches:
        return pace if is_slow else replace(pace, _let_in=pace._let_in + 1)
    if pace._window is None or answer.change != pace.change:
        return replace(pace, _window=_opened(pace, answer))
    window = pace._window.plus(answer, seconds)
    if not _is_full(pace, window):
        return replace(pace, _window=window)
    latency_s = window.latency_s / window.answers
    full = replace(pace, _window=Window(), _windows=pace._windows + 1, _latency_s=latency_s)
    return _judged(full, window.rate)


def _opened(pace: Pace, answer: Answered) -> Window | None:
    """Return an empty window if ``answer`` is one of the present setting.

    As long as requests of another one are in flight, it is theirs that would be measured.
    """
    return Window() if answer.change == pace.change else None


def _is_full(pace: Pace, window: Window) -> bool:
    """Return whether ``window`` is enough to judge by: whole rounds, and fewer for a clear gain."""
    clear = pace._trial is not None and window.rate > SHIFT * pace.rate
    rounds = ROUNDS // 2 if clear else ROUNDS
    asked = max(ANSWERS, rounds * pace.now.parallel_batches)
    whole = window.answers % pace.now.parallel_batches == 0
    return whole and window.answers >= asked and window.seconds >= WINDOW_S


def _is_slow(pace: Pace) -> bool:
    """Return whether the setting that is tried is much slower than the best, as far as is seen."""
    return pace._trial is not None and pace._since_change.rate * HOPELESS < pace.rate


def _is_hopeless(pace: Pace) -> bool:
    """Return whether nothing more has to be seen of a trial that is slow."""
    since = pace._since_change
    in_flight = pace.now.batch_size * pace.room * since.tokens / since.texts
    # Two rounds at the best speed: within one, answers may still come in waves.
    return since.seconds > max(WINDOW_S, 2 * in_flight / pace.rate)


def after_failure(pace: Pace, change: int, at_s: float, *, pauses: bool) -> Pace:
    """Return the pace after a failure that is no refusal.

    Args:
        change: As for ``after_refusal``.
        at_s: When it failed.
        pauses: Whether nothing is sent for a while: that is no slowness, so what comes before the
            first answer to a request sent since is not measured.
    """
    if pauses:
        pace = replace(pace, _answered_at_s=None, _interrupted_at_s=at_s)
    if pace._trial not in MORE or change != pace.change:
        return pace
    pace = replace(pace, _failed=pace._failed + 1)
    is_failing = pace._failed >= max(FAILING, pace._since_change.answers / 2)
    return _given_up(pace, "failing") if is_failing else pace


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
    if pace._trial in MORE:
        return _given_up(pace, "refused", PAINFUL)
    less = (moved(pace.now, move, pace.upper) for move in (Move.FEWER_REQUESTS, Move.FEWER_TEXTS))
    fewer = next(filter(None, less), pace.now)
    # How fast the service is with less is not known: the next window says it.
    pace = replace(_changed(pace, fewer, "refused"), rate=0.0, _trial=None, _best=fewer)
    for move in MORE:
        # No trial of this move: it does not count as another that failed.
        pace = _postponed(pace, move, max(1, pace._failures.get(move, 0)))
    return pace


def for_backlog(pace: Pace, backlog: int, steps: BacklogSteps) -> Pace:
    """Return the pace for what is left: smaller requests, and as many texts in flight as before."""
    size = steps.size(backlog)
    return pace if steps.is_largest(size) else within(pace, size, "little is left")


def within(pace: Pace, size: int, why: str) -> Pace:
    """Return the pace with ``size`` texts per request at most from now on, and as many in flight
    as before.
    """
    if pace.upper.batch_size <= size:
        return pace
    pace = replace(pace, upper=replace(pace.upper, batch_size=size))
    if max(pace.now.batch_size, pace._best.batch_size) <= size:
        return pace
    batch_size = min(pace.now.batch_size, size)
    parallel = pace.now.parallel_batches * pace.now.batch_size // batch_size
    now = Bounds(batch_size, max(1, min(pace.upper.parallel_batches, parallel)))
    return replace(_changed(pace, now, why), _best=now, _trial=None)


def _judged(pace: Pace, rate: float) -> Pace:
    """Return the pace after a full window under the present setting."""
    if pace._trial is not None:
        wanted = pace.rate * (GAIN if pace._trial in MORE else 1.0)
        if rate >= wanted:
            # More than twice as much of something can bring: the service has changed meanwhile.
            most = pace.rate * SHIFT * (2 if pace._trial in MORE else 1)
            return _kept(_forgetful(pace, rate) if rate > most else pace, pace._trial, rate)
        # A little faster may be chance, and may be more: seen once more, it is known.
        is_unsure = rate >= pace.rate and not pace._doubted
        return replace(pace, _doubted=1) if is_unsure else _given_up(pace)
    if not pace.rate:
        return _tried(replace(pace, rate=rate))
    if 1 / SHIFT < rate / pace.rate < SHIFT:
        return _tried(replace(pace, rate=(pace.rate + rate) / 2, _doubted=0))
    if not pace._doubted:
        return replace(pace, _doubted=1)
    return _tried(_forgetful(pace, rate))


def _forgetful(pace: Pace, rate: float) -> Pace:
    """Return the pace for a service that became another: every move may help now.

    What hurt before is tried again soon if the service became faster, and as planned if slower.
    """
    hurt = {move for move, failures in pace._failures.items() if failures >= PAINFUL}
    soon = pace._windows + PAUSE if rate > pace.rate else LONGEST_PAUSE + pace._windows
    due = {move: min(pace._due[move], soon) for move in hurt}
    return replace(
        pace, rate=rate, _doubted=0, _due=MappingProxyType(due),
        _failures=MappingProxyType(dict.fromkeys(hurt, PAINFUL)),
    )  # fmt: skip


def _tried(pace: Pace) -> Pace:
    """Return the pace with the first move that is due and allowed, or as it is."""
    # With twice as much in flight, an answer may take twice as long.
    more_is_safe = 2 * pace._latency_s <= LATENCY_SHARE * pace.timeout_s
    for move in Move:
        to = moved(pace.now, move, pace.upper)
        due = pace._due.get(move, 0) <= pace._windows
        if to is not None and due and (more_is_safe or move not in MORE):
            return replace(_changed(pace, to, str(move)), _trial=move)
    return pace


def _kept(pace: Pace, trial: Move, rate: float) -> Pace:
    """Return the pace after a trial that helped; the same move is the next one tried."""
    # The way back was just measured to be worse.
    due = {**pace._due, trial: 0, OPPOSITE[trial]: pace._windows + PAUSE}
    kept = replace(
        pace, rate=rate, _best=pace.now, _trial=None, _due=MappingProxyType(due),
        _failures=MappingProxyType({**pace._failures, trial: 0}),
    )  # fmt: skip
    return _tried(kept)


def _given_up(pace: Pace, told: str = "no gain", failures: int = 1) -> Pace:
    """Return the pace back at the best setting after a trial that did not help."""
    if pace._trial is None:
        raise RuntimeError("no trial is given up: this is a bug in pacing")
    back = _changed(pace, pace._best, f"{pace._trial}: {told}")
    before = pace._failures.get(pace._trial, 0)
    # Where it hurt before and does not now, the service is another one.
    known = 0 if before >= PAINFUL > failures else before
    return _postponed(replace(back, _trial=None), pace._trial, known + failures)


def _postponed(pace: Pace, move: Move, failures: int) -> Pace:
    """Return the pace with ``move`` put off, the longer the more often it failed."""
    failed = min(failures, 16)
    pause = min(LONGEST_PAUSE, PAUSE * 2 ** (failed - 1))
    return replace(
        pace,
        _due=MappingProxyType({**pace._due, move: pace._windows + pause}),
        _failures=MappingProxyType({**pace._failures, move: failed}),
    )


def _changed(pace: Pace, now: Bounds, why: str) -> Pace:
    return replace(
        pace, now=now, change=pace.change + 1, why=why,
        _let_in=0, _failed=0, _window=None, _since_change=Window(), _doubted=0,
    )  # fmt: skip
