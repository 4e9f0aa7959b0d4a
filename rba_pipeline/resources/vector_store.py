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
from psycopg.rows import class_row
from pydantic import Field, PrivateAttr

from rba_pipeline.core.documents import Document
from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseUnavailable,
    WrongSpace,
)
from rba_pipeline.core.vectors import Hit
from rba_pipeline.core.windows import Window
from rba_pipeline.resources import schema, space_register
from rba_pipeline.resources.publication import Publication, VectorSource
from rba_pipeline.resources.space_register import HeldSpace, lock_key

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


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One file or text that is not searchable, why, and how often it was tried."""

    kind: str
    name: str
    window_start: date
    window_end: date
    reason: str
    detail: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Filters:
    """What a search leaves out; ``None`` leaves out nothing. Both dates are included."""

    series: str | None = None
    first_day: date | None = None
    last_day: date | None = None


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
        span = [window.start, window.end] if window else [date.min, date.max]
        with self._translated(), connection.transaction():
            connection.execute(
                "DELETE FROM quarantine WHERE corpus = %s AND kind = %s "
                "AND window_start < %s AND window_end > %s",
                [self.corpus, kind, *reversed(span)],
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO quarantine (corpus, kind, name, window_start, window_end, reason, "
                    "detail, attempts) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
                    "ON CONFLICT (corpus, kind, name, window_start) DO NOTHING",
                    [
                        (self.corpus, entry.kind, entry.name, entry.window_start, entry.window_end,
                         entry.reason, entry.detail, entry.attempts)
                        for entry in entries
                    ],
                )  # fmt: skip

    def quarantine(self) -> list[QuarantineEntry]:
        """Return everything that is not searchable, files before texts, by name."""
        with (
            self._translated(),
            self._ready().cursor(row_factory=class_row(QuarantineEntry)) as cursor,
        ):
            return cursor.execute(
                "SELECT kind, name, window_start, window_end, reason, detail, attempts "
                "FROM quarantine WHERE corpus = %s ORDER BY kind, name",
                [self.corpus],
            ).fetchall()

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
        active = self.active_space()
        if active is None:
            raise WrongSpace(
                f"corpus {self.corpus!r} has nothing to search: materialise a partition"
            )
        if active.id != space:
            raise WrongSpace(
                f"corpus {self.corpus!r} is searched in space {active.id} ({active.model}), the "
                f"query was embedded in {space}: start the service with {active.model}, or "
                "embed the "
                "corpus with the new model"
            )
        with self._translated(), self._ready().cursor(row_factory=class_row(Hit)) as cursor:
            return cursor.execute(
                "SELECT 1 - (v.embedding <=> %(query)s) AS score, d.document_id, d.path, d.title, "
                "d.series, d.published_on, v.section, v.page, d.url, v.text "
                "FROM vectors v JOIN documents d USING (corpus, document_id) "
                "WHERE v.corpus = %(corpus)s AND v.space = %(space)s "
                "AND (%(series)s::text IS NULL OR d.series = %(series)s "
                "     OR starts_with(d.series, %(series)s || '/')) "
                "AND d.published_on BETWEEN coalesce(%(first_day)s::date, '-infinity') "
                "                       AND coalesce(%(last_day)s::date, 'infinity') "
                "ORDER BY v.embedding <=> %(query)s, v.chunk_id LIMIT %(k)s",
                {
                    "query": query,
                    "corpus": self.corpus,
                    "space": space,
                    "k": k,
                    "series": filters.series,
                    "first_day": filters.first_day,
                    "last_day": filters.last_day,
                },
            ).fetchall()

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
