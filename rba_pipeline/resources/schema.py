"""Brings the database's schema to the version that this code works with, and checks it."""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import sql

from rba_pipeline.core.errors import SchemaMismatch

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_history (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
# Before it, vacuum may leave a vector index with neighbours missing.
OLDEST_PGVECTOR = (0, 8, 4)
# "rba" in ASCII; two migrations of one database wait for each other.
_LOCK = 0x726261


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    name: str
    statements: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.statements.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return every step, oldest first; versions count from 1 without a gap."""
    folder = files("rba_pipeline.resources.migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [
        Migration(int(name.split("_")[0]), name, (folder / name).read_text(encoding="utf-8"))
        for name in names
    ]


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply the steps that are missing, all or none, and return their names.

    Raises:
        SchemaMismatch: A step that was applied differs from ours, or is newer than this code; or
            the server lacks pgvector.
    """
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute(_HISTORY)
        applied = _applied(connection)
        _refuse_foreign(applied)
        missing = [step for step in migrations() if step.version not in applied]
        if missing:
            _require_pgvector(connection)
        for step in missing:
            connection.execute(sql.SQL(step.statements))
            connection.execute(
                "INSERT INTO schema_history (version, name, sha256) VALUES (%s, %s, %s)",
                [step.version, step.name, step.sha256],
            )
    return [step.name for step in missing]


def check_schema(connection: psycopg.Connection) -> None:
    """Make sure that the schema is exactly the one of this code.

    Raises:
        SchemaMismatch: It is missing, older, newer or altered; the message says what to run.
    """
    exists = connection.execute("SELECT to_regclass('schema_history')").fetchone()
    applied = _applied(connection) if exists and exists[0] else {}
    _refuse_foreign(applied)
    if len(applied) < len(migrations()):
        raise SchemaMismatch(
            f"the database schema is at version {len(applied)}, this code needs "
            f"{len(migrations())}: "
            "run 'rba-pipeline migrate'"
        )
    _check_pgvector(connection)


def _require_pgvector(connection: psycopg.Connection) -> None:
    found = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
    if found.fetchone() is None:
        raise SchemaMismatch(
            "the server has no pgvector: install it there (on Debian the package "
            "postgresql-18-pgvector, by the server's version), then run 'rba-pipeline migrate'"
        )


def _check_pgvector(connection: psycopg.Connection) -> None:
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    found = row.fetchone()
    if found is None:
        raise SchemaMismatch(
            "the extension 'vector' was dropped, and all vectors with it: make a new database, run "
            "'rba-pipeline migrate' there and materialise 'vectors' again; the vectors come from "
            "the record, nothing is embedded"
        )
    if tuple(map(int, re.findall(r"\d+", found[0]))) < OLDEST_PGVECTOR:
        oldest = ".".join(map(str, OLDEST_PGVECTOR))
        raise SchemaMismatch(
            f"pgvector {found[0]} is older than {oldest}: install a newer one on the server, then "
            "run 'ALTER EXTENSION vector UPDATE' in the database"
        )


def _applied(connection: psycopg.Connection) -> dict[int, str]:
    return dict(connection.execute("SELECT version, sha256 FROM schema_history").fetchall())


def _refuse_foreign(applied: dict[int, str]) -> None:
    ours = {step.version: step.sha256 for step in migrations()}
    newer = sorted(set(applied) - set(ours))
    if newer:
        raise SchemaMismatch(
            f"the database schema is at version {newer[-1]}, newer than this code ({max(ours)}): "
            "upgrade rba_pipeline"
        )
    for version, sha256 in applied.items():
        if ours[version] != sha256:
            raise SchemaMismatch(
                f"migration {version} was applied with other statements than this code carries: "
                "the database belongs to another edition of rba_pipeline"
            )
