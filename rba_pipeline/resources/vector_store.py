"""Publish, delete, count and search in pgvector; owns the connection and the transaction."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import dagster as dg
import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, PrivateAttr

from rba_pipeline.core.documents import Document
from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseUnavailable,
)
from rba_pipeline.core.vectors import Hit
from rba_pipeline.core.windows import Window
from rba_pipeline.resources import quarantine, schema, space_register, vector_search
from rba_pipeline.resources.publication import Publication
from rba_pipeline.resources.quarantine import QuarantineEntry
from rba_pipeline.resources.space_register import HeldSpace, lock_key
from rba_pipeline.resources.staging import VectorSource
from rba_pipeline.resources.vector_search import Filters

CONNECT_TIMEOUT_S = 10
# A first refresh may parse for long; whoever waits for it has nothing else to do.
CATALOGUE_LOCK_TIMEOUT_S = 3600
# Classes: connection exception, operator intervention.
_LOST = ("08", "57")
# Lock not available, deadlock detected, serialization failure.
_BUSY = ("55P03", "40P01", "40001")


@dataclass(frozen=True, slots=True)
class Published:
    """What one publication changed, and how many chunks of the window are searchable now or not."""

    inserted: int
    updated: int
    deleted: int
    rows: int
    quarantined: int
    activated: bool


class VectorStore(dg.ConfigurableResource):
    """Postgres with pgvector: the serving copy of one corpus.

    Every method raises DatabaseUnavailable when there is no connection, and DatabaseError when
    Postgres refuses; what it was doing is then rolled back.
    """

    database_url: str = Field(description="postgresql://user:password@host:port/database; secret.")
    corpus: str

    _connection: psycopg.Connection | None = PrivateAttr(default=None)
    _checked: bool = PrivateAttr(default=False)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["VectorStore"]:
        with self.open():
            yield self

    @contextmanager
    def open(self) -> Iterator["VectorStore"]:
        """Hold one connection for the block, made at first use."""
        try:
            yield self
        finally:
            if self._connection is not None:
                self._connection.close()
            self._connection, self._checked = None, False

    def migrate(self) -> list[str]:
        """Bring the schema up to date; return the names of the steps applied."""
        with self._translated():
            return schema.migrate(self._connect())

    @contextmanager
    def catalogue_lock(self) -> Iterator[None]:
        """Keep other runs from refreshing the catalogue; wait for them, an hour at most."""
        key = lock_key("catalogue", self.corpus)
        connection = self._ready()
        with self._translated():
            connection.execute(f"SET lock_timeout = '{CATALOGUE_LOCK_TIMEOUT_S}s'")
            connection.execute("SELECT pg_advisory_lock(%s)", [key])
            connection.execute("RESET lock_timeout")
        try:
            yield
        finally:
            # A lost connection has lost the lock as well.
            if not connection.closed:
                with self._translated():
                    connection.execute("SELECT pg_advisory_unlock(%s)", [key])

    def publish(
        self,
        space: Space,
        window: Window,
        *,
        documents: Iterable[Document],
        chunks: Iterable[pa.RecordBatch],
        vectors: VectorSource,
        quarantined: Iterable[str],
        elsewhere: Collection[str] = (),
    ) -> Published:
        """Make ``window`` searchable in one transaction: new in, changed replaced, gone deleted.

        Args:
            space: Where the vectors belong.
            documents: All documents of the window.
            chunks: All chunks of the window, as ``RecordStore.chunk_batches`` yields them.
            vectors: Called with the hashes that the database lacks; yields hashes and float32
                ``(n, dimensions)``.
            elsewhere: Ids of documents that other windows hold now. One that is still stored in
                this window stays until the other one is published: it moved, it is not gone.
            quarantined: Hashes of texts that have no vector, with an entry in the outcomes.

        Raises:
            HoleInPartition: A chunk has neither a vector nor is its text quarantined.
        """
        connection = self._ready()
        with self._translated():
            space_register.register(connection, space)
        with self._translated(), connection.transaction():
            space_register.lock_corpus(connection, self.corpus)
            was_complete = space_register.is_complete(connection, self.corpus, space.id)
            publication = Publication(
                connection, self.corpus, space=space.id, window=window, elsewhere=elsewhere
            )
            publication.stage(documents, chunks, vectors)
            inserted, updated, deleted = publication.apply()
            rows, absent = publication.refuse_holes(set(quarantined))
            activated = space_register.activate_if_completed(
                connection, self.corpus, space.id, was_complete=was_complete
            )
        return Published(inserted, updated, deleted, rows, absent, activated)

    def replace_quarantine(
        self, kind: str, window: Window | None, entries: Iterable[QuarantineEntry]
    ) -> None:
        """Put the entries of one kind, of one window or (``None``) of all, in place of the old
        ones.
        """
        connection = self._ready()
        with self._translated():
            quarantine.replace(connection, self.corpus, kind, window, entries)

    def quarantine(self) -> list[QuarantineEntry]:
        """Return everything that is not searchable, files before texts, by name."""
        with self._translated():
            return quarantine.entries(self._ready(), self.corpus)

    def drop_from_quarantine(self, kind: str, names: Collection[str]) -> None:
        """Take the entries ``names`` of one kind off the list, in every window."""
        with self._translated():
            self._ready().execute(
                "DELETE FROM quarantine WHERE corpus = %s AND kind = %s AND name = ANY(%s)",
                [self.corpus, kind, list(names)],
            )

    def count(self, space: str | None = None) -> tuple[int, int]:
        """Return documents and searchable chunks of the corpus, in ``space`` or the active one."""
        with self._translated():
            row = (
                self._ready()
                .execute(
                    "SELECT (SELECT count(*) FROM documents WHERE corpus = %(corpus)s), "
                    "(SELECT count(*) FROM vectors WHERE corpus = %(corpus)s AND space = coalesce("
                    "%(space)s, (SELECT space FROM active_spaces WHERE corpus = %(corpus)s)))",
                    {"corpus": self.corpus, "space": space},
                )
                .fetchone()
            )
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def filing_dates(self) -> list[date]:
        """Return the distinct filing dates of the corpus' stored documents, earliest first."""
        with self._translated():
            rows = self._ready().execute(
                "SELECT DISTINCT published_on FROM documents WHERE corpus = %s ORDER BY 1",
                [self.corpus],
            )
            return [row[0] for row in rows]

    def active_space(self) -> Space | None:
        """Return the space that search reads; ``None`` before anything was published."""
        with self._translated():
            return space_register.active_space(self._ready(), self.corpus)

    def spaces(self) -> list[HeldSpace]:
        """Return the spaces that the database knows, the oldest first."""
        with self._translated():
            return space_register.held(self._ready(), self.corpus)

    def activate(self, space: str) -> None:
        """Let search read ``space`` from now on.

        Raises:
            WrongSpace: Nothing of this corpus is published in it.
        """
        with self._translated():
            space_register.activate(self._ready(), self.corpus, space)

    def prune(self) -> int:
        """Delete the corpus' vectors outside the active space; return how many there were."""
        with self._translated():
            return space_register.prune(self._ready(), self.corpus)

    def search(
        self, query: NDArray[np.float32], *, space: str, k: int, filters: Filters
    ) -> list[Hit]:
        """Return the ``k`` passages closest to ``query`` by cosine, best first; exact.

        Args:
            query: float32, shape ``(dimensions,)``.
            space: The space in which the query was embedded.

        Raises:
            WrongSpace: The corpus is searched in another space, or holds nothing yet.
        """
        with self._translated():
            return vector_search.search(
                self._ready(), self.corpus, query, space=space, k=k, filters=filters
            )

    def _ready(self) -> psycopg.Connection:
        """Return the connection, after the schema was found to be ours."""
        with self._translated():
            connection = self._connect()
            if not self._checked:
                schema.check_schema(connection)
                register_vector(connection)
                self._checked = True
        return connection

    def _connect(self) -> psycopg.Connection:
        if self._connection is None:
            _require_address(self.database_url)
            self._connection = psycopg.connect(
                self.database_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
        return self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            kind = _kind(error)
            raise kind(f"{_place(self.database_url)}: {_sentence(error)}") from error


def _require_address(url: str) -> None:
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq repeats what it could not read, which may be the password: not even as a cause.
        raise DatabaseError(
            "RBA_DATABASE_URL is not a postgresql:// address. In a password, write % as %25, @ as "
            "%40, / as %2F"
        ) from None


def _place(url: str) -> str:
    """Return host, port and name of a database, without user and password."""
    parts = conninfo_to_dict(url)
    host, port = parts.get("host", "localhost"), parts.get("port", 5432)
    return f"database {parts.get('dbname', '')!r} at {host}:{port}"


def _kind(error: psycopg.Error) -> type[DatabaseError]:
    """Return which of our errors it is, by SQLSTATE (PostgreSQL's manual, appendix A)."""
    state = error.sqlstate
    if isinstance(error, psycopg.OperationalError) and (state is None or state[:2] in _LOST):
        return DatabaseUnavailable
    return DatabaseBusy if state in _BUSY else DatabaseError


def _sentence(error: psycopg.Error) -> str:
    """Return what Postgres said, in one line, with what to do where that is known."""
    said = " ".join(str(error).split())
    if isinstance(error, psycopg.errors.ConnectionTimeout) or error.sqlstate is None:
        return f"{said}. Start the database (make up) or correct RBA_DATABASE_URL"
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return f"another run held the lock for too long ({said}). Run again when it is done"
    return said
