"""The composition root: builds everything from settings, starts it and stops it."""

import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI

from embedding_service.api.answers import Limits
from embedding_service.api.bodies import Uploads
from embedding_service.api.embeddings import SHORT_THREADS, Embeddings
from embedding_service.api.errors import add_error_handlers
from embedding_service.api.memory import RequestMemory
from embedding_service.api.metrics import Metrics
from embedding_service.api.request_log import RequestLog
from embedding_service.api.routes import Routes
from embedding_service.api.security import KeyRequired
from embedding_service.backend.base import Backend
from embedding_service.backends import load_backend
from embedding_service.engine.admission import max_chars, tokenising_bytes
from embedding_service.engine.engine import Engine
from embedding_service.engine.lifecycle import Lifecycle
from embedding_service.engine.memory import MemoryGuard
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.stats import Stats
from embedding_service.errors import SettingRefused
from embedding_service.process_memory import resident_and_peak_bytes, usable_bytes
from embedding_service.settings import Settings

_logger = logging.getLogger(__name__)

# On two cores a pass of more than about 2,048 padded tokens is slower per token, not faster. Hardly
# more than attention is padded: a seventh of a pass over texts of the usual lengths, and twice that
# at the margin, because it grows with the square of the longest.
_CPU_BATCH = BatchLimits(max_texts=32, max_padded_tokens=2048, padding_cost=0.3)
# An accelerator wants passes large enough to hide what each costs to launch: on an H100 as much as
# 4,000 to 8,000 tokens. There flash attention pads nothing; where it is not to be had, MPNet for
# instance, attention is about an eighth of a pass.
_ACCELERATOR_BATCH = BatchLimits(
    max_texts=256,
    max_padded_tokens=32_768,
    look_ahead=2048,
    pass_tokens=4096,
    padding_cost=0.1,
)
# Up to this length attention is the smaller part of the work, a third of that of the matrices in
# nomic's, and padded tokens alone bound a batch. Batches of longer texts hold fewer of them, in
# proportion, so that none takes much longer than a full one of ordinary texts.
_ATTENTION_LENGTH = 2048
# Parsing and tokenising take memory beside a body's own, and cores from the model: not more than
# half of them, so that a pass does not take twice as long whenever a bulk load arrives.
_MOST_LONG_THREADS = 8


