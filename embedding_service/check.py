"""``python -m embedding_service check``: the invariance contract, for the model of the settings."""

import sys
from dataclasses import dataclass

from embedding_service.app import batch_limits, memory_guard
from embedding_service.backend.base import Backend
from embedding_service.backends import load_backend
from embedding_service.engine.invariance import Report, check_contract
from embedding_service.errors import EngineError
from embedding_service.settings import Settings

PASSED, FAILED = 0, 1


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is tried; counts of at least 1."""

    batches: int
    threads: int
    seed: int


def run(settings: Settings, extent: Extent, backend: Backend | None = None) -> int:
    """Print a table of what was found; return 0 if the contract holds, 1 if not.

    Args:
        settings: As checked by ``read_settings``.
        extent: How much is tried.
        backend: Checked in place of the model that ``settings`` names.

    Raises:
        StartupError: The settings or the model are refused.
    """
    backend = backend or load_backend(settings)

    def show(done: int) -> None:
        print(f"\r{done} of {extent.batches} batches", end="", file=sys.stderr, flush=True)

    try:
        report = check_contract(
            backend,
            batch_limits(settings, backend),
            batches=extent.batches,
            threads=extent.threads,
            seed=extent.seed,
            memory=memory_guard(settings, backend),
            watchdog_s=settings.watchdog_seconds,
            on_progress=show,
        )
    except (EngineError, TimeoutError) as error:
        print(f"\nfailed: {error.__cause__ or error}", file=sys.stderr)
        return FAILED
    print(file=sys.stderr)
    print(_table(backend, report))
    return PASSED if report.passed else FAILED


def _table(backend: Backend, report: Report) -> str:
    rows = {
        "model": f"{backend.space.model}, {backend.runtime} {backend.precision}, {backend.device}",
        "compositions": str(report.compositions),
        "texts": str(report.texts),
        "long texts": _long_texts(backend, report),
        "left out": f"{report.left_out}{_why_left_out(report)}",
        "worst |delta|": f"{report.worst_delta:.2e}",
        "worst cosine": f"{report.worst_cosine:.7f}",
        "bound": report.bound,
        "seconds": f"{report.seconds:.1f}",
        "result": "passed" if report.passed else "FAILED",
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def _why_left_out(report: Report) -> str:
    return ": they need more memory than EMBEDDING_MAX_MEMORY leaves" if report.left_out else ""


def _long_texts(backend: Backend, report: Report) -> str:
    if backend.max_tokens <= backend.native_tokens:
        return f"0: none are taken beyond {backend.max_tokens} tokens (EMBEDDING_MAX_SEQ_LENGTH)"
    return str(report.long_texts)
