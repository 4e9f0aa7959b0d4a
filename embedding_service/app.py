"""The composition root: builds everything from settings, starts it and stops it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI

from embedding_service.api.answers import Limits
from embedding_service.api.errors import add_error_handlers
from embedding_service.api.routes import Routes
from embedding_service.api.security import KeyRequired
from embedding_service.backend.base import Backend
from embedding_service.engine.engine import Engine
from embedding_service.engine.lifecycle import Lifecycle
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.stats import Stats
from embedding_service.errors import SettingRefused
from embedding_service.settings import Settings

# On two cores a pass of more than about 2,048 padded tokens is slower per token, not faster; an
# accelerator wants passes large enough to hide what each costs to launch.
_CPU_BATCH = BatchLimits(max_texts=32, max_padded_tokens=2048)
_ACCELERATOR_BATCH = BatchLimits(max_texts=256, max_padded_tokens=65_536)


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

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        lifecycle.start()
        yield
        lifecycle.stop(timeout_s=0)

    app = FastAPI(title="Embedding service", lifespan=life, docs_url=None, redoc_url=None)
    routes = Routes(lifecycle, limits=lambda loaded: _limits(settings, loaded), version=_version())
    app.include_router(routes.router())
    add_error_handlers(app)
    key = settings.api_key.get_secret_value() if settings.api_key else None
    app.add_middleware(KeyRequired, key=key)
    app.state.lifecycle = lifecycle
    return app


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
        return _engine(settings, backend or _load(settings), stats, lifecycle.broken)

    lifecycle = Lifecycle(load, stats=stats, on_ready=on_ready, on_broken=on_broken)
    return lifecycle


def _load(settings: Settings) -> Backend:
    from embedding_service.backend.models import find_model

    folder = find_model(settings.model, settings.model_revision)
    # After the folder's checks: this import takes seconds.
    from embedding_service.backend.sentence_transformer import SentenceTransformerBackend

    return SentenceTransformerBackend(
        folder,
        device=settings.device,
        threads=settings.threads,
        max_tokens=settings.max_seq_length,
    )


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
        limits=_batch_limits(settings, backend),
        max_queue_tokens=settings.max_queue_tokens,
        stats=stats,
        on_death=on_death,
    )


def _batch_limits(settings: Settings, backend: Backend) -> BatchLimits:
    usual = _CPU_BATCH if backend.device == "cpu" else _ACCELERATOR_BATCH
    return BatchLimits(
        max_texts=settings.server_batch_size or usual.max_texts,
        max_padded_tokens=settings.max_batch_tokens or usual.max_padded_tokens,
    )


def _limits(settings: Settings, backend: Backend) -> Limits:
    batch = _batch_limits(settings, backend)
    return Limits(
        max_texts=settings.max_texts,
        max_tokens_per_text=backend.max_tokens,
        max_batch_tokens=batch.max_padded_tokens,
        server_batch_size=batch.max_texts,
        max_queue_tokens=settings.max_queue_tokens,
        max_body_bytes=settings.max_body_bytes,
    )


def _version() -> str:
    try:
        return metadata.version("rba-pipeline")
    except metadata.PackageNotFoundError:
        return "0"
