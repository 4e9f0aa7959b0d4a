"""The one thread that runs the model, from its first pass to its last."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from embedding_service.backend.base import Backend, Vectors, Work
from embedding_service.engine.heap import Heap
from embedding_service.engine.memory import Footprint, MemoryGuard
from embedding_service.engine.passes import Passes
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.self_test import check_invariance
from embedding_service.engine.stats import BatchFigures, Stats
from embedding_service.engine.tickets import PendingRequest, Ticket
from embedding_service.engine.waiting_line import Taken, WaitingLine
from embedding_service.engine.watchdog import Watchdog
from embedding_service.errors import (
    BackendFailed,
    DeadlinePassed,
    EngineError,
    NotReady,
    StartupError,
)

_logger = logging.getLogger(__name__)

# One bad batch is its callers' misfortune; so many in a row may be the model's end.
_DOUBTFUL_FAILURES = 5


class _UnderWay(NamedTuple):
    """A pass that was begun."""

    batch: list[Ticket]
    began: float
    ended: Callable[[], Vectors]


class Owner:
    """Takes batches from a line until it is closed; if it cannot go on, it answers everyone."""

    def __init__(
        self,
        backend: Backend,
        line: WaitingLine,
        limits: BatchLimits,
        *,
        stats: Stats,
        memory: MemoryGuard | None,
        watchdog_s: float,
        on_death: Callable[[BaseException], None],
        retry_after_s: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """``on_death`` runs once, in another thread, when the model can do nothing more.

        ``retry_after_s`` as in ``Passes``.
        """
        self._backend = backend
        self._line = line
        self.limits = limits
        """As given, or smaller since a pass did not fit into memory."""
        self._stats = stats
        self._on_death = on_death
        self._clock = clock
        self._watchdog = Watchdog(watchdog_s, self._hang)
        self.passes = Passes(
            backend,
            watchdog=self._watchdog,
            memory=memory,
            heap=Heap(clock),
            retry_after_s=retry_after_s,
        )
        self._thread = threading.Thread(target=self._own, name="model-owner", daemon=True)
        self._tested = threading.Event()
        self._computing: list[Ticket] = []
        self._under_way: _UnderWay | None = None
        self._free_at = 0.0
        self._failed_in_a_row = 0
        self._dying = threading.Lock()
        self.death: BaseException | None = None
        """Why it ended, if not because the line was closed."""

    def start(self) -> None:
        self._watchdog.start()
        self._thread.start()

    def wait_until_tested(self) -> None:
        """As ``Engine.wait_until_tested``."""
        self._tested.wait()
        if isinstance(self.death, StartupError):
            raise self.death
        if self.death is not None:
            raise NotReady("the model failed its self-test", 1) from self.death

    @property
    def alive(self) -> bool:
        """Whether it takes work."""
        return self._tested.is_set() and self.death is None and self._thread.is_alive()

    def stop(self, timeout_s: float, told: Callable[[], EngineError]) -> bool:
        """Wait for the end, after the line was closed; return whether it came in time.

        Whoever's texts are in the model even then is answered with ``told``.
        """
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._watchdog.stop()
        for ticket in list(self._computing):
            ticket.request.settle(self._clock(), told())
        return not self._thread.is_alive()

    def _own(self) -> None:
        try:
            self._warm_up()
            self._tested.set()
            while (taken := self._take()) is not None:
                for request in taken.late:
                    request.settle(self._clock(), DeadlinePassed("no vectors within the deadline"))
                if taken.batch:
                    self._computing = [*self._computing, *taken.batch]
                    begun = self._begun(taken.batch)
                    self._end()
                    self._under_way = begun
                if not (taken.batch and self._backend.overlaps):
                    self._end()
                self._computing = self._under_way.batch if self._under_way else []
                if self._failed_in_a_row >= _DOUBTFUL_FAILURES:
                    self._end()
                    # What no batch survives any more, such as a lost device, ends the process.
                    check_invariance(self._backend, self.passes.try_out)
                    self._failed_in_a_row = 0
            self._end()
        except BaseException as error:  # noqa: BLE001 - handed to every waiting caller
            self._die(error)

    def _take(self) -> Taken | None:
        # While the device computes, what is there goes next, and nothing is waited for. A query
        # that comes later finds two passes before it, where without overlap it would find one.
        return self._line.take(self.limits, self._footprint, wait=self._under_way is None)

    def _footprint(self) -> Footprint | None:
        return self.passes.footprint

    def _warm_up(self) -> None:
        began = self._clock()
        tokens = check_invariance(self._backend, self.passes.try_out)
        seconds = self._clock() - began
        self.passes.end_warm_up()
        self._stats.guess(tokens, seconds)

    def _hang(self) -> None:
        self._die(
            TimeoutError(f"the model did not finish a pass within {self._watchdog.patience_s:g} s")
        )

    def _die(self, error: BaseException) -> None:
        """Answer everyone; called by whichever of owner and watchdog gives up first."""
        with self._dying:
            if self.death is not None:
                return
            self.death = error
        # What the operator has to change is said without a traceback, by whoever ends the process.
        if not isinstance(error, StartupError):
            _logger.error("the model can do nothing more", exc_info=error)
        self._tested.set()
        broken = BackendFailed("the model has broken down; the service is about to end")
        broken.__cause__ = error
        computing = [ticket.request for ticket in self._computing]
        for request in computing + self._line.close():
            request.settle(self._clock(), broken)
        self._on_death(error)

    def _begun(self, batch: list[Ticket]) -> "_UnderWay | None":
        """Begin the pass of ``batch``; return None if there is nothing of it to wait for."""
        began = self._clock()
        texts = [ticket.ids for ticket in batch]
        try:
            # A first very long text takes several passes; queries are served between them.
            if self.passes.probe(texts) and self._line.put_back(batch):
                seconds = self._seconds_since(began)
                self._stats.probed(seconds)
                self._charge(batch, seconds)
                return None
            return _UnderWay(batch, began, self.passes.begin(texts))
        except Exception as error:  # noqa: BLE001 - handed to the callers of this batch
            self._failed(batch, error, self._seconds_since(began))
            return None

    def _end(self) -> None:
        """Wait for the pass that is under way, if any, and hand out its vectors."""
        if self._under_way is None:
            return
        batch, began, ended = self._under_way
        self._under_way = None
        try:
            vectors = ended()
        except Exception as error:  # noqa: BLE001 - handed to the callers of this batch
            self._failed(batch, error, self._seconds_since(began))
            return
        self._failed_in_a_row = 0
        seconds = self._seconds_since(began)
        lengths = [ticket.length for ticket in batch]
        needed = Work(sum(lengths), sum(length**2 for length in lengths))
        done = self._backend.work(lengths)
        self._stats.batch_done(BatchFigures(len(lengths), needed, done, seconds))
        self._charge(batch, seconds)
        for ticket, vector in zip(batch, vectors, strict=True):
            if ticket.request.deliver(ticket.index, vector):
                ticket.request.settle(self._clock())

    def _seconds_since(self, began: float) -> float:
        """Return what a pass took that ends now; no second counts for two passes."""
        since, self._free_at = max(began, self._free_at), self._clock()
        return self._free_at - since

    def _failed(self, batch: list[Ticket], error: Exception, seconds: float) -> None:
        if isinstance(error, MemoryError) and self._put_back_for_smaller_passes(batch):
            self._charge(batch, seconds)
            self._stats.batch_failed(seconds)
        else:
            self._fail(batch, error, seconds)

    def _put_back_for_smaller_passes(self, batch: list[Ticket]) -> bool:
        """Halve all passes from now on; return False if ``batch`` cannot be computed in parts."""
        if len(batch) == 1 or not self._line.put_back(batch):
            return False
        half = max(1, len(batch) * max(ticket.length for ticket in batch) // 2)
        self.limits = replace(self.limits, max_padded_tokens=half)
        _logger.warning("a pass did not fit into memory: from now on at most %d tokens", half)
        return True

    def _fail(self, batch: list[Ticket], error: Exception, seconds: float) -> None:
        requests = self._charge(batch, seconds)
        if not isinstance(error, EngineError):
            self._failed_in_a_row += 1
            _logger.error(
                "a batch of %d texts failed",
                len(batch),
                exc_info=error,
                extra={"request_ids": [request.request_id for request in requests]},
            )
            self._stats.batch_failed(seconds)
        for request in requests:
            request.settle(self._clock(), _told(error))
            # Its other texts are of no use to anyone now.
            self._line.forget(request)

    @staticmethod
    def _charge(batch: list[Ticket], seconds: float) -> list[PendingRequest]:
        """Add ``seconds`` to each request that has texts in ``batch``; return those requests."""
        requests = list({id(ticket.request): ticket.request for ticket in batch}.values())
        for request in requests:
            request.compute_s += seconds
        return requests


def _told(error: Exception) -> EngineError:
    """Return what a caller is told of a batch that failed of ``error``."""
    if isinstance(error, EngineError):
        return error
    failure = BackendFailed("the model failed on a batch that held a text of this request")
    failure.__cause__ = error
    return failure
