"""All checks of one installation."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.definitions import Settings
from rba_pipeline.doctor import configuration, dagster_home, folders
from rba_pipeline.doctor.database import ABOUT as DATABASE
from rba_pipeline.doctor.database import database
from rba_pipeline.doctor.findings import Check, Finding, failed, look
from rba_pipeline.doctor.service import ABOUT as SERVICE
from rba_pipeline.doctor.service import service
from rba_pipeline.neighbours import Neighbours, made_of

_ADDRESSES = ("RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL")


def examine(root: Path, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found, whatever fails on the way.

    Args:
        root: The project's folder.
        environment: That of this process.
    """
    checks: list[tuple[str, Check]] = [
        (configuration.ABOUT, lambda: configuration.variables(environment))
    ]
    try:
        settings, _ = configuration.readable_settings(environment)
    except BadSetting:
        yield from look(checks, _secrets(environment))
        return
    checks += [
        (SERVICE, lambda: service(_neighbours(settings))),
        (DATABASE, lambda: _of_database(settings, environment)),
        (
            dagster_home.ABOUT,
            lambda: dagster_home.dagster(root, _neighbours(settings), environment),
        ),
        ("record", lambda: folders.record(settings)),
        ("source", lambda: folders.source(settings)),
    ]
    yield from look(checks, _secrets(environment))


def _neighbours(settings: Settings) -> Neighbours:
    """Return neighbours for one check, which has a thread of its own, and asks once."""
    found = made_of(settings)
    return replace(found, vector_store=found.vector_store.model_copy(update={"retry_for_s": 0}))


def _of_database(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    if not environment.get("RBA_DATABASE_URL"):
        yield failed(
            DATABASE, "RBA_DATABASE_URL is not set: run in the project's folder, or set it"
        )
        return
    yield from database(_neighbours(settings), dagster_home.concurrent_runs(environment))


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Return keys and passwords, also as they stand in an address."""
    secrets = environment.get("EMBEDDING_API_KEY", "").split(",")
    for name in _ADDRESSES:
        password = urlsplit(environment.get(name, "")).password or ""
        secrets += [password, unquote(password)]
    return [secret.strip() for secret in secrets if secret.strip()]
