"""The embedding spaces in the database: each has its own table, and one per corpus is searched."""

import json
from dataclasses import dataclass

import psycopg
from psycopg import sql

from rba_pipeline.core.embeddings import NORM_TOLERANCE, Space
from rba_pipeline.core.errors import SchemaMismatch, WrongSpace
from rba_pipeline.resources import vector_index
from rba_pipeline.resources.locks import Waiting, keep_writers_away, lock_key, wait_for_lock

# Publishing a partition takes seconds; whoever waits behind many of them has nothing else to do.
CORPUS_LOCK_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class HeldSpace:
    """A space, whether the corpus is searched in it, and the corpus' searchable chunks there.

    Attributes:
        is_indexed: False while its index is being built, or after that was interrupted; ``None``
            without an index.
    """

    space: Space
    is_active: bool
    rows: int
    is_indexed: bool | None


def register(
    connection: psycopg.Connection,
    space: Space,
    timeout_s: float = CORPUS_LOCK_TIMEOUT_S,
    waiting: Waiting | None = None,
) -> None:
    """Make room for the vectors of ``space``: a table with its own check on dimension and norm.

    Waits for publications, of any corpus, that have begun to write; searches go on.

    Raises:
        SchemaMismatch: The same space is known with another dimension.
    """
    if is_known(connection, space):
        return
    with connection.transaction():
        # A foreign key to a table puts triggers on it. Two that register follow each other here.
        keep_writers_away(connection, "documents", timeout_s, waiting or Waiting())
        if not is_known(connection, space):
            _create(connection, space)


def is_known(connection: psycopg.Connection, space: Space) -> bool:
    """Return whether there is room for the vectors of ``space``.

    Raises:
        SchemaMismatch: The same space is known with another dimension.
    """
    known = connection.execute(
        "SELECT dimensions FROM spaces WHERE space = %s", [space.id]
    ).fetchone()
    if known is not None and known[0] != space.dimensions:
        raise SchemaMismatch(
            f"space {space.id} has {known[0]} dimensions in the database, "
            f"{space.dimensions} in the service: publish into a database of its own"
        )
    return known is not None


def require_room(connection: psycopg.Connection, space: Space) -> None:
    """Make sure that vectors of ``space`` could be published now.

    Raises:
        SchemaMismatch: The same space is known with another dimension.
        psycopg.errors.ReadOnlySqlTransaction: The server takes no changes.
    """
    is_known(connection, space)
    row = connection.execute("SHOW transaction_read_only").fetchone()
    if row is not None and row[0] == "on":
        raise psycopg.errors.ReadOnlySqlTransaction("its transactions are read-only")


def _create(connection: psycopg.Connection, space: Space) -> None:
    connection.execute(
        "INSERT INTO spaces (space, model, dimensions, details) VALUES (%s, %s, %s, %s)",
        [space.id, space.model, space.dimensions, json.dumps(dict(space.details))],
    )
    # CREATE TABLE … PARTITION OF would wait for every search and publication, and they behind it.
    # pgvector takes zero vectors, and a cosine index would then leave them out.
    connection.execute(
        sql.SQL(
            "CREATE TABLE {table} (LIKE vectors INCLUDING ALL, "
            "CHECK (vector_dims(embedding) = {dimensions}), "
            "CHECK (abs(vector_norm(embedding) - 1) <= {tolerance})); "
            "ALTER TABLE vectors ATTACH PARTITION {table} FOR VALUES IN ({space})"
        ).format(
            table=vector_index.table_of(space.id),
            dimensions=sql.Literal(space.dimensions),
            tolerance=sql.Literal(NORM_TOLERANCE),
            space=sql.Literal(space.id),
        )
    )


def active_space(connection: psycopg.Connection, corpus: str) -> Space | None:
    """Return the space in which ``corpus`` is searched; ``None`` before anything was published."""
    row = connection.execute(
        "SELECT space, model, dimensions, details FROM active_spaces JOIN spaces USING (space) "
        "WHERE corpus = %s",
        [corpus],
    ).fetchone()
    return Space(*row) if row else None