def create_app(
    settings: Settings,
    backend: Backend | None = None,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_broken: Callable[[BaseException], None] = lambda error: None,
) -> FastAPI:
    """Return an application whose start begins to load the model, in the background.

    Args:
        settings: As checked by ``read_settings``.
        backend: Served in place of the model that ``settings`` names.
        on_ready: Called in another thread once requests are let in.
        on_broken: Called in another thread when the service can serve nothing any more.
    """
    lifecycle = build_lifecycle(settings, backend, on_ready=on_ready, on_broken=on_broken)

    memory = RequestMemory(settings.max_request_memory)
    metrics = Metrics(lifecycle, memory, version=_version())
    uploads = Uploads()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        lifecycle.start()
        yield
        lifecycle.stop(timeout_s=0)

    app = FastAPI(
        title="Embedding service",
        version=_version(),
        description="One unit vector for each text, the same however the texts are batched. "
        "Another path is answered with 404, another method with 405, in the shape of every error.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(_routes(settings, lifecycle, metrics, uploads).router())
    add_error_handlers(app)
    app.add_middleware(KeyRequired, keys=settings.api_keys)
    app.add_middleware(RequestLog, memory=memory, metrics=metrics)
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    app.state.uploads = uploads
    return app


def _routes(settings: Settings, lifecycle: Lifecycle, metrics: Metrics, uploads: Uploads) -> Routes:
    def limits(engine: Engine) -> Limits:
        return _limits(settings, engine)

    return Routes(
        lifecycle,
        embeddings=Embeddings(
            lifecycle,
            limits=limits,
            body_seconds=settings.body_seconds,
            uploads=uploads,
            long_threads=_long_threads(settings),
        ),
        metrics=metrics,
        limits=limits,
        version=_version(),
    )


def _long_threads(settings: Settings) -> int:
    return max(1, min(settings.threads // 2, _MOST_LONG_THREADS))


def build_lifecycle(
    settings: Settings,
    backend: Backend | None,
    *,
    on_ready: Callable[[], None],
    on_broken: Callable[[BaseException], None],
) -> Lifecycle:
    """Return the part of the application that has a life, not started."""
    stats = Stats()

    def load() -> Engine:
        return _engine(settings, backend or load_backend(settings), stats, lifecycle.broken)

    lifecycle = Lifecycle(load, stats=stats, on_ready=on_ready, on_broken=on_broken)
    return lifecycle


def _engine(
    settings: Settings,
    backend: Backend,
    stats: Stats,
    on_death: Callable[[BaseException], None],
) -> Engine:
    if settings.max_queue_tokens < backend.max_tokens:
        raise SettingRefused(
            f"EMBEDDING_MAX_QUEUE_TOKENS={settings.max_queue_tokens}: expected at least "
            f"{backend.max_tokens}, the longest text that {backend.space.model} takes"
        )
    return Engine(
        backend,
        limits=batch_limits(settings, backend),
        max_queue_tokens=settings.max_queue_tokens,
        stats=stats,
        memory=memory_guard(settings, backend),
        watchdog_s=settings.watchdog_seconds,
        on_death=on_death,
    )


def batch_limits(settings: Settings, backend: Backend) -> BatchLimits:
    """Return the bounds of one forward pass: of the settings, else what suits the device.

    Raises:
        SettingRefused: More texts are asked for than are looked at for one pass.
    """
    usual = _CPU_BATCH if backend.device == "cpu" else _ACCELERATOR_BATCH
    padded = settings.max_batch_tokens or usual.max_padded_tokens
    texts = settings.server_batch_size or usual.max_texts
    if texts > usual.look_ahead:
        raise SettingRefused(
            f"EMBEDDING_SERVER_BATCH_SIZE={texts}: expected at most {usual.look_ahead} on "
            f"{backend.device}"
        )
    return dataclasses.replace(
        usual,
        max_texts=texts,
        max_padded_tokens=padded,
        max_attention=padded * _ATTENTION_LENGTH,
        native_tokens=backend.native_tokens,
        pass_size=backend.pass_size,
    )


def memory_guard(
    settings: Settings,
    backend: Backend,
    measure: Callable[[], tuple[int, int]] = resident_and_peak_bytes,
) -> MemoryGuard | None:
    """Return what bounds the memory of passes; None where it cannot be measured.

    ``measure`` is as for ``MemoryGuard``; it raises ``OSError`` on a system that does not tell.

    Raises:
        SettingRefused: A limit is set that could not be kept: the passes take another memory than
            the process's, or nothing tells how much they take.
    """
    if backend.device != "cpu":
        if settings.max_memory is not None:
            raise SettingRefused(
                f"EMBEDDING_MAX_MEMORY={int(settings.max_memory)}: leave it unset, it bounds no "
                f"pass on {backend.device}; EMBEDDING_MAX_BATCH_TOKENS does"
            )
        _logger.info("passes are not bounded by memory: they take that of %s", backend.device)
        return None
    try:
        measure()
    except OSError as error:
        if settings.max_memory is not None:
            raise SettingRefused(
                f"EMBEDDING_MAX_MEMORY={int(settings.max_memory)}: leave it unset, it bounds no "
                f"pass on this system, where memory cannot be measured: {error}"
            ) from None
        _logger.warning("passes are not bounded by memory, which cannot be measured: %s", error)
        return None
    tokenising = tokenising_bytes(SHORT_THREADS + _long_threads(settings), backend.max_tokens)
    return MemoryGuard(
        settings.max_memory or usable_bytes(),
        measure,
        reserved_bytes=settings.max_request_memory + tokenising,
    )


def _limits(settings: Settings, engine: Engine) -> Limits:
    return Limits(
        max_texts=settings.max_texts,
        max_tokens_per_text=engine.backend.max_tokens,
        max_batch_tokens=engine.limits.max_padded_tokens,
        server_batch_size=engine.limits.max_texts,
        max_queue_tokens=engine.room["document"],
        max_query_queue_tokens=engine.room["query"],
        max_body_bytes=settings.max_body_bytes,
        max_chars_per_text=max_chars(engine.backend),
    )


def _version() -> str:
    try:
        return metadata.version("rba-pipeline")
    except metadata.PackageNotFoundError:
        return "0"
