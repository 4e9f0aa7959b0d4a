"""The rows of one window on their way in: temporary tables, filled by binary COPY."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from pgvector import Vector

from rba_pipeline.core.documents import Document
from rba_pipeline.core.errors import BadSetting

VectorBlocks = Iterable[tuple[list[str], NDArray[np.float32]]]
VectorSource = Callable[[Iterable[str]], VectorBlocks]


@dataclass(frozen=True, slots=True)
class Content:
    """All that is to be published of one window.

    The four sources are called anew for every attempt; each call reads from the beginning.

    Attributes:
        documents: All documents of the window, as it was recorded.
        chunks: All chunks of these, as ``RecordStore.chunk_batches`` yields them.
        vectors: Called with the hashes that the database lacks, some perhaps twice, which it reads
            before it returns; yields each once, with float32 ``(n, dimensions)``.
        quarantined: Hashes of texts that have no vector, with an entry in the outcomes.
        elsewhere: The ids of the documents that other windows hold now. One that is recorded for
            this window all the same is left out, and one that is stored stays as it is, here or
            there, until the other one is published: it moved, it is not gone.
    """

    documents: Callable[[], Iterable[Document]]
    chunks: Callable[[], Iterable[pa.RecordBatch]]
    vectors: VectorSource
    quarantined: Collection[str] = ()
    elsewhere: Callable[[], Iterable[str]] = tuple


TABLES = """
CREATE TEMP TABLE staged_documents (LIKE documents) ON COMMIT DROP;
CREATE TEMP TABLE staged_chunks (
    place integer GENERATED ALWAYS AS IDENTITY,
    chunk_id text NOT NULL, document_id text, chunking_id text, ordinal integer, section text,
    page integer, start integer, text text, text_hash text, tokens integer
) ON COMMIT DROP;
CREATE TEMP TABLE staged_vectors (text_hash text, embedding vector) ON COMMIT DROP;
"""
# Built once all rows are there: row by row, in the order of hashes, costs more the more there are.
_INDEX_CHUNKS = """
CREATE UNIQUE INDEX ON staged_chunks (chunk_id);
CREATE UNIQUE INDEX ON staged_chunks (place);
ANALYZE staged_chunks;
"""
# The key is 8 bytes, not 64: 25 MB for a million vectors, which stay in the temporary buffers.
_INDEX_VECTORS = """
CREATE INDEX ON staged_vectors (hashtextextended(text_hash, 0));
ANALYZE staged_vectors;
"""
_DOCUMENT_COLUMNS = (
    "corpus", "document_id", "path", "series", "title", "url", "published_on", "content_hash",
)  # fmt: skip
_CHUNK_COLUMNS = (
    "chunk_id", "document_id", "chunking_id", "ordinal", "section", "page", "start", "text",
    "text_hash", "tokens",
)  # fmt: skip


def copy_documents(
    connection: psycopg.Connection,
    documents: Iterable[Document],
    corpus: str,
    elsewhere: Collection[str],
) -> list[str]:
    """Copy ``documents``, but for those ``elsewhere``, into ``staged_documents``; return the ids.

    Raises:
        BadSetting: One is of another corpus.
    """
    columns = ", ".join(_DOCUMENT_COLUMNS)
    statement = f"COPY staged_documents ({columns}) FROM STDIN (FORMAT BINARY)"
    copied: list[str] = []
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([*["text"] * 6, "date", "text"])
        for document in documents:
            if document.corpus != corpus:
                raise BadSetting(
                    f"the record is of corpus {document.corpus!r}, the vectors of "
                    f"{corpus!r}: give all resources the same, or set RBA_CORPUS"
                )
            if document.document_id not in elsewhere:
                copy.write_row([getattr(document, name) for name in _DOCUMENT_COLUMNS])
                copied.append(document.document_id)
    return copied


def copy_chunks(
    connection: psycopg.Connection, batches: Iterable[pa.RecordBatch], elsewhere: Collection[str]
) -> None:
    """Copy chunks, but for those of documents ``elsewhere``, into ``staged_chunks``."""
    columns = ", ".join(_CHUNK_COLUMNS)
    statement = f"COPY staged_chunks ({columns}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(
            ["text", "text", "text", "int4", "text", "int4", "int4", "text", "text", "int4"]
        )
        for batch in batches:
            for row in batch.select(_CHUNK_COLUMNS).to_pylist():
                if row["document_id"] not in elsewhere:
                    copy.write_row(list(row.values()))
    connection.execute(_INDEX_CHUNKS)


def copy_vectors(connection: psycopg.Connection, blocks: VectorBlocks) -> None:
    """Copy vectors into ``staged_vectors``."""
    statement = "COPY staged_vectors (text_hash, embedding) FROM STDIN (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["text", "vector"])
        for hashes, vectors in blocks:
            for text_hash, vector in zip(hashes, vectors, strict=True):
                copy.write_row([text_hash, Vector(vector)])
    connection.execute(_INDEX_VECTORS)
