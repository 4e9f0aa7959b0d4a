"""One thread owns the model; everyone else puts texts in a line and waits."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from embedding_service.backend.base import Backend, TokenIds, Vectors
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.self_test import check_invariance
from embedding_service.engine.stats import BatchFigures, Stats
from embedding_service.engine.tickets import PendingRequest, Ticket
from embedding_service.engine.waiting_line import LineClosed, LineFull, WaitingLine
from embedding_service.errors import BackendFailed, DeadlinePassed, Draining, NotReady, QueueFull

_logger = logging.getLogger(__name__)

_LONGEST_RETRY_AFTER_S = 300


class Engine:
    """Batches the texts of all callers for one backend."""

    def __init__(
        self,
        backend: Backend,
        *,
        limits: BatchLimits,
        max_queue_tokens: int,
        stats: Stats,
        on_death: Callable[[BaseException], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_death`` runs in the owner thread if that thread ends for any reason but ``stop``."""
        self.backend = backend
        self.limits = limits
        self.max_queue_tokens = max_queue_tokens
        self.stats = stats
        self._on_death = on_death
        self._clock = clock
        self._line = WaitingLine(
            max_tokens=max_queue_tokens, on_dropped=stats.texts_dropped, clock=clock
        )
        self._owner = threading.Thread(target=self._own, name="model-owner", daemon=True)
        self._tested = threading.Event()
        self._computing: list[Ticket] = []
        self._death: BaseException | None = None

    def start(self) -> None:
        """Start the owner thread; it tests the model before it takes any work."""
        self._owner.start()

    def wait_until_tested(self) -> None:
        """Return when the self-test has passed.

        Raises:
            NotReady: The owner thread died of it; the cause is chained.
        """
        self._tested.wait()
        if self._death is not None:
            raise NotReady("the model failed its self-test", 1) from self._death

    @property
    def alive(self) -> bool:
        """Whether the owner thread takes work."""
        return self._tested.is_set() and self._death is None and self._owner.is_alive()

    @property
    def queue_tokens(self) -> int:
        return self._line.tokens

    def retry_after_s(self) -> int:
        """Return how long the model needs for what waits: whole seconds, from 1 to 300."""
        rate = self.stats.tokens_per_second()
        seconds = math.ceil(self._line.tokens / rate) if rate > 0 else 1
        return max(1, min(seconds, _LONGEST_RETRY_AFTER_S))

    def refuse_if_full(self) -> None:
        """Raise ``QueueFull`` if not even one token would fit: cheaper than tokenising first."""
        if self._line.tokens >= self.max_queue_tokens:
            raise self._full()

    def submit(
        self,
        texts: Sequence[TokenIds],
        *,
        deadline: float | None = None,
        on_settled: Callable[[], None] = lambda: None,
    ) -> PendingRequest:
        """Put ``texts`` in the line and return at once.

        Args:
            texts: ``n`` arrays of 1 to ``backend.max_tokens`` ids, n ≥ 1.
            deadline: Seconds of the engine's clock (``time.monotonic``) after which nobody waits.
            on_settled: Called once, in another thread, when ``result`` has an answer.

        Raises:
            QueueFull: No room for all of them now; retry later.
            Draining: The engine was stopped.
        """
        request = PendingRequest(
            texts, entered_at=self._clock(), deadline=deadline, on_settled=on_settled
        )
        try:
            self._line.put(request)
        except LineFull:
            raise self._full() from None
        except LineClosed:
            raise self._closed() from None
        return request

    def _full(self) -> QueueFull:
        waiting = self._line.tokens
        return QueueFull(
            f"{waiting} of at most {self.max_queue_tokens} tokens wait already",
            self.retry_after_s(),
        )

    def _closed(self) -> NotReady | Draining:
        if self._death is not None:
            return NotReady("the model has broken down; the service is about to end", 5)
        return Draining("the service is stopping", self.retry_after_s())

    def leave(self, request: PendingRequest) -> None:
        """The caller has left: compute nothing more for it. Harmless when it has its answer."""
        gone = DeadlinePassed("the caller left, or its deadline passed, before its turn")
        if request.settle(self._clock(), gone):
            self._line.forget(request)

    def stop(self, timeout_s: float) -> bool:
        """Answer everyone who waits with ``Draining``; return whether the owner thread has ended.

        The batch in the model is finished and delivered, unless it outlasts ``timeout_s``.
        """
        for request in self._line.close():
            request.settle(self._clock(), self._closed())
        if self._owner.ident is not None:
            self._owner.join(timeout_s)
        for ticket in list(self._computing):
            ticket.request.settle(self._clock(), self._closed())
        return not self._owner.is_alive()

    def _own(self) -> None:
        try:
            self._warm_up()
            self._tested.set()
            while (taken := self._line.take(self.limits)) is not None:
                for request in taken.late:
                    request.settle(self._clock(), DeadlinePassed("no vectors within the deadline"))
                if taken.batch:
                    self._computing = taken.batch
                    self._compute(taken.batch)
                    self._computing = []
        except BaseException as error:  # noqa: BLE001 - handed to every waiting caller
            self._die(error)

    def _warm_up(self) -> None:
        began = self._clock()
        tokens = check_invariance(self.backend)
        seconds = self._clock() - began
        self.stats.measured(BatchFigures(0, tokens, tokens, seconds))

    def _die(self, error: BaseException) -> None:
        _logger.error("the thread that owns the model died", exc_info=error)
        self._death = error
        self._tested.set()
        broken = BackendFailed("the model has broken down; the service is about to end")
        broken.__cause__ = error
        computing = [ticket.request for ticket in self._computing]
        for request in computing + self._line.close():
            request.settle(self._clock(), broken)
        self._on_death(error)

    def _compute(self, batch: list[Ticket]) -> None:
        began = self._clock()
        try:
            vectors = self._encode([ticket.ids for ticket in batch])
        except Exception as error:  # noqa: BLE001 - handed to the callers of this batch
            self._fail(batch, error, self._clock() - began)
            return
        seconds = self._clock() - began
        lengths = [ticket.length for ticket in batch]
        padded = len(lengths) * max(lengths)
        self.stats.batch_done(BatchFigures(len(lengths), sum(lengths), padded, seconds))
        self._charge(batch, seconds)
        for ticket, vector in zip(batch, vectors, strict=True):
            if ticket.request.deliver(ticket.index, vector):
                ticket.request.settle(self._clock())

    def _encode(self, texts: list[TokenIds]) -> Vectors:
        vectors = self.backend.encode(texts)
        expected = (len(texts), self.backend.space.dimensions)
        if vectors.shape != expected or vectors.dtype != np.float32:
            raise ValueError(
                f"expected float32 of shape {expected} from the model, "
                f"got {vectors.dtype} of shape {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"a batch of {len(texts)} texts gave a vector that is not finite")
        return vectors

    def _fail(self, batch: list[Ticket], error: Exception, seconds: float) -> None:
        _logger.error("a batch of %d texts failed", len(batch), exc_info=error)
        self.stats.batch_failed(seconds)
        for request in self._charge(batch, seconds):
            failure = BackendFailed("the model failed on a batch that held a text of this request")
            failure.__cause__ = error
            request.settle(self._clock(), failure)
            # Its other texts are of no use to anyone now.
            self._line.forget(request)

    @staticmethod
    def _charge(batch: list[Ticket], seconds: float) -> list[PendingRequest]:
        """Add ``seconds`` to each request that has texts in ``batch``; return those requests."""
        requests = list({id(ticket.request): ticket.request for ticket in batch}.values())
        for request in requests:
            request.compute_s += seconds
        return requests
