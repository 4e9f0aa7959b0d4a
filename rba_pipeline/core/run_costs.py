"""What a run costs besides the model's work, and how fast that is: learnt from earlier runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, median

from rba_pipeline.core.side_by_side import Course, Load, SideBySide, loads


class Way(StrEnum):
    """How runs are launched."""

    # By the daemon, the web interface, `dagster asset materialize`.
    PROCESSES = "every step in a process of its own"
    # By `make demo`.
    ONE_PROCESS = "all steps in one process"


# Where there are no earlier runs: measured on two cores.
_USUAL_RUN_S = {Way.PROCESSES: 20.0, Way.ONE_PROCESS: 1.3}
_USUAL_CHUNK_S = 0.0005
# Runs whose numbers of chunks lie so far apart say as much of a chunk as the usual figure does.
# Few chunks say nothing: what else differed between their runs would pass for the cost of a chunk.
_TELLING_CHUNKS = 1000
# Within it the next run was launched because the one before had ended.
_LONGEST_GAP_S = 10.0
# Seconds of embedding after which older runs say nothing new of the speed.
_ENOUGH_S = 60.0
# An engine this many times faster or slower than in earlier runs is another one, or was busy with
# something else.
_ALIKE = 2.0


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run that succeeded; seconds are wall time, as it was.

    Attributes:
        course: When it ran, waited, and had ``tokens`` on their way through the service.
        cut_s: Of the step that cut documents; 0 if nothing was cut.
        publish_s: Of the step that added ``added`` chunks to search.
    """

    way: Way
    space: str
    course: Course
    cut_s: float
    tokens: int
    publish_s: float
    added: int


@dataclass(frozen=True, slots=True)
class OwnCost:
    """The same run without what others beside it took from it, and without waiting.

    Attributes:
        launched, ended: Unix seconds, as they were.
        work_s: Of everything but streaming: cutting and publishing are a part of it.
        stream_s: Of streaming ``tokens``.
    """

    way: Way
    space: str
    launched: float
    ended: float
    work_s: float
    cut_s: float
    stream_s: float
    tokens: int
    publish_s: float
    added: int


@dataclass(frozen=True, slots=True)
class RunCosts:
    """What predictions are made of, and where each figure is from.

    Attributes:
        beside: How the runs will be launched.
        run_s: Of a run that has nothing to do, by itself.
        between_s: From the end of one run to the launch of the next.
        chunk_s: Of one chunk that is added to search.
        rate: Tokens per second through the service; ``None`` if that is not known.
    """

    way: Way
    beside: SideBySide
    run_s: float
    between_s: float
    run_from: str
    chunk_s: float
    rate: float | None
    rate_from: str

    def load(self, *, cut_s: float, tokens: int, added: int) -> Load | None:
        """Return what a run by itself takes that cuts, embeds and publishes so much; ``None``: the
        speed of the service is not known.
        """
        if tokens and self.rate is None:
            return None
        stream_s = tokens / self.rate if self.rate else 0.0
        return Load(self.run_s + cut_s + added * self.chunk_s, stream_s)


def own_costs(runs: Sequence[PastRun], cores: int) -> list[OwnCost]:
    """Return what each run cost by itself, in the same order, whatever ran beside it.

    Args:
        runs: All that may have overlapped.
    """
    found = loads([run.course for run in runs], cores)
    return [_own_cost(run, load) for run, load in zip(runs, found, strict=True)]


def _own_cost(run: PastRun, load: Load) -> OwnCost:
    begun, ended = run.course.run
    spans = (*run.course.waiting, run.course.streaming)
    worked_s = ended - begun - sum(end - begin for begin, end in spans)
    # How much of its time a run got that worked: its steps were slowed down alike.
    share = min(1.0, load.work_s / worked_s) if worked_s > 0 else 1.0
    return OwnCost(
        way=run.way,
        space=run.space,
        launched=begun,
        ended=ended,
        work_s=load.work_s,
        cut_s=run.cut_s * share,
        stream_s=load.stream_s,
        tokens=run.tokens,
        publish_s=run.publish_s * share,
        added=run.added,
    )


def run_costs(
    runs: Sequence[OwnCost], *, way: Way, beside: SideBySide, rate: float | None, origin: str
) -> RunCosts:
    """Return what runs cost that are launched in ``way``, so many ``beside`` each other.

    Args:
        runs: The latest first; those launched in another way tell of publishing only.
        rate: Tokens per second, and its ``origin``.
    """
    chunk_s = _chunk_s(runs)
    own = [_rest_s(run, chunk_s) for run in runs if run.way is way]
    return RunCosts(
        way=way,
        beside=beside,
        run_s=median(own) if own else _USUAL_RUN_S[way],
        between_s=_between_s(runs, way),
        run_from=f"median of {len(own)} earlier runs" if own else "no earlier run: as usual",
        chunk_s=chunk_s,
        rate=rate,
        rate_from=origin,
    )


def earlier_rate(runs: Sequence[OwnCost], space: str) -> float:
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


def _between_s(runs: Sequence[OwnCost], way: Way) -> float:
    """Return the usual time from the end of one run to the launch of the next."""
    own = [run for run in runs if run.way is way]
    gaps = [
        run.launched - max(before)
        for run in own
        if (before := [each.ended for each in own if each.ended <= run.launched])
    ]
    # Somebody paused.
    close = [gap for gap in gaps if gap <= _LONGEST_GAP_S]
    return median(close) if close else 0.0


def _rest_s(run: OwnCost, chunk_s: float) -> float:
    """Return what ``run`` worked at besides cutting, and publishing at ``chunk_s`` a chunk."""
    # A step that was faster than usual takes nothing from the others.
    return max(0.0, run.work_s - run.cut_s - min(run.publish_s, run.added * chunk_s))


def _chunk_s(runs: Sequence[OwnCost]) -> float:
    """Return the slope of the line through what publishing took, at least 0: the nearer to the
    usual one, the less the runs differ in what they added.
    """
    if not runs:
        return _USUAL_CHUNK_S
    middle, middle_s = fmean(run.added for run in runs), fmean(run.publish_s for run in runs)
    apart = sum((run.added - middle) ** 2 for run in runs)
    together = sum((run.added - middle) * (run.publish_s - middle_s) for run in runs)
    usual = _TELLING_CHUNKS**2
    return max(0.0, (together + _USUAL_CHUNK_S * usual) / (apart + usual))
