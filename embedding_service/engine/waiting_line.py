"""The bounded line between callers and the owner thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from embedding_service.engine.policy import BatchLimits, next_batch
from embedding_service.engine.tickets import PendingRequest, Ticket


class LineFull(Exception):
    """The request does not fit beside those that wait; nothing of it was put in."""


class LineClosed(Exception):
    """Nobody will take from this line any more."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the owner thread was given: work, and requests that left the line unanswered."""

    batch: list[Ticket]
    late: list[PendingRequest]
    """Their deadline has passed; whoever took them settles them, outside the lock."""


class WaitingLine:
    """Tickets in order of arrival, at most ``max_tokens`` of them by length."""

    def __init__(
        self,
        *,
        max_tokens: int,
        on_dropped: Callable[[int], None] = lambda texts: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_tokens = max_tokens
        self._on_dropped = on_dropped
        self._clock = clock
        self._tickets: deque[Ticket] = deque()
        self._tokens = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def tokens(self) -> int:
        """Sum of the lengths of all tickets that wait."""
        return self._tokens

    def put(self, request: PendingRequest) -> None:
        """Put all texts of ``request`` at the end, or none.

        Raises:
            LineFull: There is no room now.
            LineClosed: There will never be.
        """
        with self._changed:
            if self._closed:
                raise LineClosed
            if self._tokens + request.tokens > self._max_tokens:
                raise LineFull
            self._tickets.extend(request.tickets)
            self._tokens += request.tokens
            self._changed.notify()

    def take(self, limits: BatchLimits) -> Taken | None:
        """Wait until there is work; return the next batch, or None when the line is closed.

        The batch is empty when everything in front was too late to be worth computing.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._tickets or self._closed)
            if self._closed:
                return None
            late = self._late(self._front(limits))
            for request in late:
                self._remove(request)
            front = self._front(limits)
            chosen = next_batch([ticket.length for ticket in front], limits)
            return Taken(self._take(front, chosen), late)

    def _front(self, limits: BatchLimits) -> list[Ticket]:
        return list(islice(self._tickets, limits.look_ahead))

    def _late(self, front: Sequence[Ticket]) -> list[PendingRequest]:
        now = self._clock()
        waiting = {id(ticket.request): ticket.request for ticket in front}.values()
        return [r for r in waiting if r.deadline is not None and r.deadline <= now]

    def _take(self, front: Sequence[Ticket], chosen: Sequence[int]) -> list[Ticket]:
        for _ in front:
            self._tickets.popleft()
        going = set(chosen)
        self._tickets.extendleft(front[i] for i in range(len(front) - 1, -1, -1) if i not in going)
        batch = [front[i] for i in chosen]
        self._tokens -= sum(ticket.length for ticket in batch)
        return batch

    def forget(self, request: PendingRequest) -> None:
        """Take out what still waits of ``request``: its caller has left, or it has failed."""
        with self._changed:
            self._remove(request)

    def _remove(self, request: PendingRequest) -> None:
        staying = deque(ticket for ticket in self._tickets if ticket.request is not request)
        removed = len(self._tickets) - len(staying)
        if removed:
            self._tickets = staying
            self._tokens = sum(ticket.length for ticket in staying)
            self._on_dropped(removed)

    def close(self) -> list[PendingRequest]:
        """Refuse everything from now on; return the requests that waited, oldest first."""
        with self._changed:
            self._closed = True
            left = list({id(ticket.request): ticket.request for ticket in self._tickets}.values())
            self._on_dropped(len(self._tickets))
            self._tickets.clear()
            self._tokens = 0
            self._changed.notify_all()
            return left
