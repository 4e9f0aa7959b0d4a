"""The clock of a step: which stage its wall time goes to, and whether requests are open meanwhile.

Nothing is decided here; ``core.stages`` says what the stages mean.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rba_pipeline.core.stages import STAGES_OF, RequestSeconds, Stage, StepTimes, divided

Item = TypeVar("Item")

_END = object()


class Stopwatch:
    """Counts the wall seconds of one step by stage: every moment belongs to the innermost one.

    One thread enters and leaves stages. Others open requests: a moment in which all that are
    allowed are open is waited for the service, whatever the first thread does meanwhile; with half
    of them open, half of it is.
    """

    def __init__(self, asset: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Start it, in the first of ``STAGES_OF[asset]``."""
        self._asset = asset
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES_OF[asset], 0.0)
        self._stages = [STAGES_OF[asset][0]]
        self._open, self._allowed = 0, 1
        self._at = clock()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count the block to ``stage``, but for the stages within it."""
        with self._lock:
            self._count()
            self._stages.append(stage)
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._stages.pop()

    def timed(self, stage: Stage, items: Iterable[Item]) -> Iterator[Item]:
        """Yield ``items``; what it takes to get them counts to ``stage``."""
        iterator: Iterator[Item | object] = iter(items)
        while True:
            with self.stage(stage):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def allow(self, requests: int) -> None:
        """Say how many requests may be open at once from now on."""
        with self._lock:
            self._count()
            self._allowed = max(1, requests)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count the block as an open request; from any thread."""
        with self._lock:
            self._count()
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._open -= 1

    def times(self, requests: RequestSeconds | None = None) -> StepTimes:
        """Return the seconds until now; waiting is divided by what the ``requests`` did."""
        with self._lock:
            self._count()
            seconds = dict(self._seconds)
        return StepTimes(self._asset, divided(seconds, requests or RequestSeconds()))

    def _count(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        waited = passed * min(1.0, self._open / self._allowed)
        if waited:
            self._add(Stage.WAITING, waited)
        self._add(self._stages[-1], passed - waited)

    def _add(self, stage: Stage, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
