"""What a run knows of each distinct text: a table on disk, so that memory stays bounded."""

import sqlite3
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from rba_pipeline.core.embeddings import Text, batched
from rba_pipeline.core.errors import RecordFull, RecordMissing

# What it takes in memory for pages, and once more while it sorts; the rest lies in temporary files.
_CACHE_KIB = 8 * 1024
_TEXTS_AT_ONCE = 512

# The rows lie as they were first entered: texts are asked for in about that order, so that what is
# near in a run is near in the file. Hashes are indexed once most are there: one by one, each would
# be a page read and written somewhere in an index that has outgrown the cache.
_ONCE_EACH = """
DELETE FROM texts WHERE rowid IN (
    SELECT place FROM (
        SELECT rowid AS place, row_number() OVER (PARTITION BY hash ORDER BY rowid) AS nth
        FROM texts
    ) WHERE nth > 1
)
"""
_INDEX = "CREATE UNIQUE INDEX by_hash ON texts (hash)"


class TextLedger:
    """Distinct texts by hash, each with its length in tokens, and a state once it has one.

    It lies in a private temporary database that ends with the block, or with the process. For one
    thread. A full disk ends the block with ``RecordFull``.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)
        self._table.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("CREATE TABLE texts (hash BLOB, tokens INTEGER, state TEXT)")
        self._table.execute("BEGIN")
        self._is_indexed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._table.close()
        if isinstance(error, sqlite3.OperationalError):
            raise RecordFull(
                f"the temporary file of this run's texts cannot be written ({error}): make room in "
                "the folder for temporary files, or name another one with SQLITE_TMPDIR"
            ) from error

    def add(self, texts: Iterable[tuple[str, int]]) -> None:
        """Enter texts without a state: hash in hex, and tokens. Those known already stay as they
        are.
        """
        self._table.executemany(
            "INSERT OR IGNORE INTO texts VALUES (?, ?, NULL)",
            ((bytes.fromhex(name), tokens) for name, tokens in texts),
        )

    def settle(self, hashes: Iterable[str], state: str) -> None:
        """Give ``state`` to those of ``hashes`` that were entered."""
        self._indexed().executemany(
            "UPDATE texts SET state = ? WHERE hash = ?",
            ((state, bytes.fromhex(name)) for name in hashes),
        )

    def take(self, hashes: Iterable[str], state: str = "taken") -> set[str]:
        """Return those of ``hashes`` without a state, and give them one: each is returned once."""
        found = set[str]()
        for some in batched(map(bytes.fromhex, hashes), _TEXTS_AT_ONCE):
            places = ", ".join("?" * len(some))
            rows = self._indexed().execute(
                "UPDATE texts SET state = ? "
                f"WHERE state IS NULL AND hash IN ({places}) RETURNING hash",
                [state, *some],
            )
            found.update(row[0].hex() for row in rows)
        return found

    def take_texts(self, texts: Iterable[Text]) -> Iterator[Text]:
        """Yield those of ``texts`` without a state, in their order, each once.

        Raises:
            RecordMissing: Some were not among ``texts``.
        """
        for some in batched(texts, _TEXTS_AT_ONCE):
            left = self.take(text.text_hash for text in some)
            for text in some:
                if text.text_hash in left:
                    left.remove(text.text_hash)
                    yield text
        if missing := self.totals()[2]:
            raise RecordMissing(
                f"{missing} texts are not among the chunks any more: another run cut them anew. "
                "Materialise 'embeddings' again"
            )

    def totals(self) -> tuple[int, int, int]:
        """Return how many texts there are, their tokens, and how many texts have no state."""
        rows = self._indexed().execute(
            "SELECT count(*), coalesce(sum(tokens), 0), count(*) - count(state) FROM texts"
        )
        ((texts, tokens, left),) = rows
        return int(texts), int(tokens), int(left)

    def by_state(self) -> dict[str | None, tuple[int, int]]:
        """Return how many texts there are, and their tokens, by state."""
        rows = self._indexed().execute(
            "SELECT state, count(*), sum(tokens) FROM texts GROUP BY state"
        )
        return {state: (int(count), int(tokens)) for state, count, tokens in rows}

    def rows(self) -> Iterator[tuple[str, int, str | None]]:
        """Yield hash, tokens and state of every text, in the order in which they were entered."""
        for name, tokens, state in self._indexed().execute("SELECT * FROM texts ORDER BY rowid"):
            yield name.hex(), tokens, state

    def _indexed(self) -> sqlite3.Connection:
        """Return the table, made ready to be asked: every text is in it once, as first entered."""
        if not self._is_indexed:
            self._table.execute(_ONCE_EACH)
            self._table.execute(_INDEX)
            self._is_indexed = True
        return self._table
