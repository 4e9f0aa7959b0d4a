"""One window's rows, staged beside the tables and then applied to them, within one transaction."""

from collections.abc import Collection, Iterable

import psycopg
import pyarrow as pa

from rba_pipeline.core.documents import Document
from rba_pipeline.core.errors import HoleInPartition
from rba_pipeline.core.windows import Window
from rba_pipeline.resources import staging
from rba_pipeline.resources.record_store import CHUNKS, described
from rba_pipeline.resources.staging import VectorSource

# One row of the serving copy, as the UI shows it.
VECTORS = pa.schema(
    [
        *CHUNKS,
        described("space", pa.string(), "Embedding space: vectors compare only within one"),
        described("embedding", pa.list_(pa.float32()), "Unit vector"),
    ]
)

_UPSERT_DOCUMENTS = """
INSERT INTO documents SELECT * FROM staged_documents
ON CONFLICT (corpus, document_id) DO UPDATE SET
    path = excluded.path, series = excluded.series, title = excluded.title, url = excluded.url,
    published_on = excluded.published_on, content_hash = excluded.content_hash
WHERE documents IS DISTINCT FROM excluded
"""
# Their vectors, in every space, go with them.
_DELETE_DOCUMENTS = """
DELETE FROM documents d
WHERE corpus = %(corpus)s AND published_on >= %(start)s AND published_on < %(end)s
AND NOT EXISTS (SELECT 1 FROM staged_documents s WHERE s.document_id = d.document_id)
AND NOT d.document_id = ANY(%(elsewhere)s)
"""
_COUNT_GOING = """
SELECT count(*) FROM vectors v JOIN documents d USING (corpus, document_id)
WHERE v.corpus = %(corpus)s AND v.space = %(space)s
AND d.published_on >= %(start)s AND d.published_on < %(end)s
AND NOT EXISTS (SELECT 1 FROM staged_chunks s WHERE s.chunk_id = v.chunk_id)
AND NOT d.document_id = ANY(%(elsewhere)s)
"""
# By document, not by date: a document that moved here from another window brings its old chunks.
_DELETE_CHUNKS = """
DELETE FROM vectors v
WHERE v.corpus = %(corpus)s AND v.space = %(space)s
AND v.document_id IN (SELECT document_id FROM staged_documents)
AND NOT EXISTS (SELECT 1 FROM staged_chunks s WHERE s.chunk_id = v.chunk_id)
"""
_UPDATE_CHUNKS = """
UPDATE vectors v SET ordinal = s.ordinal, section = s.section, page = s.page, start = s.start
FROM staged_chunks s
WHERE v.corpus = %(corpus)s AND v.space = %(space)s AND v.chunk_id = s.chunk_id
AND (v.ordinal, v.section, v.page, v.start)
    IS DISTINCT FROM (s.ordinal, s.section, s.page, s.start)
"""
_INSERT_CHUNKS = """
INSERT INTO vectors (corpus, space, chunk_id, document_id, chunking_id, ordinal, section, page,
    start, text, text_hash, tokens, embedding)
SELECT %(corpus)s, %(space)s, s.chunk_id, s.document_id, s.chunking_id, s.ordinal, s.section,
    s.page, s.start, s.text, s.text_hash, s.tokens, e.embedding
FROM staged_chunks s JOIN staged_vectors e USING (text_hash)
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


class Publication:
    """The staged rows of one window and space; lives as long as the caller's transaction."""

    def __init__(
        self,
        connection: psycopg.Connection,
        corpus: str,
        *,
        space: str,
        window: Window,
        elsewhere: Collection[str],
    ) -> None:
        self._connection = connection
        self._corpus = corpus
        self._about = {
            "corpus": corpus,
            "space": space,
            "start": window.start,
            "end": window.end,
            "elsewhere": list(elsewhere),
        }
        self._window = window

    def stage(
        self,
        documents: Iterable[Document],
        chunks: Iterable[pa.RecordBatch],
        vectors: VectorSource,
    ) -> None:
        """Copy the window's rows aside, and the vectors that the database does not have yet."""
        self._connection.execute(staging.TABLES)
        staging.copy_documents(self._connection, documents, self._corpus)
        staging.copy_chunks(self._connection, chunks)
        missing = self._connection.execute(
            f"SELECT DISTINCT text_hash FROM staged_chunks s WHERE {_ABSENT}", self._about
        )
        staging.copy_vectors(self._connection, vectors({row[0] for row in missing}))
        self._connection.execute("ANALYZE staged_chunks; ANALYZE staged_vectors")

    def apply(self) -> tuple[int, int, int]:
        """Make the tables equal to what was staged; return rows inserted, updated, deleted."""
        going = self._connection.execute(_COUNT_GOING, self._about).fetchone()
        self._run(_DELETE_DOCUMENTS)
        self._run(_UPSERT_DOCUMENTS)
        self._run(_DELETE_CHUNKS)
        updated = self._run(_UPDATE_CHUNKS)
        inserted = self._run(_INSERT_CHUNKS)
        self._run(_MARK_PUBLISHED)
        return inserted, updated, int(going[0]) if going else 0

    def refuse_holes(self, quarantined: set[str]) -> tuple[int, int]:
        """Return how many staged chunks are searchable now, and how many are not.

        Raises:
            HoleInPartition: One is not, and its text is not in ``quarantined``.
        """
        absent = self._connection.execute(
            f"SELECT chunk_id, text_hash FROM staged_chunks s WHERE {_ABSENT}", self._about
        ).fetchall()
        holes = [chunk_id for chunk_id, text_hash in absent if text_hash not in quarantined]
        if holes:
            raise HoleInPartition(
                f"{len(holes)} chunks of {self._window.start} have neither a vector nor a "
                "quarantine "
                f"entry (the first: {holes[0]}); nothing was published. Materialise "
                "'embeddings' again"
            )
        row = self._connection.execute("SELECT count(*) FROM staged_chunks").fetchone()
        return (int(row[0]) if row else 0) - len(absent), len(absent)

    def _run(self, statement: str) -> int:
        return self._connection.execute(statement, self._about).rowcount
