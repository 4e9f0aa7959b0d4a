"""The budget of bytes that all requests share, and the guess at what parsing takes."""

import json
import tracemalloc

import pytest

from embedding_service.api.memory import RequestMemory, parsed_bytes
from embedding_service.api.schemas import parse_request
from embedding_service.errors import EngineError, MemoryFull, TooLarge


def test_what_one_holds_is_missing_for_the_others_until_it_is_given_back() -> None:
    memory = RequestMemory(100)
    first, second = memory.holding(), memory.holding()
    first.set(60)

    with pytest.raises(MemoryFull, match="other requests hold 60 of 100 bytes") as refusal:
        second.set(41, retry_after_s=lambda: 7)
    first.release()
    second.set(41)

    assert refusal.value.retry_after_s == 7
    assert memory.held_bytes == 41


def test_what_is_held_can_grow_and_shrink() -> None:
    memory = RequestMemory(100)
    holding = memory.holding()

    held = []
    for n_bytes in (40, 100, 10, 0):
        holding.set(n_bytes)
        held.append(memory.held_bytes)

    assert held == [40, 100, 10, 0]


def test_a_request_beyond_the_whole_budget_is_told_to_split() -> None:
    with pytest.raises(TooLarge, match="would take 101 of 100 bytes; split it"):
        RequestMemory(100).holding().set(101)


def test_a_refused_growth_leaves_what_was_held() -> None:
    memory = RequestMemory(100)
    holding, other = memory.holding(), memory.holding()
    holding.set(30)
    other.set(60)

    with pytest.raises(MemoryFull):
        holding.set(50)

    assert memory.held_bytes == 90


def test_a_part_of_the_budget_is_kept_for_short_requests() -> None:
    memory = RequestMemory(800)
    bulk, more, search = memory.holding(), memory.holding(), memory.holding()
    bulk.short = more.short = False
    bulk.set(700)

    with pytest.raises(MemoryFull, match="other requests hold 700 of 700 bytes"):
        more.set(1)
    search.set(100)

    assert memory.held_bytes == 800


def test_a_short_body_that_grows_large_takes_nothing_of_what_is_kept() -> None:
    with pytest.raises(TooLarge, match="of 7340032 bytes; split it"):
        RequestMemory(2**23).holding().set(2**23 - 1)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps({"input": ["plain words " * 9] * 2000}).encode(), id="ascii"),
        pytest.param(json.dumps({"input": ["ä " * 90] * 2000}).encode(), id="escapes"),
        pytest.param(
            json.dumps({"input": ["x" * 99_999 + "\U0001f3e6"]}, ensure_ascii=False).encode(),
            id="one-character-of-four-bytes-widens-all",
        ),
        pytest.param(("中" * 200_000).join(['{"input":"', '"}']).encode(), id="two-bytes-each"),
        pytest.param(b'{"input":["a"],"x":[' + b"[]," * 200_000 + b"[]]}", id="empty-lists"),
        pytest.param(b'{"input":["a"],"x":[' + b"{}," * 200_000 + b"{}]}", id="empty-objects"),
        pytest.param(b'{"input":["a"],"x":[' + b"1.5," * 200_000 + b"1]}", id="numbers"),
        pytest.param(b'{"input":[' + b'"",' * 200_000 + b'""]}', id="empty-texts"),
        pytest.param(
            b"{" + b",".join(b'"%d":%d' % (i, i) for i in range(100_000)) + b"}", id="names"
        ),
    ],
)
def test_parsing_takes_no_more_than_was_guessed(body: bytes) -> None:
    tracemalloc.start()
    try:
        parse_request(body)
    except EngineError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak + len(body) <= parsed_bytes(body)


def test_the_guess_for_prose_is_a_few_times_its_size() -> None:
    body = json.dumps({"input": ["The Board, at its meeting, left rates alone. "] * 500}).encode()

    assert parsed_bytes(body) < 8 * len(body)
