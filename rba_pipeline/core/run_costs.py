"""What a run costs besides the model's work, and how fast that is: learnt from earlier runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean, median


class Way(StrEnum):
    """How runs are launched."""

    # By the daemon, the web interface, `dagster asset materialize`.
    PROCESSES = "every step in a process of its own"
    # By `make demo`.
    ONE_PROCESS = "all steps in one process"


# Where there are no earlier runs: measured on two cores.
_USUAL_RUN_S = {Way.PROCESSES: 12.0, Way.ONE_PROCESS: 0.9}
_USUAL_CHUNK_S = 0.0005
# Within it the next run was launched because the one before had ended.
_LONGEST_GAP_S = 10.0
# Seconds of embedding after which older runs say nothing new of the speed.
_ENOUGH_S = 60.0
# An engine this many times faster or slower than in earlier runs is another one, or was busy with
# something else.
_ALIKE = 2.0


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run that succeeded; seconds are wall time.

    Attributes:
        launched, ended: Unix seconds.
        cut_s: Of the step that cut documents; 0 if nothing was cut.
        stream_s: Of texts on their way through the service, and their ``tokens``.
        publish_s: Of the step that added ``added`` chunks to search.
    """

    way: Way
    space: str
    launched: float
    ended: float
    cut_s: float
    stream_s: float
    tokens: int
    publish_s: float
    added: int

    @property
    def seconds(self) -> float:
        return self.ended - self.launched


@dataclass(frozen=True, slots=True)
class RunCosts:
    """What predictions are made of, and where each figure is from.

    Attributes:
        run_s: Of a run that has nothing to do.
        between_s: From the end of one run to the launch of the next.
        chunk_s: Of one chunk that is added to search.
        rate: Tokens per second through the service; ``None`` if that is not known.
    """

    way: Way
    run_s: float
    between_s: float
    run_from: str
    chunk_s: float
    rate: float | None
    rate_from: str

    def seconds(self, *, cut_s: float, tokens: int, added: int) -> float | None:
        """Return the wall time of a run that cuts, embeds and publishes so much, from its launch
        to that of the next.
        """
        if tokens and self.rate is None:
            return None
        embedding_s = tokens / self.rate if self.rate else 0.0
        return self.run_s + self.between_s + cut_s + embedding_s + added * self.chunk_s


def run_costs(runs: Sequence[PastRun], *, way: Way, rate: float | None, origin: str) -> RunCosts:
    """Return what a run costs that is launched in ``way``.

    Args:
        runs: The latest first; those launched in another way tell of publishing only.
        rate: Tokens per second, and its ``origin``.
    """
    chunk_s = _chunk_s(runs)
    own = [
        max(0.0, run.seconds - run.cut_s - run.stream_s - run.added * chunk_s)
        for run in runs
        if run.way is way
    ]
    return RunCosts(
        way=way,
        run_s=median(own) if own else _USUAL_RUN_S[way],
        between_s=_between_s(runs, way),
        run_from=f"median of {len(own)} earlier runs" if own else "no earlier run: as usual",
        chunk_s=chunk_s,
        rate=rate,
        rate_from=origin,
    )


def earlier_rate(runs: Sequence[PastRun], space: str) -> float:
    """Return tokens per second of the latest runs that embedded in ``space``; 0 without any."""
    tokens, seconds = 0, 0.0
    for run in runs:
        if run.space == space and run.tokens and seconds < _ENOUGH_S:
            tokens, seconds = tokens + run.tokens, seconds + run.stream_s
    return tokens / seconds if seconds else 0.0


def trusted_rate(earlier: float, engine: float) -> tuple[float, str] | None:
    """Return the tokens per second to reckon with and their origin; ``None``: measure them.

    Args:
        earlier: As runs saw it; 0 if unknown. It is the better one, pauses included.
        engine: As the service measured its model since its start; 0 if it has not worked.
    """
    if not earlier:
        return (engine, "measured by the service") if engine else None
    if engine and not 1 / _ALIKE <= engine / earlier <= _ALIKE:
        return None
    return earlier, "of earlier runs"


def _between_s(runs: Sequence[PastRun], way: Way) -> float:
    """Return the usual time from the end of one run to the launch of the next."""
    own = [run for run in runs if run.way is way]
    gaps = [max(0.0, late.launched - early.ended) for late, early in pairwise(own)]
    # Somebody paused.
    close = [gap for gap in gaps if gap <= _LONGEST_GAP_S]
    return median(close) if close else 0.0


def _chunk_s(runs: Sequence[PastRun]) -> float:
    """Return the slope of the line through what publishing took, at least 0."""
    added = [float(run.added) for run in runs]
    if len(set(added)) < 2:
        return _USUAL_CHUNK_S
    middle, middle_s = fmean(added), fmean(run.publish_s for run in runs)
    spread = sum((each - middle) ** 2 for each in added)
    together = sum((run.added - middle) * (run.publish_s - middle_s) for run in runs)
    return max(0.0, together / spread)
