"""A Parquet file that is streamed is not fetched in advance."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from rba_pipeline.resources.parquet_stream import stream

GROUPS, ROWS = 50, 2000


class CountingFile(io.BytesIO):
    """Counts the bytes that were read of it."""

    fetched = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.fetched += len(data)
        return data


def test_rows_come_in_order_and_only_the_columns_that_were_asked_for() -> None:
    file = of_many_groups()

    batches = list(stream(file, 700, ["number"]))

    assert [batch.schema.names for batch in batches] == [["number"]] * len(batches)
    assert max(batch.num_rows for batch in batches) <= 700
    rows = [row for batch in batches for row in batch.column("number").to_pylist()]
    assert rows == list(range(GROUPS * ROWS))


def test_only_a_part_of_the_file_was_fetched_when_its_first_rows_are_there() -> None:
    file = of_many_groups()

    rows = stream(file, 700)
    next(rows)

    assert 0 < file.fetched < len(file.getbuffer()) / 4


def of_many_groups() -> CountingFile:
    file = CountingFile()
    table = pa.table(
        {"number": range(GROUPS * ROWS), "half": [at / 2 for at in range(GROUPS * ROWS)]}
    )
    pq.write_table(table, file, row_group_size=ROWS, use_dictionary=False, compression="none")
    file.seek(0)
    return file
