"""Free memory goes back to the system, now and then."""

import ctypes

import psutil
import pytest

from embedding_service.backend.fake import FakeBackend
from embedding_service.engine.heap import EVERY_S, Heap, give_back
from embedding_service.engine.passes import Passes
from embedding_service.engine.watchdog import Watchdog

_BLOCK, _BLOCKS = 32 * 1024, 4000


def test_what_is_free_between_blocks_in_use_goes_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(_BLOCK) for _ in range(_BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, _BLOCK)
    # The last one keeps the others' place from being given back without being asked.
    for block in blocks[:-1]:
        libc.free(block)
    before = psutil.Process().memory_info().rss

    give_back()

    after = psutil.Process().memory_info().rss
    libc.free(blocks[-1])
    assert before - after > _BLOCK * _BLOCKS // 2


def test_it_is_given_back_once_in_a_while() -> None:
    now_s, given_back = [0.0], list[float]()
    heap = Heap(lambda: now_s[0], lambda: given_back.append(now_s[0]))

    for now_s[0] in (0.0, EVERY_S - 1, EVERY_S, EVERY_S + 1, 2 * EVERY_S - 1, 2 * EVERY_S):
        heap.tidy()

    assert given_back == [EVERY_S, 2 * EVERY_S]


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_pass_of_the_model_is_such_a_while(overlaps: bool) -> None:
    now_s, given_back = [0.0], list[float]()
    backend = FakeBackend(overlaps=overlaps)
    passes = Passes(
        backend,
        watchdog=Watchdog(10, lambda _: None),
        memory=None,
        heap=Heap(lambda: now_s[0], lambda: given_back.append(now_s[0])),
        retry_after_s=lambda: 1,
    )
    ids = backend.tokenise(["the cash rate"], "raw")

    for now_s[0] in (0.0, EVERY_S):
        passes.begin(ids)()

    assert given_back == [EVERY_S]
