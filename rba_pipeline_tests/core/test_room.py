"""How large a request may be after some were refused as too large."""

from rba_pipeline.core.room import Bound, Room


def bound_at(most: int) -> Bound:
    """Return a bound after a request of twice as much was refused, and nothing answered yet."""
    return Bound().refused(2 * most)


def refusals(limit: int, rounds: int) -> int:
    """Return how many requests are refused that are as large as may be, one after the other."""
    bound, refused = bound_at(limit), 0
    for _ in range(rounds):
        size = int(bound.limit)
        bound = bound.sent(size)
        refused += size > limit
        bound = bound.answered(size) if size <= limit else bound
    return refused


def test_nothing_bounds_a_request_before_one_was_refused() -> None:
    assert Room().allows(1 << 40, 1 << 20)


def test_what_was_refused_is_halved() -> None:
    assert bound_at(50).limit == 50


def test_twice_as_much_is_tried_after_an_answer_near_the_bound_and_by_one_request_only() -> None:
    near, little = bound_at(50).answered(40), bound_at(50).answered(20)

    assert (near.limit, little.limit) == (100, 50)
    assert near.sent(90).limit == 50
    assert near.sent(90).answered(90).limit == 180


def test_a_lasting_limit_refuses_a_few_of_thousands() -> None:
    assert refusals(100, 10) == 3
    assert refusals(100, 5000) <= 13


def test_requests_that_were_in_flight_at_one_refusal_count_once() -> None:
    room = Room()
    for _ in range(8):
        room = room.refused(3200, 32)

    assert room.characters.limit == 1600


def test_what_was_taken_before_is_refused_for_one_of_its_texts_unless_it_happens_again() -> None:
    room = Room().answered(3200, 32)
    once = room.refused(3200, 32)

    assert once.allows(3200, 32)
    assert not once.refused(3200, 32).allows(3200, 32)
    assert once.answered(3200, 32).refused(3200, 32).allows(3200, 32)


def test_more_texts_than_ever_of_fewer_characters_than_were_taken_are_bounded_by_number() -> None:
    room = Room().answered(5000, 10).refused(300, 30)

    assert room.allows(5000, 15)
    assert not room.allows(300, 16)


def test_a_single_text_is_no_request_that_is_tried() -> None:
    room = Room().refused(160, 32)

    assert room.sent(500, 1) == room
    assert room.answered(500, 1).allows(1000, 2)
