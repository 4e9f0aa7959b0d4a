"""Parsed documents at rest: Parquet parts of one row group per document, each read alone."""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from rba_pipeline.core.documents import Section
from rba_pipeline.core.errors import RecordMissing
from rba_pipeline.resources.store_root import KeptRows, StoreRoot

# Documents are read by date, while parts follow the order of paths: keep a few open.
OPEN_PARTS = 8
_SECTION = pa.struct(
    [("heading", pa.string()), ("level", pa.int32()), ("page", pa.int32()), ("text", pa.string())]
)
SCHEMA = pa.schema([("content_hash", pa.string()), ("sections", pa.list_(_SECTION))])


def write_part(
    store: StoreRoot, folder: str, documents: Sequence[tuple[str, tuple[Section, ...]]]
) -> str:
    """Keep (content hash, sections) of each document in a new part, whole or not at all.

    Returns:
        The path of the part; the n-th document is its row group n, from 0.
    """
    path = f"{folder}/part-{secrets.token_hex(8)}.parquet"
    with store.write(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for content_hash, sections in documents:
            rows = [
                {"heading": item.heading, "level": item.level, "page": item.page, "text": item.text}
                for item in sections
            ]
            row = {"content_hash": content_hash, "sections": rows}
            writer.write_table(pa.Table.from_pylist([row], schema=SCHEMA))
    return path


class PartReader:
    """Reads single documents from parts; to be closed, as a context manager."""

    def __init__(self, store: StoreRoot) -> None:
        self._store = store
        self._open: OrderedDict[str, tuple[ExitStack, KeptRows]] = OrderedDict()

    def __enter__(self) -> "PartReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._open:
            self._close_oldest()

    def sections(self, part: str, row_group: int, content_hash: str) -> tuple[Section, ...]:
        """Return the sections of one document.

        Raises:
            RecordMissing: The part is gone: the catalogue was read before later refreshes. Reading
                the catalogue again helps.
            RecordDamaged: It cannot be read, or holds another document: its name is never used
                twice.
        """

        def sections_of(batch: pa.RecordBatch) -> tuple[Section, ...]:
            row = batch.to_pylist()[0]
            if row["content_hash"] != content_hash:
                raise ValueError(f"row group {row_group} holds another document")
            return tuple(Section(**section) for section in row["sections"])

        try:
            kept = self._file(part)
        except FileNotFoundError as error:
            raise RecordMissing(
                f"{part}, row group {row_group}: {error}; refresh the catalogue"
            ) from error
        return kept.first(sections_of, group=row_group)

    def _file(self, part: str) -> KeptRows:
        if part in self._open:
            self._open.move_to_end(part)
            return self._open[part][1]
        if len(self._open) >= OPEN_PARTS:
            self._close_oldest()
        with ExitStack() as closing:
            parquet = closing.enter_context(self._store.parquet(part))
            self._open[part] = (closing.pop_all(), parquet)
        return parquet

    def _close_oldest(self) -> None:
        _, (closing, _) = self._open.popitem(last=False)
        closing.close()
