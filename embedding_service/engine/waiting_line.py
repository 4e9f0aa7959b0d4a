"""The bounded line between callers and the owner thread: two lanes, one for those in a hurry."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from embedding_service.engine.memory import Footprint
from embedding_service.engine.policy import BatchLimits, next_batch
from embedding_service.engine.tickets import Lane, PendingRequest, Ticket

# While documents wait, every fourth batch is theirs.
_QUERY_BATCHES_IN_A_ROW = 3


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


class _Queue:
    """The tickets of one lane in order of arrival; any of them leaves in constant time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tokens = 0
        # Linked, so that looking at the front costs nothing however many have left it.
        self._tickets: OrderedDict[Ticket, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tickets)

    def append(self, request: PendingRequest) -> None:
        self._tickets.update(dict.fromkeys(request.tickets))
        self.tokens += request.tokens

    def put_first(self, ticket: Ticket) -> None:
        self._tickets[ticket] = None
        self._tickets.move_to_end(ticket, last=False)
        self.tokens += ticket.length

    def front(self, n: int) -> list[Ticket]:
        return list(islice(self._tickets, n))

    def remove(self, ticket: Ticket) -> bool:
        """Return whether it was still there."""
        if ticket not in self._tickets:
            return False
        del self._tickets[ticket]
        self.tokens -= ticket.length
        return True

    def clear(self) -> list[PendingRequest]:
        """Return whose texts waited, oldest first."""
        left = list({id(ticket.request): ticket.request for ticket in self._tickets}.values())
        self._tickets.clear()
        self.tokens = 0
        return left


class WaitingLine:
    """Tickets in order of arrival; each lane holds so many tokens, whatever waits in the other."""

    def __init__(
        self,
        *,
        max_tokens: Mapping[Lane, int],
        on_dropped: Callable[[int], None] = lambda texts: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_dropped = on_dropped
        self._clock = clock
        self._queues = {lane: _Queue(room) for lane, room in max_tokens.items()}
        self._queries_in_a_row = 0
        self._closed = False
        self._changed = threading.Condition()

    def tokens(self, lane: Lane) -> int:
        """Return the sum of the lengths of all tickets that wait in ``lane``."""
        return self._queues[lane].tokens

    def put(self, request: PendingRequest) -> None:
        """Put all texts of ``request`` at the end of its lane, or none.

        Raises:
            LineFull: There is no room now.
            LineClosed: There will never be.
        """
        queue = self._queues[request.lane]
        with self._changed:
            if self._closed:
                raise LineClosed
            if queue.tokens + request.tokens > queue.room:
                raise LineFull
            queue.append(request)
            self._changed.notify()

    def take(
        self,
        limits: BatchLimits,
        footprint: Callable[[], Footprint | None] = lambda: None,
        *,
        wait: bool = True,
    ) -> Taken | None:
        """Wait until there is work; return the next batch, or None when the line is closed.

        All of a batch is of one lane. It is empty when everything in front was too late to be
        worth computing, or when there is nothing and ``wait`` is False. ``footprint`` is asked when
        there is work, for that of ``limits``: what was free before the wait need not be free after.
        """
        with self._changed:
            self._changed.wait_for(lambda: any(self._queues.values()) or self._closed or not wait)
            if self._closed:
                return None
            queue = self._next_queue()
            late = self._late(queue.front(limits.look_ahead))
            for request in late:
                self._remove(request)
            front = queue.front(limits.look_ahead)
            known = replace(limits, footprint=footprint())
            chosen = next_batch([ticket.length for ticket in front], known)
            batch = [front[i] for i in chosen]
            for ticket in batch:
                queue.remove(ticket)
            return Taken(batch, late)

    def put_back(self, batch: Sequence[Ticket]) -> bool:
        """Put what was taken in front of its lane again; return False if the line is closed."""
        with self._changed:
            if self._closed:
                return False
            for ticket in reversed(batch):
                if ticket.request.settled:
                    self._on_dropped(1)
                else:
                    self._queues[ticket.request.lane].put_first(ticket)
            return True

    def _next_queue(self) -> _Queue:
        queries, documents = self._queues["query"], self._queues["document"]
        turn = not documents or self._queries_in_a_row < _QUERY_BATCHES_IN_A_ROW
        if queries and turn:
            # Only what documents had to wait for is held against queries.
            self._queries_in_a_row = self._queries_in_a_row + 1 if documents else 0
            return queries
        self._queries_in_a_row = 0
        return documents

    def _late(self, front: list[Ticket]) -> list[PendingRequest]:
        now = self._clock()
        waiting = {id(ticket.request): ticket.request for ticket in front}.values()
        return [r for r in waiting if r.deadline is not None and r.deadline <= now]

    def forget(self, request: PendingRequest) -> None:
        """Take out what still waits of ``request``: its caller has left, or it has failed."""
        with self._changed:
            self._remove(request)

    def _remove(self, request: PendingRequest) -> None:
        queue = self._queues[request.lane]
        removed = sum(queue.remove(ticket) for ticket in request.tickets)
        if removed:
            self._on_dropped(removed)

    def close(self) -> list[PendingRequest]:
        """Refuse everything from now on; return the requests that waited, oldest first by lane."""
        with self._changed:
            self._closed = True
            self._on_dropped(sum(len(queue) for queue in self._queues.values()))
            left = [request for queue in self._queues.values() for request in queue.clear()]
            self._changed.notify_all()
            return left
