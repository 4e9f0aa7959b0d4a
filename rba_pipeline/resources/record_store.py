"""The Parquet of documents and chunks, one file per partition, streamed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from rba_pipeline.core.chunks import Chunk
from rba_pipeline.core.documents import Document, Section
from rba_pipeline.core.embeddings import Item, Text, batched
from rba_pipeline.core.errors import BadSetting, RecordMissing
from rba_pipeline.core.stages import Stage
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.catalogue import Entry
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.store_root import StoreRoot
from rba_pipeline.resources.text_ledger import TextLedger

# Documents are long; every group of rows costs some memory of whoever reads the file.
DOCUMENTS_PER_GROUP, CHUNKS_PER_GROUP = 256, 1024
ROWS_AT_ONCE = 256
# A sample is taken from so many groups of rows at most.
_SAMPLED_GROUPS = 64
_TEXT = ["text_hash", "text", "tokens"]

Decoded = TypeVar("Decoded")


def described(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    """Return a column whose meaning is kept in the file and shown in Dagster's UI."""
    return pa.field(name, kind, metadata={"meaning": meaning})


_SECTION = pa.struct(
    [
        ("heading", pa.string()),
        ("level", pa.int32()),
        ("page", pa.int32()),
        ("text", pa.string()),
    ]
)

DOCUMENTS = pa.schema(
    [
        described("corpus", pa.string(), "Set of publications that the row belongs to"),
        described("document_id", pa.string(), "32 hex of corpus and canonical URL, or path"),
        described("path", pa.string(), "File, relative to the source"),
        described("series", pa.string(), "Kind of publication"),
        described("title", pa.string(), "Title as published"),
        described("url", pa.string(), "Canonical address, if known"),
        described("published_on", pa.date32(), "Filing date: publication, or meeting for minutes"),
        described("dated_by", pa.string(), "Rule that found the filing date"),
        described("sections", pa.list_(_SECTION), "Text under each heading, in reading order"),
        described("sha256", pa.string(), "Of the file's bytes"),
        described("content_hash", pa.string(), "Of all that chunks and search use"),
    ]
)

CHUNKS = pa.schema(
    [
        described("corpus", pa.string(), "Set of publications that the row belongs to"),
        described("chunking_id", pa.string(), "16 hex of chunker, size, overlap and tokenizer"),
        described("chunk_id", pa.string(), "32 hex of document, chunking, text and occurrence"),
        described("document_id", pa.string(), "Document that the passage is from"),
        described("ordinal", pa.int32(), "Place in the document, from 0"),
        described("section", pa.string(), "Heading above the passage"),
        described("page", pa.int32(), "Page of a PDF, from 1"),
        described("start", pa.int32(), "Offset of the passage in the document, in characters"),
        described("text", pa.string(), "Context line, blank line, passage: what is embedded"),
        described("text_hash", pa.string(), "SHA-256 of text"),
        described("tokens", pa.int32(), "Length as the model reads it, prompt included"),
    ]
)


@dataclass(frozen=True, slots=True)
class Written:
    """What one partition's file holds now; ``reused`` when it already held just that."""

    rows: int
    tokens: int
    digest: str
    reused: bool