def held(connection: psycopg.Connection, corpus: str) -> list[HeldSpace]:
    """Return every space, the oldest first, with what it means to ``corpus``."""
    rows = connection.execute(
        "SELECT s.space, s.model, s.dimensions, s.details, a.space IS NOT NULL, ("
        "SELECT count(*) FROM vectors v WHERE v.corpus = %(corpus)s AND v.space = s.space) "
        "FROM spaces s LEFT JOIN active_spaces a ON a.space = s.space "
        "AND a.corpus = %(corpus)s ORDER BY s.seen_at, s.space",
        {"corpus": corpus},
    )
    return [
        HeldSpace(Space(*row[:4]), row[4], row[5], vector_index.is_ready(connection, row[0]))
        for row in rows.fetchall()
    ]


def activate(connection: psycopg.Connection, corpus: str, space: str) -> None:
    """Let search read ``space`` from now on, complete or not.

    Raises:
        WrongSpace: Nothing of this corpus is published in it.
    """
    with connection.transaction():
        lock_corpus(connection, corpus)
        published = connection.execute(
            "SELECT 1 FROM published_documents WHERE corpus = %s AND space = %s LIMIT 1",
            [corpus, space],
        ).fetchone()
        if published is None:
            raise WrongSpace(f"corpus {corpus!r} has nothing published in space {space!r}")
        _switch(connection, corpus, space)


def lock_corpus(
    connection: psycopg.Connection,
    corpus: str,
    timeout_s: float = CORPUS_LOCK_TIMEOUT_S,
    waiting: Waiting | None = None,
) -> None:
    """Keep other publications, switches and prunings of ``corpus`` away until the transaction ends.

    One lock for all windows: a document may move from one to another while both are published, and
    search may switch only when the last of them is in.
    """
    key, waiting = lock_key("corpus", corpus), waiting or Waiting()
    wait_for_lock(connection, key, timeout_s, until_commit=True, waiting=waiting)


def is_complete(connection: psycopg.Connection, corpus: str, space: str) -> bool:
    """Return whether every document of ``corpus``, as it is now, is published in ``space``."""
    left = connection.execute(
        "SELECT 1 FROM documents d WHERE d.corpus = %(corpus)s AND NOT EXISTS ("
        "SELECT 1 FROM published_documents p WHERE p.corpus = d.corpus "
        "AND p.document_id = d.document_id AND p.space = %(space)s "
        "AND p.content_hash = d.content_hash) LIMIT 1",
        {"corpus": corpus, "space": space},
    ).fetchone()
    return left is None


def activate_if_completed(
    connection: psycopg.Connection, corpus: str, space: str, *, was_complete: bool
) -> bool:
    """Let search read ``space`` if this publication made it complete; return whether it switched.

    A space that was complete before is left as it is: somebody may have chosen another one. A
    corpus that was never searched starts with its first partition. Belongs into the publication's
    transaction.
    """
    active = connection.execute(
        "SELECT space FROM active_spaces WHERE corpus = %s", [corpus]
    ).fetchone()
    if active is not None and active[0] == space:
        return False
    if active is not None and (was_complete or not is_complete(connection, corpus, space)):
        return False
    _switch(connection, corpus, space)
    return True


def prune(connection: psycopg.Connection, corpus: str) -> int:
    """Delete the corpus' vectors outside the active space; return how many there were."""
    with connection.transaction():
        lock_corpus(connection, corpus)
        active = connection.execute(
            "SELECT space FROM active_spaces WHERE corpus = %s", [corpus]
        ).fetchone()
        if active is None:
            return 0
        outside = [corpus, active[0]]
        connection.execute(
            "DELETE FROM published_documents WHERE corpus = %s AND space <> %s", outside
        )
        return connection.execute(
            "DELETE FROM vectors WHERE corpus = %s AND space <> %s", outside
        ).rowcount


def _switch(connection: psycopg.Connection, corpus: str, space: str) -> None:
    connection.execute(
        "INSERT INTO active_spaces (corpus, space) VALUES (%s, %s) "
        "ON CONFLICT (corpus) DO UPDATE SET space = excluded.space, switched_at = now()",
        [corpus, space],
    )
