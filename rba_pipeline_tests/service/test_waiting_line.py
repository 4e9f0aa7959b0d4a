"""The line between callers and the owner thread."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.tickets import Lane, PendingRequest
from embedding_service.engine.waiting_line import LineClosed, LineFull, Taken, WaitingLine
from embedding_service.errors import Draining

LIMITS = BatchLimits(max_texts=2, max_padded_tokens=1000)


def request(
    *lengths: int, lane: Lane = "document", deadline: float | None = None
) -> PendingRequest:
    texts = [np.zeros(length, dtype=np.int32) for length in lengths]
    return PendingRequest(texts, entered_at=0.0, lane=lane, deadline=deadline)


def line_of(
    documents: int,
    queries: int = 20,
    *,
    on_dropped: Callable[[int], None] = lambda texts: None,
    clock: Callable[[], float] = lambda: 0.0,
) -> WaitingLine:
    room: dict[Lane, int] = {"document": documents, "query": queries}
    return WaitingLine(max_tokens=room, on_dropped=on_dropped, clock=clock)


def owners(taken: Taken | None) -> list[PendingRequest]:
    assert taken is not None
    return [ticket.request for ticket in taken.batch]


def test_texts_leave_in_order_of_arrival_when_alike() -> None:
    line = line_of(100)
    first, second = request(5, 5), request(5)
    line.put(first)
    line.put(second)

    batches = [owners(line.take(LIMITS)), owners(line.take(LIMITS))]

    assert batches == [[first, first], [second]]
    assert line.tokens("document") == 0


def test_whoever_does_not_wait_is_told_that_there_is_nothing() -> None:
    assert line_of(100).take(LIMITS, wait=False) == Taken([], [])


def test_a_request_goes_in_whole_or_not_at_all() -> None:
    line = line_of(10)
    line.put(request(6))

    with pytest.raises(LineFull):
        line.put(request(2, 3))

    assert line.tokens("document") == 6


def test_a_line_may_be_filled_to_the_last_token() -> None:
    line = line_of(10)

    line.put(request(6))
    line.put(request(4))

    assert line.tokens("document") == 10


def test_a_caller_who_left_makes_room_at_once() -> None:
    dropped: list[int] = []
    line = line_of(10, on_dropped=dropped.append)
    gone = request(4, 4)
    line.put(gone)

    line.forget(gone)
    line.put(request(9))

    assert dropped == [2]
    assert line.tokens("document") == 9


def test_what_is_too_late_is_taken_out_and_the_rest_is_computed() -> None:
    line = line_of(100, clock=lambda: 10.0)
    late, in_time = request(3, deadline=10.0), request(3, deadline=10.5)
    line.put(late)
    line.put(in_time)

    taken = line.take(LIMITS)

    assert taken is not None
    assert taken.late == [late]
    assert [ticket.request for ticket in taken.batch] == [in_time]


def test_a_line_of_late_texts_only_gives_an_empty_batch_rather_than_waiting() -> None:
    line = line_of(100, clock=lambda: 10.0)
    late = request(3, deadline=1.0)
    line.put(late)

    taken = line.take(LIMITS)

    assert taken is not None
    assert (taken.batch, taken.late) == ([], [late])


def test_a_closed_line_hands_back_who_waited_and_refuses_everyone_else() -> None:
    line = line_of(100)
    first, second = request(1, 1), request(1)
    line.put(first)
    line.put(second)

    left = line.close()

    assert left == [first, second]
    assert line.take(LIMITS) is None
    with pytest.raises(LineClosed):
        line.put(request(1))


def test_queries_overtake_documents() -> None:
    line = line_of(100)
    document, query = request(5), request(5, lane="query")
    line.put(document)
    line.put(query)

    assert owners(line.take(LIMITS)) == [query]
    assert owners(line.take(LIMITS)) == [document]


def test_every_fourth_batch_is_of_documents_while_any_wait() -> None:
    line = line_of(100)
    for _ in range(5):
        line.put(request(1, 1, lane="query"))
    line.put(request(1, 1))
    line.put(request(1, 1))

    lanes = [owners(line.take(LIMITS))[0].lane for _ in range(7)]

    assert lanes == ["query"] * 3 + ["document"] + ["query"] * 2 + ["document"]


def test_queries_that_had_the_line_to_themselves_owe_nothing() -> None:
    line = line_of(100)
    for _ in range(4):
        line.put(request(1, 1, lane="query"))
        line.take(LIMITS)

    line.put(request(1))
    line.put(request(1, lane="query"))

    assert owners(line.take(LIMITS))[0].lane == "query"


def test_a_line_full_of_documents_has_room_for_queries() -> None:
    line = line_of(10, 4)
    line.put(request(10))

    line.put(request(4, lane="query"))

    assert (line.tokens("document"), line.tokens("query")) == (10, 4)
    with pytest.raises(LineFull):
        line.put(request(1, lane="query"))


def test_both_lanes_are_answered_for_when_the_line_closes() -> None:
    dropped: list[int] = []
    line = line_of(100, on_dropped=dropped.append)
    document, query = request(1, 1), request(1, lane="query")
    line.put(document)
    line.put(query)

    assert set(line.close()) == {document, query}
    assert dropped == [3]


def test_what_is_put_back_comes_first_again() -> None:
    line = line_of(100)
    first, second = request(5), request(6)
    line.put(first)
    line.put(second)
    taken = line.take(BatchLimits(max_texts=1, max_padded_tokens=10))
    assert taken is not None

    put_back = line.put_back(taken.batch)

    assert put_back
    assert line.tokens("document") == 11
    assert owners(line.take(LIMITS)) == [first, second]


def test_nothing_is_put_back_for_who_has_left() -> None:
    dropped: list[int] = []
    line = line_of(100, on_dropped=dropped.append)
    line.put(request(5))
    taken = line.take(LIMITS)
    assert taken is not None
    taken.batch[0].request.settle(0.0, Draining("gone", 1))

    assert line.put_back(taken.batch)

    assert (line.tokens("document"), dropped) == (0, [1])


def test_nothing_is_put_back_into_a_closed_line() -> None:
    line = line_of(100)
    line.put(request(5))
    taken = line.take(LIMITS)
    line.close()
    assert taken is not None

    assert not line.put_back(taken.batch)


def test_memory_is_looked_at_when_there_is_work_and_not_before() -> None:
    line = line_of(100)
    waited: list[int] = []
    coming = threading.Timer(0.05, line.put, [request(5)])
    coming.start()

    line.take(LIMITS, lambda: waited.append(line.tokens("document")))

    assert waited == [5]


def test_who_leaves_a_long_line_moves_nobody_else() -> None:
    line = line_of(1_000_000)
    requests = [request(*[1] * 10) for _ in range(10_000)]
    for one in requests:
        line.put(one)

    for one in requests[:-1]:
        line.forget(one)

    assert owners(line.take(LIMITS)) == [requests[-1]] * 2
    assert line.tokens("document") == 8
