"""To wait for something, but no longer than the caller does."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from embedding_service.errors import DeadlinePassed

T = TypeVar("T")


async def in_thread(
    threads: ThreadPoolExecutor,
    work: Callable[[], T],
    request: Request,
    deadline: float | None,
    give_up: Callable[[], None] = lambda: None,
) -> T:
    """Return what ``work`` does in one of ``threads``; wait for a free one as long as the caller.

    ``give_up`` is called when nobody waits any more, for ``work`` to end soon by raising something.

    Raises:
        ClientDisconnect: The caller has hung up.
        DeadlinePassed: No thread was free in time.
        Exception: Whatever ``work`` raises.
    """
    queued = threads.submit(work)
    done = asyncio.wrap_future(queued)
    try:
        await patiently(request, done, deadline)
    finally:
        give_up()
        # What has begun holds its memory until it ends.
        if not queued.cancel():
            await asyncio.wait({done})
            done.exception()
    if queued.cancelled():
        raise DeadlinePassed("the deadline passed before a thread was free")
    return done.result()


async def patiently(request: Request, awaited: asyncio.Future[T], deadline: float | None) -> None:
    """Wait for ``awaited``, but no longer than the caller does.

    Raises:
        ClientDisconnect: The caller has hung up.
    """
    left = asyncio.ensure_future(_left(request))
    patience_s = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        waiting: set[asyncio.Future[Any]] = {awaited, left}
        await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
    if left.done() and not left.cancelled():
        raise ClientDisconnect


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
