"""One window's rows, staged beside the tables and then applied to them, within one transaction."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import psycopg
import pyarrow as pa
from psycopg import sql

from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import DatabaseError, HoleInPartition
from rba_pipeline.core.promises import Verdict, require
from rba_pipeline.core.stages import Stage
from rba_pipeline.core.windows import Window
from rba_pipeline.resources import space_register, staging, vector_index
from rba_pipeline.resources.record_store import CHUNKS, described
from rba_pipeline.resources.refusals import is_of_one_row, quoted
from rba_pipeline.resources.served_rows import served_rows
from rba_pipeline.resources.staging import Content
from rba_pipeline.resources.stopwatch import Stopwatch

# More rows that Postgres refuses, or more than half of a window, are not left out one by one.
MOST_REFUSED = 16
# A row takes an index over vectors milliseconds: so many are far from what a statement may take.
_ROWS_AT_ONCE = 10_000

# One row of the serving copy, as the UI shows it.
VECTORS = pa.schema(
    [
        *CHUNKS,
        described("space", pa.string(), "Embedding space: vectors compare only within one"),
        described("embedding", pa.list_(pa.float32()), "Unit vector"),
    ]
)

# The cursor is read to its end; planned for its first rows, it looked up one after the other. And a
# slice's join should fit into memory: a million chunks of 384 dimensions took Postgres 12 % less
# than with 4 MB, the default. A server that gives more keeps it.
_WAYS = """
SET LOCAL cursor_tuple_fraction = 1;
SELECT set_config('work_mem', '32MB', true)
WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('32MB')
"""
_UPSERT_DOCUMENTS = """
INSERT INTO documents SELECT * FROM staged_documents
ON CONFLICT (corpus, document_id) DO UPDATE SET
    path = excluded.path, series = excluded.series, title = excluded.title, url = excluded.url,
    published_on = excluded.published_on, content_hash = excluded.content_hash
WHERE documents IS DISTINCT FROM excluded
"""
# Their vectors, in every space, go with them. Which documents the window has is a value, here and
# below: of a table that was filled just now, the planner had each compared with each stored row.
_DELETE_DOCUMENTS = """
DELETE FROM documents d
WHERE corpus = %(corpus)s AND published_on >= %(start)s AND published_on < %(end)s
AND NOT d.document_id = ANY(%(documents)s)
AND NOT d.document_id = ANY(%(elsewhere)s)
"""
_COUNT_GOING = """
SELECT count(*) FROM {table} v JOIN documents d USING (corpus, document_id)
WHERE d.corpus = %(corpus)s AND d.published_on >= %(start)s AND d.published_on < %(end)s
AND NOT d.document_id = ANY(%(documents)s)
AND NOT d.document_id = ANY(%(elsewhere)s)
"""
# By document, not by date: a document that moved here from another window brings its old chunks.
_DELETE_CHUNKS = """
DELETE FROM {table} v
WHERE v.corpus = %(corpus)s AND v.document_id = ANY(%(documents)s)
AND NOT EXISTS (SELECT 1 FROM staged_chunks s WHERE s.chunk_id = v.chunk_id)
"""
# What somebody gave the hash of another text, or another document, is inserted anew.
_DELETE_ALTERED = """
DELETE FROM {table} v USING staged_chunks s
WHERE v.corpus = %(corpus)s AND v.space = %(space)s AND v.chunk_id = s.chunk_id
AND (v.document_id, v.text_hash) IS DISTINCT FROM (s.document_id, s.text_hash)
"""
# The keys of a slice are listed as well: only joined, they had the planner read the whole other
# table for every slice.
_UPDATE_CHUNKS = """
UPDATE vectors v SET ordinal = s.ordinal, section = s.section, page = s.page, start = s.start
FROM staged_chunks s
WHERE s.place BETWEEN %(first)s AND %(last)s
AND v.corpus = %(corpus)s AND v.space = %(space)s AND v.chunk_id = s.chunk_id
AND v.chunk_id = ANY(ARRAY(
    SELECT chunk_id FROM staged_chunks WHERE place BETWEEN %(first)s AND %(last)s))
AND (v.ordinal, v.section, v.page, v.start)
    IS DISTINCT FROM (s.ordinal, s.section, s.page, s.start)
"""
_INSERT_CHUNKS = """
INSERT INTO vectors (corpus, space, chunk_id, document_id, chunking_id, ordinal, section, page,
    start, text, text_hash, tokens, embedding)
SELECT %(corpus)s, %(space)s, s.chunk_id, s.document_id, s.chunking_id, s.ordinal, s.section,
    s.page, s.start, s.text, s.text_hash, s.tokens, e.embedding