class RecordStore(dg.ConfigurableResource):
    """The record: documents and chunks in Parquet, below a local folder or any fsspec URL."""

    store: str = Field(description="Root of the record: a local folder or an fsspec URL.")
    corpus: str = Field(description="Name of the publications that this is about.")

    def documents_path(self, window: Window) -> str:
        """Return where the documents of ``window`` are kept, relative to the store."""
        return f"documents/{self.corpus}/{window.name}.parquet"

    def chunks_path(self, window: Window, chunking_id: str) -> str:
        """Return where the chunks of ``window`` are kept, relative to the store."""
        return f"chunks/{self.corpus}/{chunking_id}/{window.name}.parquet"

    def write_documents(
        self, window: Window, entries: Sequence[Entry], documents: Iterable[Document]
    ) -> Written:
        """Keep the documents of ``window``, replacing what was there, unless it is the same
        already.

        Args:
            entries: What the catalogue says of them, in the same order.
            documents: The documents, read only when something changed; streamed.
        """
        digest = digest_of(entries)
        path = self.documents_path(window)
        rows = map(self._row, documents)
        return self._write(path, DOCUMENTS, rows, DOCUMENTS_PER_GROUP, digest=digest)

    def _row(self, document: Document) -> dict[str, object]:
        if document.corpus != self.corpus:
            raise BadSetting(
                f"the source is of corpus {document.corpus!r}, the record of {self.corpus!r}: give "
                "all resources the same corpus, or set RBA_CORPUS"
            )
        return asdict(document)

    def digest(self, window: Window) -> str:
        """Return what stands for the documents of ``window`` as they are now.

        Whoever reads documents and chunks, and has to have both of one version, asks for it first.

        Raises:
            RecordMissing: The partition has no documents file yet.
        """
        return self._kept(self.documents_path(window), "documents").digest

    def count_documents(self, window: Window) -> int:
        """Return how many documents of ``window`` are kept.

        Raises:
            RecordMissing: The partition has no documents file yet.
        """
        return self._kept(self.documents_path(window), "documents").rows

    def documents(self, window: Window, digest: str | None = None) -> Iterator[Document]:
        """Yield the documents of ``window`` in the order in which they were written.

        Raises:
            RecordMissing: The partition has no documents file yet, or not the one of ``digest``.
        """
        path = self.documents_path(window)
        for documents in self._decoded(path, "documents", _documents_of, digest=digest):
            yield from documents

    def write_chunks(
        self,
        window: Window,
        chunking_id: str,
        cut: Callable[[Document], Iterable[Chunk]],
        stopwatch: Stopwatch | None = None,
    ) -> Written:
        """Cut the documents of ``window`` and keep the chunks, unless these documents were cut so
        already.

        Args:
            stopwatch: Told when documents are read and cut.

        Raises:
            RecordMissing: The partition has no documents file yet.
        """
        digest, stopwatch = self.digest(window), stopwatch or Stopwatch("chunks")
        rows = (
            {**asdict(chunk), "corpus": self.corpus, "chunking_id": chunking_id}
            for document in stopwatch.timed(Stage.READING, self.documents(window, digest))
            for chunk in stopwatch.timed(Stage.CUTTING, cut(document))
        )
        path = self.chunks_path(window, chunking_id)
        return self._write(path, CHUNKS, rows, CHUNKS_PER_GROUP, digest=digest)

    def is_cut(self, window: Window, chunking_id: str, digest: str) -> bool:
        """Return whether chunks are kept that were cut in this way from the documents of
        ``digest``.
        """
        path = self.chunks_path(window, chunking_id)
        return self._root().exists(path) and self._kept(path, "chunks").digest == digest

    def chunk_keys(self, window: Window, chunking_id: str) -> Iterator[tuple[str, str, int]]:
        """Yield id, text hash and tokens of every chunk of ``window``, in document order."""
        path = self.chunks_path(window, chunking_id)
        columns = ["chunk_id", "text_hash", "tokens"]
        for rows in self._decoded(path, "chunks", _tuples_of, columns=columns):
            yield from rows

    def chunk_batches(
        self, window: Window, chunking_id: str, digest: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the chunks of ``window``, in document order, a few hundred rows at a time.

        Raises:
            RecordMissing: No chunks were cut in this way for this partition, or not from the
                documents of ``digest``, by default those that are there now.
        """
        path = self.chunks_path(window, chunking_id)
        self._root_of(path, "chunks")
        digest = digest or self.digest(window)
        yield from self._decoded(path, "chunks", lambda batch: batch, digest=digest)

    def document_ids(self, window: Window) -> Iterator[str]:
        """Yield the id of every document of ``window``, as it is kept."""
        path = self.documents_path(window)
        for rows in self._decoded(path, "documents", _tuples_of, columns=["document_id"]):
            yield from (document_id for (document_id,) in rows)

    def count_chunk_ids(self, window: Window, chunking_id: str) -> tuple[int, int]:
        """Return how many chunks of ``window`` are kept, and how many different ids they have."""
        count, path = 0, self.chunks_path(window, chunking_id)
        with TextLedger() as ledger:
            for rows in self._decoded(path, "chunks", _tuples_of, columns=["chunk_id"]):
                count += len(rows)
                ledger.add((name, 0) for (name,) in rows)
            return count, ledger.totals()[0]

    def text_hashes(self, window: Window, chunking_id: str) -> Iterator[tuple[str, int]]:
        """Yield hash and tokens of every chunk's text of ``window``, in document order."""
        path = self.chunks_path(window, chunking_id)
        for rows in self._decoded(path, "chunks", _tuples_of, columns=["text_hash", "tokens"]):
            yield from rows

    def texts(self, window: Window, chunking_id: str) -> Iterator[Text]:
        """Yield the text of every chunk of ``window``, in document order."""
        path = self.chunks_path(window, chunking_id)
        for texts in self._decoded(path, "chunks", _texts_of, columns=_TEXT):
            yield from texts

    def sample(self, chunking_id: str, count: int) -> list[Text]:
        """Return at most ``count`` texts from all over the corpus; none before chunks were cut.

        A few groups of rows are read, however many there are.
        """
        root = self._root()
        groups = []
        for path in root.list(f"chunks/{self.corpus}/{chunking_id}", ".parquet"):
            with root.parquet(path) as parquet:
                groups += [(path, group) for group in range(parquet.groups)]
        chosen = _spread(groups, _SAMPLED_GROUPS)
        found: list[Text] = []
        for place, (path, group) in enumerate(chosen, start=1):
            with root.parquet(path) as parquet:
                read = parquet.decoded(_texts_of, CHUNKS_PER_GROUP, columns=_TEXT, group=group)
                texts = [text for some in read for text in some]
            # What a small group lacks, later ones make up for.
            wanted = -(-(count - len(found)) // (len(chosen) - place + 1))
            found += _spread(texts, wanted)
        return found

    def tokenizer(self, sha256: str, fetch: Callable[[], bytes]) -> str:
        """Return the tokenizer file with this hash; ``fetch`` is called only when it is not kept
        yet.

        Raises:
            RecordMissing: What was fetched has another hash.
        """
        root, path = self._root(), f"tokenizers/{sha256}.json"
        if not root.exists(path):
            content = fetch()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise RecordMissing(
                    f"the service's tokenizer does not have the hash {sha256[:12]}… that its /info "
                    "says: was it restarted with another model? Run again"
                )
            with root.write(path) as file:
                file.write(content)
        with root.read(path) as file:
            return file.read().decode()

    def _root(self) -> StoreRoot:
        return StoreRoot(self.store)

    def _root_of(self, path: str, noun: str) -> StoreRoot:
        root = self._root()
        if not root.exists(path):
            raise RecordMissing(f"{self.store}/{path} is not there: materialise {noun!r} first")
        return root

    def _kept(self, path: str, noun: str) -> Written:
        with self._root_of(path, noun).parquet(path) as parquet:
            return parquet.told(_written)

    def _write(
        self,
        path: str,
        schema: pa.Schema,
        rows: Iterable[dict[str, object]],
        rows_per_group: int,
        *,
        digest: str,
    ) -> Written:
        root = self._root()
        if root.exists(path):
            before = self._kept(path, "")
            if before.digest == digest:
                return before
        count = tokens = 0
        # Nothing is looked up by least and greatest values, and those of texts are long.
        manner = {"compression": "zstd", "write_statistics": False}
        with root.write(path) as file, pq.ParquetWriter(file, schema, **manner) as writer:
            for group in batched(rows, rows_per_group):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                count += len(group)
                tokens += sum(cast(int, row.get("tokens", 0)) for row in group)
            kept = {"digest": digest, "rows": str(count), "tokens": str(tokens)}
            writer.add_key_value_metadata({"rba": json.dumps(kept)})
        return Written(count, tokens, digest, reused=False)

    def _decoded(
        self,
        path: str,
        noun: str,
        decode: Callable[[pa.RecordBatch], Decoded],
        *,
        columns: list[str] | None = None,
        digest: str | None = None,
    ) -> Iterator[Decoded]:
        with self._root_of(path, noun).parquet(path) as parquet:
            # Asked of the file that is open: another one may take its place at any time.
            if digest is not None and parquet.told(_written).digest != digest:
                raise RecordMissing(
                    f"the documents of this partition changed after {path} was made, or while it "
                    "was read: materialise 'chunks' and 'embeddings' again"
                )
            yield from parquet.decoded(decode, ROWS_AT_ONCE, columns=columns)


def _written(kept: dict[str, str]) -> Written:
    return Written(int(kept["rows"]), int(kept["tokens"]), kept["digest"], reused=True)


def _documents_of(batch: pa.RecordBatch) -> list[Document]:
    rows = batch.to_pylist()
    for row in rows:
        row["sections"] = tuple(Section(**section) for section in row["sections"])
    return [Document(**row) for row in rows]


def _texts_of(batch: pa.RecordBatch) -> list[Text]:
    return [Text(**row) for row in batch.to_pylist()]


def _tuples_of(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` of the items, evenly from first to last."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def digest_of(entries: Iterable[Entry]) -> str:
    """Return what stands for these documents, as the catalogue has them, in their order."""
    digest = hashlib.sha256()
    for entry in entries:
        row = [entry.document_id, entry.content_hash, entry.sha256, entry.path]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
