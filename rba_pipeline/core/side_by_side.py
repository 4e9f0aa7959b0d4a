"""Runs side by side: how much they slow each other down, and how long they take together.

A run at work asks for one core. Texts on their way through the service ask for all of them, and
the runs that send some share it. What is asked for beyond the cores there are slows everybody
down in the same proportion; a run that waits, for a place in the pool or for what another run
does for all, asks for nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_NOTHING_S = 1e-9


@dataclass(frozen=True, slots=True)
class SideBySide:
    """How many runs are under way at once.

    Attributes:
        runs: At most; ``None``: all of them.
        embedding: Of those, at most so many send texts.
        cores: Of the machine.
    """

    runs: int | None
    embedding: int
    cores: int

    def __str__(self) -> str:
        if self.runs == 1:
            return "one run after the other"
        runs = "all runs" if self.runs is None else f"{self.runs} runs"
        return f"{runs} side by side, {self.embedding} embedding, on {self.cores} cores"


@dataclass(frozen=True, slots=True)
class Load:
    """What one run takes with the machine to itself, in seconds: first work, then streaming."""

    work_s: float
    stream_s: float


@dataclass(frozen=True, slots=True)
class Course:
    """One run as it was, in Unix seconds; each span is a beginning and an end.

    Attributes:
        waiting: For a place in the pool, and for other runs; any number of spans.
        streaming: Texts through the service; empty if there were none.
    """

    run: tuple[float, float]
    waiting: tuple[tuple[float, float], ...]
    streaming: tuple[float, float]


def loads(courses: Sequence[Course], cores: int) -> list[Load]:
    """Return what each run would have taken without the others, and without waiting."""
    moments = {
        moment
        for each in courses
        for span in (each.run, *each.waiting, each.streaming)
        for moment in span
    }
    work, stream = [0.0] * len(courses), [0.0] * len(courses)
    for begin, end in pairwise(sorted(moments)):
        at = (begin + end) / 2
        streaming = [n for n, each in enumerate(courses) if _holds(each.streaming, at)]
        working = [
            n
            for n, each in enumerate(courses)
            if _holds(each.run, at)
            and not any(_holds(span, at) for span in each.waiting)
            and n not in streaming
        ]
        work_pace, stream_pace = _paces(len(working), len(streaming), cores)
        for n in working:
            work[n] += work_pace * (end - begin)
        for n in streaming:
            stream[n] += stream_pace * (end - begin)
    return [Load(*each) for each in zip(work, stream, strict=True)]


def courses(
    runs: Sequence[Load], beside: SideBySide, between_s: float
) -> list[tuple[float, float]]:
    """Return when each of ``runs`` would be launched and end, in seconds from the first launch.

    Args:
        runs: In the order of their launches.
        between_s: From the end of a run to the launch of the one that takes its place.
    """
    launched, ended = [0.0] * len(runs), [0.0] * len(runs)
    left = [[each.work_s, each.stream_s, between_s] for each in runs]
    active, todo, now_s = list[int](), list(reversed(range(len(runs)))), 0.0
    # In the order in which they ask for a place.
    line = list[int]()
    while active or todo:
        while todo and (beside.runs is None or len(active) < max(1, beside.runs)):
            active.append(todo.pop())
            launched[active[-1]] = ended[active[-1]] = now_s
        phases = {n: _phase(left[n]) for n in active}
        line = [n for n in line if phases.get(n) == 1]
        line += [n for n in active if phases[n] == 1 and n not in line]
        places = set(line[: beside.embedding])
        paces = dict(_paces_of(phases, places, beside.cores))
        step_s = min((left[n][phases[n]] / paces[n] for n in paces), default=0.0)
        now_s += step_s
        for n, pace in paces.items():
            left[n][phases[n]] -= step_s * pace
        ended = [now_s if phases.get(n, 2) < 2 else at for n, at in enumerate(ended)]
        active = [n for n in active if _phase(left[n]) < 3]
    return list(zip(launched, ended, strict=True))


def _paces(working: int, streaming: int, cores: int) -> tuple[float, float]:
    """Return how fast each run works, and how fast each streams; 1: as by itself."""
    asked = working + (cores if streaming else 0)
    share = min(1.0, cores / max(1, asked))
    return share, share / max(1, streaming)


def _paces_of(phases: dict[int, int], places: set[int], cores: int) -> Iterator[tuple[int, float]]:
    working = sum(phase == 0 for phase in phases.values())
    paces = (*_paces(working, len(places), cores), 1.0)
    for n, phase in phases.items():
        if phase in (0, 2) or n in places:
            yield n, paces[phase]


def _phase(left: Sequence[float]) -> int:
    """Return the first phase with something left; 3: none."""
    return next((n for n, seconds in enumerate(left) if seconds > _NOTHING_S), 3)


def _holds(span: tuple[float, float], at: float) -> bool:
    return span[0] <= at < span[1]
