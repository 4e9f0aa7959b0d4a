"""Parquet files read a few rows at a time."""

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq


def stream(
    file: IO[bytes], rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield all of ``file``, ``rows`` rows at a time, or only these ``columns`` of it.

    Some groups of rows are in memory at once: unless it is told not to, the library fetches a whole
    file in advance, and keeps what it fetched until the end.
    """
    parquet = pq.ParquetFile(file, pre_buffer=False)
    yield from parquet.iter_batches(rows, columns=columns, use_threads=False)