FROM staged_chunks s JOIN staged_vectors e USING (text_hash)
WHERE s.place BETWEEN %(first)s AND %(last)s
AND hashtextextended(e.text_hash, 0) = ANY(ARRAY(
    SELECT hashtextextended(text_hash, 0) FROM staged_chunks
    WHERE place BETWEEN %(first)s AND %(last)s))
ON CONFLICT (corpus, space, chunk_id) DO NOTHING
"""
_MARK_PUBLISHED = """
INSERT INTO published_documents (corpus, space, document_id, content_hash)
SELECT corpus, %(space)s, document_id, content_hash FROM staged_documents
ON CONFLICT (corpus, space, document_id) DO UPDATE SET content_hash = excluded.content_hash
"""
_ABSENT = """
NOT EXISTS (SELECT 1 FROM vectors v WHERE v.corpus = %(corpus)s AND v.space = %(space)s
AND v.chunk_id = s.chunk_id)
"""
_ABSENT_CHUNKS = f"""
SELECT chunk_id, text_hash, EXISTS (SELECT 1 FROM staged_vectors e
    WHERE hashtextextended(e.text_hash, 0) = hashtextextended(s.text_hash, 0)
    AND e.text_hash = s.text_hash)
FROM staged_chunks s WHERE {_ABSENT}
"""


@dataclass(frozen=True, slots=True)
class Published:
    """What one publication changed, and how many chunks of the window are searchable now or not.

    Attributes:
        verdicts: Of the checks on what search reads of the window now; all have passed.
    """

    inserted: int
    updated: int
    deleted: int
    rows: int
    quarantined: int
    activated: bool
    refused: int = 0
    verdicts: tuple[Verdict, ...] = field(default=(), compare=False)


class Publication:
    """One attempt to make a window equal to its record, within the caller's transaction.

    Attributes:
        refused: What Postgres said, by the ids of the chunks that it did not take.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        corpus: str,
        *,
        space: Space,
        window: Window,
        content: Content,
        rows_at_once: int = _ROWS_AT_ONCE,
    ) -> None:
        self._connection = connection
        self._corpus = corpus
        self._space = space
        self._window = window
        self._content = content
        self._rows_at_once = rows_at_once
        self.refused: dict[str, str] = {}
        self._staged = 0
        self._about = {
            "corpus": corpus,
            "space": space.id,
            "start": window.start,
            "end": window.end,
            "elsewhere": list[str](),
            "documents": list[str](),
        }

    def publish(self, stopwatch: Stopwatch) -> Published:
        """Stage, apply, and let search switch if that made the space complete.

        The caller holds the lock of the corpus, and quarantines what was ``refused``.

        Args:
            stopwatch: Told which of the two is done.

        Raises:
            HoleInPartition: A chunk has no row, and no quarantine entry says why.
            ChecksFailed: What search would read of the window is not what the record has.
            DatabaseError: More chunks were refused than can be the fault of single ones.
        """
        space = self._space.id
        was_complete = space_register.is_complete(self._connection, self._corpus, space)
        with stopwatch.stage(Stage.STAGING):
            outdated = self._stage()
        with stopwatch.stage(Stage.APPLYING):
            inserted, updated, deleted = self._apply()
        # Before it is committed: what would be wrong in search never gets there.
        served = served_rows(self._connection, self._about, self._space)
        if served.rows < self._staged:
            served = replace(served, withheld=self._refuse_holes())
        verdicts = require(served.verdicts())
        activated = space_register.activate_if_completed(
            self._connection, self._corpus, space, was_complete=was_complete
        )
        return Published(
            inserted=inserted,
            updated=updated,
            deleted=outdated + deleted,
            rows=served.rows,
            quarantined=served.withheld,
            activated=activated,
            refused=len(self.refused),
            verdicts=tuple(verdicts),
        )

    def _stage(self) -> int:
        """Copy the window's rows aside, delete what is stored otherwise, and copy the vectors that
        the database lacks then; return how many rows were deleted.
        """
        # Not asked before it is our turn: a window that published meanwhile keeps what moved there.
        elsewhere = frozenset(self._content.elsewhere())
        self._about["elsewhere"] = list(elsewhere)
        self._connection.execute(_WAYS)
        self._connection.execute(staging.TABLES)
        self._about["documents"] = staging.copy_documents(
            self._connection, self._content.documents(), self._corpus, elsewhere
        )
        staging.copy_chunks(self._connection, self._content.chunks(), elsewhere)
        outdated = sum(
            self._run(self._of_space(each)) for each in (_DELETE_CHUNKS, _DELETE_ALTERED)
        )
        # Read at the server's side: a window's hashes need not fit into memory here.
        with self._connection.cursor("missing") as missing:
            missing.itersize = self._rows_at_once
            missing.execute(f"SELECT text_hash FROM staged_chunks s WHERE {_ABSENT}", self._about)
            vectors = self._content.vectors(row[0] for row in missing)
        staging.copy_vectors(self._connection, vectors)
        row = self._connection.execute("SELECT count(*) FROM staged_chunks").fetchone()
        self._staged = int(row[0]) if row else 0
        return outdated

    def _apply(self) -> tuple[int, int, int]:
        """Make the tables equal to what was staged; return rows inserted, updated, deleted."""
        going = self._connection.execute(
            self._of_space(_COUNT_GOING), self._about, prepare=False
        ).fetchone()
        deleted = int(going[0]) if going else 0
        self._run(_DELETE_DOCUMENTS)
        self._run(_UPSERT_DOCUMENTS)
        updated = sum(
            self._run(_UPDATE_CHUNKS, first=first, last=last) for first, last in self._slices()
        )
        inserted = self._insert()
        self._run(_MARK_PUBLISHED)
        return inserted, updated, deleted

    def _insert(self) -> int:
        """Insert the staged rows that Postgres takes, and return how many there are.

        Halves a slice that is refused until a single row is left: of n rows, one that is refused
        costs at most 2 log2 n further attempts.
        """
        inserted, waiting = 0, [*self._slices()][::-1]
        while waiting:
            first, last = waiting.pop()
            try:
                with self._connection.transaction():
                    inserted += self._run(_INSERT_CHUNKS, first=first, last=last)
            except psycopg.Error as error:
                if not is_of_one_row(error):
                    raise
                if first >= last:
                    self._refuse(first, error)
                    continue
                middle = (first + last) // 2
                waiting += [(middle + 1, last), (first, middle)]
        return inserted

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Yield the first and the last place of as many staged rows as one statement may change."""
        for first in range(1, self._staged + 1, self._rows_at_once):
            yield first, min(first + self._rows_at_once - 1, self._staged)

    def _refuse(self, place: int, error: psycopg.Error) -> None:
        row = self._connection.execute(
            "SELECT chunk_id FROM staged_chunks WHERE place = %s", [place]
        ).fetchone()
        if row is None:
            raise RuntimeError(f"nothing is staged at {place}: this is a bug in Publication")
        self.refused[row[0]] = quoted(error)
        if len(self.refused) > min(MOST_REFUSED, self._staged // 2):
            count = len(self.refused)
            # Then it is not the rows' fault, and none of them is charged with it.
            self.refused.clear()
            raise DatabaseError(
                f"{count} of the {self._staged} chunks of {self._window.start} were refused, the "
                f"last with: {quoted(error)}. That is too many to be left out one by one; nothing "
                "was published. Look at the constraints and triggers of the table vectors"
            ) from error

    def _refuse_holes(self) -> int:
        """Return how many staged chunks are not searchable.

        Raises:
            HoleInPartition: One was not refused, and its text is not in quarantine: it has no
                vector, or was not kept.
        """
        absent = self._connection.execute(_ABSENT_CHUNKS, self._about).fetchall()
        quarantined = set(self._content.quarantined)
        holes = [
            (chunk_id, has_vector)
            for chunk_id, text_hash, has_vector in absent
            if text_hash not in quarantined and chunk_id not in self.refused
        ]
        lacking = [chunk_id for chunk_id, has_vector in holes if not has_vector]
        if lacking:
            raise HoleInPartition(
                f"{len(lacking)} chunks of {self._window.start} have neither a vector nor a "
                f"quarantine entry (the first: {lacking[0]}); nothing was published. Materialise "
                "'embeddings' again"
            )
        if holes:
            raise HoleInPartition(
                f"the database dropped {len(holes)} chunks of {self._window.start} without a word "
                f"(the first: {holes[0][0]}); nothing was published. Look for a trigger or a rule "
                "of the table vectors; then materialise 'vectors' again"
            )
        return len(absent)

    def _of_space(self, statement: str) -> sql.Composed:
        return sql.SQL(statement).format(table=vector_index.table_of(self._space.id))

    def _run(self, statement: str | sql.Composed, **places: int) -> int:
        # A plan that is kept for any documents takes their number for ten.
        about = {**self._about, **places}
        return self._connection.execute(
            statement, about, prepare=None if places else False
        ).rowcount
