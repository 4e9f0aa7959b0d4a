"""Waiting for a thread that is busy, as long as the caller does."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from embedding_service.api.waiting import in_thread
from embedding_service.errors import DeadlinePassed


def ask(*, leaves: bool = False, deadline: float | None = None) -> None:
    """Wait for the only thread, which is busy; the work must never be done."""
    begun, release, worked = threading.Event(), threading.Event(), threading.Event()
    given_up = threading.Event()

    def busy() -> None:
        begun.set()
        release.wait()

    async def receive() -> Message:
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    with ThreadPoolExecutor(1) as threads:
        threads.submit(busy)
        begun.wait()
        try:
            request = Request({"type": "http"}, receive)
            asyncio.run(in_thread(threads, worked.set, request, deadline, given_up.set))
        finally:
            release.set()
            threads.shutdown(wait=True)
            assert given_up.is_set()
            assert not worked.is_set()


def test_a_callers_deadline_ends_the_wait_for_a_thread() -> None:
    with pytest.raises(DeadlinePassed):
        ask(deadline=time.monotonic() + 0.01)


def test_a_caller_who_leaves_ends_the_wait_for_a_thread() -> None:
    with pytest.raises(ClientDisconnect):
        ask(leaves=True)
