"""All checks of one installation."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from rba_pipeline.core.addresses import address_parts, hidden
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.doctor import configuration, dagster_home, folders
from rba_pipeline.doctor.database import ABOUT as DATABASE
from rba_pipeline.doctor.database import database
from rba_pipeline.doctor.findings import Check, Finding, failed, look
from rba_pipeline.doctor.service import ABOUT as SERVICE
from rba_pipeline.doctor.service import service
from rba_pipeline.neighbours import Neighbours, made_of
from rba_pipeline.settings import Settings

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
        yield from look(checks, lambda told: concealed(told, environment))
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
    yield from look(checks, lambda told: concealed(told, environment))


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
    address_parts("RBA_DATABASE_URL", environment["RBA_DATABASE_URL"])
    yield from database(_neighbours(settings), dagster_home.concurrent_runs(environment))


def concealed(told: str, environment: Mapping[str, str]) -> str:
    """Return a finding's words without the passwords and keys that a library put there."""
    for name in _ADDRESSES:
        told = hidden(told, environment.get(name, ""))
    for key in environment.get("EMBEDDING_API_KEY", "").split(","):
        # Alone, as a header shows it: a short one may be a part of other words.
        if key.strip():
            told = re.sub(rf"(?<![\w/.-]){re.escape(key.strip())}(?![\w/.-])", "***", told)
    return told
