"""Publish, delete, count and search in pgvector; owns the connection and the transaction."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import TypeVar

import dagster as dg
import numpy as np
import psycopg
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.standings import Served
from rba_pipeline.core.vectors import Hit
from rba_pipeline.core.windows import Window
from rba_pipeline.resources import (
    locks,
    publishing,
    quarantine,
    schema,
    space_register,
    vector_index,
    vector_search,
)
from rba_pipeline.resources.checked_resource import CheckedResource
from rba_pipeline.resources.database import Database
from rba_pipeline.resources.database_health import Health, health
from rba_pipeline.resources.locks import Waiting
from rba_pipeline.resources.publication import Published
from rba_pipeline.resources.quarantine import QuarantineEntry
from rba_pipeline.resources.served_documents import (
    published_documents,
    rows_at_stake,
    served_documents,
)
from rba_pipeline.resources.space_register import HeldSpace
from rba_pipeline.resources.staging import Content
from rba_pipeline.resources.vector_search import Filters

# A first refresh may parse for long; whoever waits for it has nothing else to do.
CATALOGUE_LOCK_TIMEOUT_S = 3600
HASTE_S = 5
# Outcomes are written in seconds.
OUTCOMES_LOCK_TIMEOUT_S = 60
# Lowest and highest value allowed, in seconds.
_RANGES = {"retry_for_s": (0, 3600), "turn_timeout_s": (1, 86_400)}

Result = TypeVar("Result")


class VectorStore(CheckedResource):
    """Postgres with pgvector: the serving copy of one corpus.

    Every method is begun again after a failure that passes, and raises what ``Database.run`` does:
    DatabaseUnavailable, DatabaseBusy, DatabaseFull, DatabaseReadOnly, SchemaMismatch or another
    DatabaseError. What it was doing is then rolled back.
    """

    database_url: str = Field(description="postgresql://user:password@host:port/database; secret.")
    corpus: str = Field(description="Name of the publications that this is about.")
    retry_for_s: int = Field(
        default=60,
        description="Seconds for which a database that went away or is busy is tried again, 0 to "
        "3,600.",
    )
    turn_timeout_s: int = Field(
        default=space_register.CORPUS_LOCK_TIMEOUT_S,
        description="Seconds to wait while other runs publish into the same corpus; with the first "
        "vectors of a space, into any. 1 to 86,400.",
    )

    _database: Database | None = PrivateAttr(default=None)

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        for name, (low, high) in _RANGES.items():
            value = values.get(name, low)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not low <= value <= high:  # type: ignore[operator]
                raise BadSetting(
                    f"{name}={value!r}: allowed is a whole number of seconds from {low} to {high}. "
                    "Set it under resources > vector_store > config"
                )

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
            if self._database is not None:
                self._database.close()
            self._database = None

    @contextmanager
    def in_haste(self) -> Iterator["VectorStore"]:
        """Hold a connection of its own for the block, and try nothing again for longer than 5 s:
        it takes some 20 s to give up a host that is silent.
        """
        with type(self)(**{**self.model_dump(), "retry_for_s": HASTE_S}).open() as hasty:
            yield hasty

    def migrate(self) -> list[str]:
        """Bring the schema up to date; return the names of the steps applied."""
        return self._reached().run("migrating", schema.migrate, any_schema=True)

    def health(self) -> Health:
        """Return what the server says of itself, whatever the schema is."""
        return self._reached().run("looking at the server", health, any_schema=True)

    def check_schema(self) -> None:
        """Make sure that the schema is exactly the one of this code.

        Raises:
            SchemaMismatch: It is not; the message says what to run.
        """
        self._run("looking at the schema", lambda connection: None)

    def holding_catalogue(
        self,
        work: Callable[[], Result],
        timeout_s: float = CATALOGUE_LOCK_TIMEOUT_S,
        waiting: Waiting | None = None,
    ) -> Result:
        """Return what ``work`` returns while no other run refreshes the catalogue; wait for them,
        an hour at most. ``work`` is begun again if the database goes away meanwhile.
        """
        return self._holding("catalogue", work, timeout_s, waiting)

    def require_lock(self) -> None:
        """Make sure, amid work under a lock, that it is still ours; else the work is begun again.

        Raises:
            DatabaseUnavailable: It is lost. To be passed on.
        """
        self._run("looking for the lock", lambda connection: connection.execute("SELECT 1"))

    def holding_outcomes(
        self,
        work: Callable[[], Result],
        waiting: Waiting | None = None,
        timeout_s: float = OUTCOMES_LOCK_TIMEOUT_S,
    ) -> Result:
        """Return what ``work`` returns while nobody else changes what became of the corpus' texts;
        wait for them, a minute at most. ``work`` is begun again if the database goes away
        meanwhile.
        """
        return self._holding("outcomes", work, timeout_s, waiting)

    def require_room(self, space: Space) -> None:
        """Make sure that vectors of ``space`` could be published, before any is made.

        Raises:
            SchemaMismatch: The schema is not ours, or knows the space with another dimension.
            DatabaseReadOnly: The server takes no changes.
        """
        self._run(
            "looking for room", lambda connection: space_register.require_room(connection, space)
        )

    def publish(
        self,
        space: Space,
        window: Window,
        content: Content,
        waiting: Waiting | None = None,
    ) -> Published:
        """Make ``window`` searchable in one transaction: new in, changed replaced, gone deleted.

        What was published by an attempt whose end is not known is found by the next one, which
        then counts it as unchanged. Single chunks that the database does not take are left out and
        quarantined; the charge is kept even if the rest is rolled back.

        Args:
            waiting: Told when other runs publish; its stopwatch of all stages of a publication.

        Raises:
            HoleInPartition: A chunk has no row, and no quarantine entry says why.
            ChecksFailed: What search would read of the window is not what the record has.
        """
        return publishing.publish(
            self._reached(),
            self.corpus,
            space=space,
            window=window,
            content=content,
            turn_timeout_s=self.turn_timeout_s,
            waiting=waiting or Waiting(),
        )

    def replace_quarantine(
        self, kind: str, window: Window | None, entries: Iterable[QuarantineEntry]
    ) -> None:
        """Put the entries of one kind, of one window or (``None``) of all, in place of the old
        ones.
        """
        rows = list(entries)
        self._run(
            "writing the quarantine",
            lambda connection: quarantine.replace(connection, self.corpus, kind, window, rows),
        )

    def quarantine(self) -> list[QuarantineEntry]:
        """Return everything that is not searchable, by kind and name."""
        return self._run(
            "reading the quarantine", lambda connection: quarantine.entries(connection, self.corpus)
        )

    def drop_from_quarantine(self, kind: str, names: Collection[str]) -> None:
        """Take the entries ``names`` of one kind off the list, in every window."""
        self._run(
            "writing the quarantine",
            lambda connection: quarantine.drop(connection, self.corpus, kind, names),
        )

    def count(self, space: str | None = None) -> tuple[int, int]:
        """Return documents and searchable chunks of the corpus, in ``space`` or the active one."""

        def counted(connection: psycopg.Connection) -> tuple[int, int]:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM documents WHERE corpus = %(corpus)s), "
                "(SELECT count(*) FROM vectors WHERE corpus = %(corpus)s AND space = coalesce("
                "%(space)s, (SELECT space FROM active_spaces WHERE corpus = %(corpus)s)))",
                {"corpus": self.corpus, "space": space},
            ).fetchone()
            return (0, 0) if row is None else (int(row[0]), int(row[1]))

        return self._run("counting", counted)

    def filing_dates(self) -> list[date]:
        """Return the distinct filing dates of the corpus' stored documents, earliest first."""

        def dates(connection: psycopg.Connection) -> list[date]:
            rows = connection.execute(
                "SELECT DISTINCT published_on FROM documents WHERE corpus = %s ORDER BY 1",
                [self.corpus],
            )
            return [row[0] for row in rows]

        return self._run("reading filing dates", dates)

    def served_documents(self, space: str, chunking_id: str) -> list[tuple[date, Served]]:
        """Return every document of the corpus with its filing date, as it stands in ``space``."""
        return self._run(
            "reading the documents",
            lambda connection: served_documents(
                connection, self.corpus, space=space, chunking_id=chunking_id
            ),
        )

    def published_documents(self, space: str) -> dict[str, tuple[date, str | None]]:
        """Return, by id, when each document of the corpus is filed, and the content hash of the
        version that is published in ``space``.
        """
        return self._run(
            "reading the documents",
            lambda connection: published_documents(connection, self.corpus, space),
        )

    def rows_at_stake(
        self,
        space: str,
        window: Window,
        *,
        wanted: Collection[str],
        elsewhere: Collection[str],
        take: Callable[[list[str]], None],
    ) -> int:
        """Hand the ids of the searchable chunks that a publication of ``window`` would keep or
        delete to ``take``, and return how many there are.

        Args:
            wanted: Ids of the documents that the window has now.
            elsewhere: Ids of those that other windows have.
            take: Called with some thousand ids at a time; after a failure that passes, with those
                from the beginning again.
        """
        about: dict[str, object] = {
            "corpus": self.corpus,
            "space": space,
            "wanted": list(wanted),
            "elsewhere": list(elsewhere),
        }
        return self._run(
            "reading the chunks",
            lambda connection: rows_at_stake(connection, about, window=window, take=take),
        )

    def active_space(self) -> Space | None:
        """Return the space that search reads; ``None`` before anything was published."""
        return self._run(
            "looking for the active space",
            lambda connection: space_register.active_space(connection, self.corpus),
        )

    def spaces(self) -> list[HeldSpace]:
        """Return the spaces that the database knows, the oldest first."""
        return self._run(
            "listing spaces", lambda connection: space_register.held(connection, self.corpus)
        )

    def activate(self, space: str) -> None:
        """Let search read ``space`` from now on.

        Raises:
            WrongSpace: Nothing of this corpus is published in it.
        """
        self._run(
            f"activating {space}",
            lambda connection: space_register.activate(connection, self.corpus, space),
        )

    def prune(self) -> int:
        """Delete the corpus' vectors outside the active space; return how many there were."""
        return self._run(
            "pruning", lambda connection: space_register.prune(connection, self.corpus)
        )

    def build_index(self) -> bool:
        """Build an approximate index over the active space, or replace one that is not whole.

        Returns:
            False if it was whole already.

        Raises:
            WrongSpace: There is no active space.
            DatabaseBusy: Another session is building it.
        """
        return self._run(
            "building the index",
            lambda connection: vector_index.build(connection, self._searched(connection)),
        )

    def drop_index(self) -> None:
        """Let search in the active space be exact again.

        Raises:
            WrongSpace: There is no active space.
        """
        self._run(
            "dropping the index",
            lambda connection: vector_index.drop(connection, self._searched(connection).id),
        )

    def search(
        self, query: NDArray[np.float32], *, space: str, k: int, filters: Filters
    ) -> list[Hit]:
        """Return the ``k`` passages closest to ``query`` by cosine, best first.

        Exact, unless the space has an index that is whole.

        Args:
            query: float32, shape ``(dimensions,)``.
            space: The space in which the query was embedded.

        Raises:
            WrongSpace: The corpus is searched in another space, or holds nothing yet.
        """
        return self._run(
            "searching",
            lambda connection: vector_search.search(
                connection, self.corpus, query, space=space, k=k, filters=filters
            ),
        )

    def _holding(
        self, noun: str, work: Callable[[], Result], timeout_s: float, waiting: Waiting | None
    ) -> Result:
        return self._reached().holding(
            f"the {noun}",
            locks.lock_key(noun, self.corpus),
            work,
            timeout_s=timeout_s,
            waiting=waiting or Waiting(),
        )

    def _searched(self, connection: psycopg.Connection) -> Space:
        return vector_search.searched_space(connection, self.corpus)

    def _run(self, what: str, work: Callable[[psycopg.Connection], Result]) -> Result:
        return self._reached().run(what, work)

    def _reached(self) -> Database:
        if self._database is None:
            self.check(self.model_dump())
            name = f"rba_pipeline {self.corpus}"
            self._database = Database(self.database_url, name=name, retry_for_s=self.retry_for_s)
        return self._database
