"""The approximate index over one space: built when somebody asks for it, used while it is whole."""

from contextlib import suppress

import psycopg
from psycopg import sql

from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import DatabaseBusy, DatabaseError
from rba_pipeline.resources.locks import lock_key

# What pgvector's HNSW takes of the type vector.
MOST_DIMENSIONS = 2000
# Waits until every transaction that is open now has ended.
BUILD_LOCK_TIMEOUT_S = 600


def is_ready(connection: psycopg.Connection, space: str) -> bool | None:
    """Return whether the index over ``space`` is whole; ``None`` if there is none.

    One that is not is being built, or its build was interrupted. Postgres does not search in it.
    """
    row = connection.execute(
        "SELECT indisvalid AND indisready FROM pg_index WHERE indexrelid = to_regclass(%s)",
        [f'"{_name(space)}"'],
    ).fetchone()
    return None if row is None else bool(row[0])


def build(connection: psycopg.Connection, space: Space) -> bool:
    """Build the index over ``space`` beside running publications and searches; outside of a
    transaction.

    Returns:
        False if it was whole already. One whose build was interrupted is replaced.

    Raises:
        DatabaseBusy: Another session is building it.
        DatabaseError: The space has too many dimensions.
    """
    if space.dimensions > MOST_DIMENSIONS:
        raise DatabaseError(
            f"space {space.id} has {space.dimensions} dimensions, an index takes "
            f"{MOST_DIMENSIONS} at most: search stays exact"
        )
    key = lock_key("index", space.id)
    # Waiting for the lock would be what the build of its holder waits for.
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
    if row is None or not row[0]:
        raise DatabaseBusy(f"another session is building the index over space {space.id}")
    try:
        connection.execute(f"SET lock_timeout = '{BUILD_LOCK_TIMEOUT_S}s'")
        connection.execute("SET statement_timeout = 0")
        return _build(connection, space)
    finally:
        # The error that is on its way says more than one of these would.
        with suppress(psycopg.Error):
            connection.execute("SET lock_timeout TO DEFAULT")
            connection.execute("SET statement_timeout TO DEFAULT")
            connection.execute("SELECT pg_advisory_unlock(%s)", [key])


def drop(connection: psycopg.Connection, space: str) -> None:
    """Remove the index over ``space``, if there is one; outside of a transaction."""
    connection.execute(
        sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(_name(space)))
    )


def indexed(space: Space) -> sql.Composed:
    """Return the expression that the index is over; only a query with the same one uses it."""
    return sql.SQL("embedding::vector({})").format(sql.Literal(space.dimensions))


def table_of(space: str) -> sql.Identifier:
    """Return the partition of ``vectors`` that holds ``space``.

    A statement that goes from documents to their vectors names it, and no space: while nothing has
    counted its rows yet, which is so until the first publication is committed and for a while
    after, the key of ``vectors``, which begins with corpus and space, looks as good as the index by
    document; by the key, each document takes a reading of all rows.
    """
    return sql.Identifier(f"vectors_{space}")


def _build(connection: psycopg.Connection, space: Space) -> bool:
    if is_ready(connection, space.id):
        return False
    drop(connection, space.id)
    connection.execute(
        sql.SQL(
            "CREATE INDEX CONCURRENTLY {name} ON {table} USING hnsw (({indexed}) vector_cosine_ops)"
        ).format(
            name=sql.Identifier(_name(space.id)),
            table=table_of(space.id),
            indexed=indexed(space),
        )
    )
    return True


def _name(space: str) -> str:
    return f"vectors_{space}_hnsw"
