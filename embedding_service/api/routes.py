"""The paths of the service."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import orjson
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from embedding_service.api.answers import Limits, info_body, vectors_body
from embedding_service.api.schemas import EmbeddingRequest, parse_request
from embedding_service.backend.base import Backend, Vectors
from embedding_service.engine.admission import AdmissionLimits, Admitted, admit
from embedding_service.engine.dimensions import check_dimensions, cut
from embedding_service.engine.engine import Engine
from embedding_service.engine.lifecycle import Lifecycle
from embedding_service.engine.tickets import PendingRequest
from embedding_service.errors import (
    BackendFailed,
    BadRequest,
    DeadlinePassed,
    EngineError,
    TooLarge,
)

_CALLER_LEFT = 499  # nginx's: nobody reads it, but it is told apart in a log


class Routes:
    """Answers over one ``Lifecycle``. Slow work is done in threads, waiting is done in none."""

    def __init__(
        self, lifecycle: Lifecycle, *, limits: Callable[[Backend], Limits], version: str
    ) -> None:
        self._lifecycle = lifecycle
        self._limits = limits
        self._version = version

    def router(self) -> APIRouter:
        router = APIRouter()
        schema = {"application/json": {"schema": EmbeddingRequest.model_json_schema()}}
        for path in ("/embeddings", "/v1/embeddings"):
            router.add_api_route(
                path,
                self.embeddings,
                methods=["POST"],
                openapi_extra={"requestBody": {"required": True, "content": schema}},
            )
        for path, answer in (
            ("/live", self.live),
            ("/ready", self.ready),
            ("/health", self.health),
            ("/info", self.info),
            ("/tokenizer.json", self.tokenizer),
        ):
            router.add_api_route(path, answer, methods=["GET"])
        return router

    async def live(self) -> Response:
        """Answers as long as the process does."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """200 once warm-up and self-test have passed; 503 before, while draining, when broken."""
        self._lifecycle.engine()
        return _json({"ready": True})

    async def health(self) -> Response:
        """Both, with model, device and counters; 200 whatever the state."""
        engine = self._lifecycle.loaded
        stats = self._lifecycle.stats.snapshot(engine.queue_tokens if engine else 0)
        return _json(
            {
                "live": True,
                "ready": self._lifecycle.ready,
                "model": engine.backend.space.model if engine else None,
                "device": engine.backend.device if engine else None,
                "stats": stats,
            }
        )

    async def info(self) -> Response:
        """What is served: model, space, limits, prompts."""
        backend = self._lifecycle.engine().backend
        body = info_body(backend, self._limits(backend), self._version)
        return Response(body, media_type="application/json")

    async def tokenizer(self) -> Response:
        """The tokenizer without truncation and padding, for exact counts on the client's side."""
        body = self._lifecycle.engine().backend.tokenizer_json
        return Response(body, media_type="application/json")

    async def embeddings(self, request: Request) -> Response:
        """One unit vector per text, in the order of ``input``."""
        stats = self._lifecycle.stats
        stats.request_arrived()
        try:
            with self._lifecycle.visit() as engine:
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
        deadline = _deadline(request, arrived)
        limits = self._limits(engine.backend)
        body = await _body(request, limits.max_body_bytes)
        engine.refuse_if_full()
        loop = asyncio.get_running_loop()
        asked, admitted = await loop.run_in_executor(None, _admitted, body, engine.backend, limits)
        engine.stats.request_admitted(len(admitted.ids))
        pending = await _settled(request, engine, admitted, deadline)
        answer = await loop.run_in_executor(
            None, _rendered, pending.result(), asked, admitted, engine.backend
        )
        waited = max(0.0, time.monotonic() - arrived - pending.compute_s)
        return Response(
            answer,
            media_type="application/json",
            headers={
                "X-Queue-Tokens": str(engine.queue_tokens),
                "X-Tokens-Per-Second": f"{engine.stats.tokens_per_second():.1f}",
                "X-Wait-Seconds": f"{waited:.4f}",
                "X-Compute-Seconds": f"{pending.compute_s:.4f}",
            },
        )


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _deadline(request: Request, arrived: float) -> float | None:
    """Return the moment (``time.monotonic``) at which the caller's patience ends, if it says so."""
    header = request.headers.get("x-request-timeout-ms")
    if header is None:
        return None
    try:
        patience_ms = int(header[:20])
    except ValueError:
        raise BadRequest("X-Request-Timeout-Ms: expected whole milliseconds") from None
    if patience_ms <= 0:
        raise DeadlinePassed("the deadline had passed when the request arrived")
    return arrived + patience_ms / 1000


async def _body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body. The limit holds for what arrives, whatever the headers announce."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"the body has more than {max_bytes} bytes; split the request")
        chunks.append(chunk)
    return b"".join(chunks)


def _admitted(body: bytes, backend: Backend, limits: Limits) -> tuple[EmbeddingRequest, Admitted]:
    asked = parse_request(body)
    _check_model(asked.model, backend.space.model)
    check_dimensions(backend, asked.dimensions)
    admitted = admit(
        asked.texts,
        asked.input_type,
        truncate=asked.truncate,
        backend=backend,
        limits=AdmissionLimits(limits.max_texts, limits.max_queue_tokens),
    )
    return asked, admitted


def _check_model(asked: str | None, served: str) -> None:
    if asked not in (None, served, served.rpartition("/")[2], "default"):
        raise BadRequest(f"model: {served} is served here, {asked!r:.100} was asked for")


async def _settled(
    request: Request, engine: Engine, admitted: Admitted, deadline: float | None
) -> PendingRequest:
    """Wait for the vectors, but no longer than the caller does."""
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()

    def wake() -> None:
        # Closed means that the process is ending and nobody waits on this loop any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settled.set)

    pending = engine.submit(admitted.ids, deadline=deadline, on_settled=wake)
    waiting = {asyncio.ensure_future(settled.wait()), asyncio.ensure_future(_left(request))}
    patience_s = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        engine.leave(pending)
    return pending


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _rendered(
    vectors: Vectors, asked: EmbeddingRequest, admitted: Admitted, backend: Backend
) -> bytes:
    dimensions = check_dimensions(backend, asked.dimensions)
    layer_norm = backend.matryoshka is not None and backend.matryoshka.layer_norm_first
    return vectors_body(
        cut(vectors, dimensions, layer_norm_first=layer_norm),
        admitted=admitted,
        space=backend.space.cut_to(dimensions),
        encoding_format=asked.encoding_format,
    )
