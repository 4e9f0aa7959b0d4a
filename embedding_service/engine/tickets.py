"""A request that waits for vectors: it succeeds, fails, or its caller has left; once, whichever."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedding_service.backend.base import TokenIds, Vectors
from embedding_service.errors import EngineError

Lane = Literal["query", "document"]
"""Somebody waits for a query; documents come in bulk."""


class PendingRequest:
    """The texts of one caller, on their way through the line and the model."""

    def __init__(
        self,
        texts: Sequence[TokenIds],
        *,
        entered_at: float,
        lane: Lane = "document",
        deadline: float | None = None,
        request_id: str = "",
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        """``deadline`` and ``entered_at`` are seconds of the engine's clock.

        ``request_id`` is what the log calls it.
        ``on_settled`` runs once, in the thread that settles: it must be quick, and not raise.
        """
        self.tickets = tuple(Ticket(self, i, ids) for i, ids in enumerate(texts))
        self.tokens = sum(ticket.length for ticket in self.tickets)
        self.lane = lane
        self.entered_at = entered_at
        self.deadline = deadline
        self.request_id = request_id
        self.settled_at: float | None = None
        self.compute_s = 0.0
        """Wall seconds of the batches that held any of these texts."""
        self._on_settled = on_settled
        self._lock = threading.Lock()
        self._vectors: Vectors | None = None
        self._missing = len(self.tickets)
        self._error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return self.settled_at is not None

    def deliver(self, index: int, vector: Vectors) -> bool:
        """Keep the vector of one text; return whether it was the last one missing.

        Only the owner thread calls this.
        """
        if self._vectors is None:
            self._vectors = np.empty((len(self.tickets), len(vector)), dtype=np.float32)
        self._vectors[index] = vector
        self._missing -= 1
        return self._missing == 0

    def settle(self, now: float, error: BaseException | None = None) -> bool:
        """End the wait, with ``error`` or with vectors; return False if it had ended before."""
        with self._lock:
            if self.settled_at is not None:
                return False
            self.settled_at = now
            self._error = error
        self._on_settled()
        return True

    def result(self) -> Vectors:
        """Return float32 of shape ``(n, dimensions)`` in the order of the texts.

        Raises:
            EngineError: Whatever the request was failed with.
        """
        if isinstance(self._error, EngineError):
            raise self._error
        if self._vectors is None or not self.settled:
            raise RuntimeError("asked for a result before there is one; this is a bug in engine")
        return self._vectors


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One text of a request, tokenised."""

    request: PendingRequest
    index: int
    ids: TokenIds

    @property
    def length(self) -> int:
        return len(self.ids)
