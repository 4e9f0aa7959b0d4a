"""One thread owns the model; everyone else puts texts in a line and waits."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from embedding_service.backend.base import Backend, TokenIds
from embedding_service.engine.memory import MemoryGuard
from embedding_service.engine.owner import Owner
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.stats import Stats
from embedding_service.engine.tickets import Lane, PendingRequest
from embedding_service.engine.waiting_line import LineClosed, LineFull, WaitingLine
from embedding_service.errors import DeadlinePassed, Draining, NotReady, QueueFull

_LONGEST_RETRY_AFTER_S = 300
# Queries have this share of the line's room beside it, so that no load of documents refuses them.
_QUERY_SHARE = 8


class Engine:
    """Batches the texts of all callers for one backend."""

    def __init__(
        self,
        backend: Backend,
        *,
        limits: BatchLimits,
        max_queue_tokens: int,
        stats: Stats,
        memory: MemoryGuard | None = None,
        watchdog_s: float = 300,
        on_death: Callable[[BaseException], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is started yet.

        ``max_queue_tokens`` is the room for documents; an eighth of it, but at least one text of
        the longest kind, is for queries beside it. ``on_death`` runs once, in another thread, when
        the model can do nothing more: it is at fault, or it took over ``watchdog_s`` for a pass.
        """
        self.backend = backend
        query_room = max(max_queue_tokens // _QUERY_SHARE, backend.max_tokens)
        self.room: Mapping[Lane, int] = {"query": query_room, "document": max_queue_tokens}
        """Most tokens that may wait, by lane."""
        self.stats = stats
        self._clock = clock
        self._line = WaitingLine(max_tokens=self.room, on_dropped=stats.texts_dropped, clock=clock)
        self._owner = Owner(
            backend,
            self._line,
            limits,
            stats=stats,
            memory=memory,
            watchdog_s=watchdog_s,
            on_death=on_death,
            retry_after_s=self.retry_after_s,
            clock=clock,
        )

    def start(self) -> None:
        """Start the owner thread; it tests the model before it takes any work."""
        self._owner.start()

    def wait_until_tested(self) -> None:
        """Return when the self-test has passed.

        Raises:
            StartupError: The settings do not suit the model.
            NotReady: The owner thread died of it; the cause is chained.
        """
        self._owner.wait_until_tested()

    @property
    def limits(self) -> BatchLimits:
        """Bounds of one pass, as they are now."""
        return self._owner.limits

    @property
    def alive(self) -> bool:
        """Whether the owner thread takes work."""
        return self._owner.alive

    @property
    def longest_text(self) -> int:
        """Longest text in tokens that is not known to need more memory than there is."""
        return self._owner.passes.longest_text

    @property
    def lane_tokens(self) -> dict[Lane, int]:
        """How many tokens wait, by lane."""
        return {lane: self._line.tokens(lane) for lane in self.room}

    @property
    def queue_tokens(self) -> int:
        return sum(self.lane_tokens.values())

    def retry_after_s(self, lane: Lane = "document") -> int:
        """Return how long the model needs for what waits: whole seconds, from 1 to 300.

        For a query that is what waits in its lane: the other one hardly delays it.
        """
        rate = self.stats.tokens_per_second()
        ahead = self._line.tokens(lane) if lane == "query" else self.queue_tokens
        seconds = math.ceil(ahead / rate) if rate > 0 else 1
        return max(1, min(seconds, _LONGEST_RETRY_AFTER_S))

    def refuse_if_full(self, lane: Lane = "document", tokens: int = 1) -> None:
        """Raise ``QueueFull`` if so many would not fit now: cheaper than to tokenise them all."""
        if self._line.tokens(lane) + tokens > self.room[lane]:
            raise self._full(lane)

    def submit(
        self,
        texts: Sequence[TokenIds],
        *,
        lane: Lane = "document",
        deadline: float | None = None,
        request_id: str = "",
        on_settled: Callable[[], None] = lambda: None,
    ) -> PendingRequest:
        """Put ``texts`` in the line and return at once.

        Args:
            texts: ``n`` arrays of 1 to ``backend.max_tokens`` ids, n ≥ 1.
            lane: Queries are served before documents, which still get every fourth batch.
            deadline: Seconds of the engine's clock (``time.monotonic``) after which nobody waits.
            request_id: What the log calls the request, should its batch fail.
            on_settled: Called once, in another thread, when ``result`` has an answer.

        Raises:
            QueueFull: No room for all of them now; retry later.
            Draining: The engine was stopped.
        """
        request = PendingRequest(
            texts,
            entered_at=self._clock(),
            lane=lane,
            deadline=deadline,
            request_id=request_id,
            on_settled=on_settled,
        )
        try:
            self._line.put(request)
        except LineFull:
            raise self._full(lane) from None
        except LineClosed:
            raise self._closed() from None
        return request

    def _full(self, lane: Lane) -> QueueFull:
        return QueueFull(
            f"{self._line.tokens(lane)} of at most {self.room[lane]} tokens of {lane} texts wait "
            "already",
            self.retry_after_s(lane),
        )

    def _closed(self) -> NotReady | Draining:
        if self._owner.death is not None:
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
        return self._owner.stop(timeout_s, self._closed)
