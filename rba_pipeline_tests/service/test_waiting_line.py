"""The line between callers and the owner thread."""

import numpy as np
import pytest

from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.tickets import PendingRequest
from embedding_service.engine.waiting_line import LineClosed, LineFull, WaitingLine

LIMITS = BatchLimits(max_texts=2, max_padded_tokens=1000)


def request(*lengths: int, deadline: float | None = None) -> PendingRequest:
    texts = [np.zeros(length, dtype=np.int32) for length in lengths]
    return PendingRequest(texts, entered_at=0.0, deadline=deadline)


def test_texts_leave_in_order_of_arrival_when_alike() -> None:
    line = WaitingLine(max_tokens=100)
    first, second = request(5, 5), request(5)
    line.put(first)
    line.put(second)

    batches = [line.take(LIMITS), line.take(LIMITS)]

    owners = [[t.request for t in taken.batch] for taken in batches if taken]
    assert owners == [[first, first], [second]]
    assert line.tokens == 0


def test_a_request_goes_in_whole_or_not_at_all() -> None:
    line = WaitingLine(max_tokens=10)
    line.put(request(6))

    with pytest.raises(LineFull):
        line.put(request(2, 3))

    assert line.tokens == 6


def test_a_line_may_be_filled_to_the_last_token() -> None:
    line = WaitingLine(max_tokens=10)

    line.put(request(6))
    line.put(request(4))

    assert line.tokens == 10


def test_a_caller_who_left_makes_room_at_once() -> None:
    dropped: list[int] = []
    line = WaitingLine(max_tokens=10, on_dropped=dropped.append)
    gone = request(4, 4)
    line.put(gone)

    line.forget(gone)
    line.put(request(9))

    assert dropped == [2]
    assert line.tokens == 9


def test_what_is_too_late_is_taken_out_and_the_rest_is_computed() -> None:
    line = WaitingLine(max_tokens=100, clock=lambda: 10.0)
    late, in_time = request(3, deadline=10.0), request(3, deadline=10.5)
    line.put(late)
    line.put(in_time)

    taken = line.take(LIMITS)

    assert taken is not None
    assert taken.late == [late]
    assert [ticket.request for ticket in taken.batch] == [in_time]


def test_a_line_of_late_texts_only_gives_an_empty_batch_rather_than_waiting() -> None:
    line = WaitingLine(max_tokens=100, clock=lambda: 10.0)
    late = request(3, deadline=1.0)
    line.put(late)

    taken = line.take(LIMITS)

    assert taken is not None
    assert (taken.batch, taken.late) == ([], [late])


def test_a_closed_line_hands_back_who_waited_and_refuses_everyone_else() -> None:
    line = WaitingLine(max_tokens=100)
    first, second = request(1, 1), request(1)
    line.put(first)
    line.put(second)

    left = line.close()

    assert left == [first, second]
    assert line.take(LIMITS) is None
    with pytest.raises(LineClosed):
        line.put(request(1))
