"""The catalogue: one row per file of a corpus, document or not, and what follows from the rows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import date
from functools import cached_property
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from rba_pipeline.resources.store_root import KeptRows

ROWS_AT_ONCE = 4096
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.string()),
        ("sha256", pa.string()),
        ("stated_hash", pa.string()),
        ("parser_version", pa.int32()),
        ("document_id", pa.string()),
        ("series", pa.string()),
        ("title", pa.string()),
        ("url", pa.string()),
        ("published_on", pa.date32()),
        ("dated_by", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("content_hash", pa.string()),
        ("part", pa.string()),
        ("row_group", pa.int32()),
        ("newer_reason", pa.string()),
        ("newer_detail", pa.string()),
        ("limits", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as last seen: ``reason`` says why it is no document, or the rest describes one.

    Attributes:
        modified: The source's mark of change; empty where it has none.
        sha256: Of the bytes, hex; empty if they were not read.
        stated_hash: Over the manifest's row; empty without one.
        newer_reason: Why the file, as it is now, is no document, while an earlier version of it is.
        part: The file, relative to the store, that keeps the sections in ``row_group``.
        limits: Those under which parsing was stopped for ``reason`` or ``newer_reason``; empty
            where none of them had to do with it.
    """

    path: str
    size: int
    modified: str
    sha256: str
    stated_hash: str
    parser_version: int
    document_id: str = ""
    series: str = ""
    title: str = ""
    url: str | None = None
    published_on: date | None = None
    dated_by: str = ""
    reason: str | None = None
    detail: str = ""
    content_hash: str = ""
    part: str = ""
    row_group: int = 0
    newer_reason: str | None = None
    newer_detail: str = ""
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that is no document: a stable reason code, and a sentence for people."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Catalogue:
    """All files of a corpus on the day ``today``: each is a document or in quarantine, never both.

    A file published later than today waits in quarantine and becomes a document on its day, without
    being read again.
    """

    entries: tuple[Entry, ...]
    first_year: int
    today: date

    def documents(self, window_start: date, window_end: date) -> list[Entry]:
        """Return the documents filed in [start, end), ordered by (published_on, document_id)."""
        return [entry for day, entry in self._filed if window_start <= day < window_end]

    def elsewhere(self, window_start: date, window_end: date) -> list[str]:
        """Return the ids of the documents that are filed outside of [start, end)."""
        return [
            entry.document_id for day, entry in self._filed if not window_start <= day < window_end
        ]

    def all_documents(self) -> list[Entry]:
        """Return every document, ordered by (published_on, document_id)."""
        return [entry for _, entry in self._filed]

    def filed(self) -> list[tuple[date, Entry]]:
        """Return every document with the day that it is filed on, in the order of these."""
        return list(self._filed)

    def quarantine(self) -> list[Quarantined]:
        """Return the files that are no documents, ordered by path."""
        return sorted(self._quarantined, key=lambda item: item.path)

    def outdated(self) -> list[Quarantined]:
        """Return the documents whose file has a newer version that is none, ordered by path."""
        found = [
            Quarantined(entry.path, entry.newer_reason, entry.newer_detail)
            for entry in self.all_documents()
            if entry.newer_reason is not None
        ]
        return sorted(found, key=lambda item: item.path)

    def filing_dates(self) -> list[date]:
        """Return the distinct days on which documents are filed, in order."""
        return sorted({day for day, _ in self._filed})

    def reasons(self) -> dict[str, int]:
        """Return how many files are in quarantine, by reason, the most frequent first."""
        return dict(Counter(item.reason for item in self._quarantined).most_common())

    @cached_property
    def _judged(self) -> tuple[list[tuple[date, Entry]], list[Quarantined]]:
        filed: list[tuple[date, Entry]] = []
        quarantined: list[Quarantined] = []
        first_of: dict[str, str] = {}
        for entry in sorted(self.entries, key=lambda entry: entry.path):
            problem = self._problem(entry, first_of)
            if problem is None and entry.published_on is not None:
                filed.append((entry.published_on, entry))
            else:
                reason, detail = problem or ("undated", "no date")
                quarantined.append(Quarantined(entry.path, reason, detail))
        filed.sort(key=lambda item: (item[0], item[1].document_id))
        return filed, quarantined

    def _problem(self, entry: Entry, first_of: dict[str, str]) -> tuple[str, str] | None:
        if entry.reason is not None:
            return entry.reason, entry.detail
        day = entry.published_on
        if day is not None and not date(self.first_year, 1, 1) <= day <= self.today:
            return (
                "date_out_of_range",
                f"dated {day}; taken are {self.first_year}-01-01 to {self.today}",
            )
        # Only a file that is a document today keeps another one out.
        first = first_of.setdefault(entry.document_id, entry.path)
        if first != entry.path:
            return "duplicate", f"the same publication as {first}, which comes first by path"
        return None

    @property
    def _filed(self) -> list[tuple[date, Entry]]:
        return self._judged[0]

    @property
    def _quarantined(self) -> list[Quarantined]:
        return self._judged[1]


def write_entries(file: IO[bytes], entries: Iterable[Entry]) -> None:
    """Write ``entries`` as one Parquet file, ordered by path."""
    rows = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.path)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)


def read_entries(kept: KeptRows) -> list[Entry]:
    """Return the entries that ``write_entries`` wrote, ordered by path.

    A column that an earlier version did not write yet has its default.
    """
    return [entry for some in kept.decoded(_entries_of, ROWS_AT_ONCE) for entry in some]


def _entries_of(batch: pa.RecordBatch) -> list[Entry]:
    columns = batch.to_pydict()
    values = [columns.get(column.name, [column.default] * len(batch)) for column in fields(Entry)]
    return [Entry(*row) for row in zip(*values, strict=True)]
