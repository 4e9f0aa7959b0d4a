"""``POST /embeddings``: from a body to vectors, within what the service and the caller allow."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from embedding_service.api.answers import Limits
from embedding_service.api.bodies import (
    SHORT_BODY_BYTES,
    BodyLimits,
    Uploads,
    deadline_of,
    read_body,
)
from embedding_service.api.jobs import Job, parsed, rendered
from embedding_service.api.memory import answer_bytes, parsed_bytes
from embedding_service.api.records import RequestRecord, record_of
from embedding_service.api.waiting import in_thread, patiently
from embedding_service.engine.engine import Engine
from embedding_service.engine.lifecycle import Lifecycle
from embedding_service.engine.tickets import PendingRequest
from embedding_service.errors import BackendFailed, EngineError, QueueFull

_CALLER_LEFT = 499  # nginx's: nobody reads it, but it is told apart in a log

# A search must not wait for a bulk load to be tokenised.
SHORT_THREADS = 2
_PIECE_BYTES = 262_144
_ID_BYTES = 4


class Embeddings:
    """Answers over one ``Lifecycle``. Slow work is done in threads, waiting is done in none."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        limits: Callable[[Engine], Limits],
        body_seconds: float,
        uploads: Uploads,
        long_threads: int,
    ) -> None:
        """``long_threads`` is how many bodies beyond a search's are tokenised at once."""
        self._lifecycle = lifecycle
        self._limits = limits
        self._body_seconds = body_seconds
        self._uploads = uploads
        self._short = ThreadPoolExecutor(SHORT_THREADS, "short-requests")
        self._long = ThreadPoolExecutor(long_threads, "long-requests")

    async def answer(self, request: Request) -> Response:
        """One unit vector per text, in the order of ``input``."""
        stats = self._lifecycle.stats
        stats.request_arrived()
        try:
            # A service that stops waits until the answer has been taken.
            engine = record_of(request.scope).until_sent.enter_context(self._lifecycle.visit())
            return await self._embed(request, engine)
        except ClientDisconnect:
            return Response(status_code=_CALLER_LEFT)
        except EngineError as error:
            if not isinstance(error, BackendFailed):
                stats.request_refused()
            raise
        finally:
            stats.request_answered()

    async def _embed(self, request: Request, engine: Engine) -> Response:
        arrived = time.monotonic()
        record = record_of(request.scope)
        deadline = deadline_of(request, arrived)
        job = await self._admit(request, engine, record, deadline)
        engine.stats.request_admitted(len(job.admitted.ids))
        record.texts = len(job.admitted.ids)
        record.tokens = sum(map(len, job.admitted.ids))
        record.holding.set(
            answer_bytes(record.texts, job.dimensions) + _ID_BYTES * record.tokens,
            retry_after_s=engine.retry_after_s,
        )
        pending = await _settled(request, engine, job, deadline)
        record.compute_s = pending.compute_s
        vectors = pending.result()
        work = partial(rendered, vectors, job, engine.backend)
        body = await in_thread(self._threads(record), work, request, deadline)
        record.wait_s = max(0.0, time.monotonic() - arrived - pending.compute_s)
        return _Answer(
            body,
            media_type="application/json",
            headers={
                "X-Queue-Tokens": str(engine.queue_tokens),
                "X-Tokens-Per-Second": f"{engine.stats.tokens_per_second():.1f}",
                "X-Wait-Seconds": f"{record.wait_s:.4f}",
                "X-Compute-Seconds": f"{record.compute_s:.4f}",
            },
        )

    async def _admit(
        self, request: Request, engine: Engine, record: RequestRecord, deadline: float | None
    ) -> Job:
        """Return what is to be computed; body and texts are gone when this returns."""
        limits = self._limits(engine)
        body = await read_body(
            request,
            record,
            BodyLimits(limits.max_body_bytes, self._body_seconds),
            self._uploads,
            deadline=deadline,
            retry_after_s=engine.retry_after_s,
        )
        _refuse_if_full(engine)
        record.holding.set(parsed_bytes(body), retry_after_s=engine.retry_after_s)
        given_up = threading.Event()
        work = partial(parsed, body, engine, limits, given_up.is_set)
        threads = self._threads(record)
        return await in_thread(threads, work, request, deadline, given_up.set)

    def _threads(self, record: RequestRecord) -> ThreadPoolExecutor:
        return self._short if record.body_bytes <= SHORT_BODY_BYTES else self._long


def _refuse_if_full(engine: Engine) -> None:
    """Cheaper than to tokenise first; while one lane has room, the texts may be for that one."""
    with contextlib.suppress(QueueFull):
        engine.refuse_if_full("query")
        return
    engine.refuse_if_full("document")


class _Answer(Response):
    """A body sent in pieces; the last of them, which is empty, waits until all has been taken."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        whole = memoryview(self.body)
        for at in range(0, len(whole), _PIECE_BYTES):
            piece = whole[at : at + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _settled(
    request: Request, engine: Engine, job: Job, deadline: float | None
) -> PendingRequest:
    """Wait for the vectors, but no longer than the caller does.

    Raises:
        ClientDisconnect: The caller has hung up.
    """
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()

    def wake() -> None:
        # Closed means that the process is ending and nobody waits on this loop any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settled.set)

    pending = engine.submit(
        job.admitted.ids,
        lane=job.lane,
        deadline=deadline,
        request_id=record_of(request.scope).request_id,
        on_settled=wake,
    )
    waiting = asyncio.ensure_future(settled.wait())
    try:
        await patiently(request, waiting, deadline)
    finally:
        waiting.cancel()
        engine.leave(pending)
    return pending
