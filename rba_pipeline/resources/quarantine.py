"""What is not searchable, and why: files, texts and chunks, per corpus and window."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg.rows import class_row

from rba_pipeline.core.embeddings import Outcome
from rba_pipeline.core.windows import Window

_TEXT_DETAILS = {
    "model_failed": "the service fails at this text, alone, and embeds others",
    "timed_out": "the service gives no answer to this text, alone, within timeout_s",
    "connection_lost": "the connection is lost whenever this text is sent, alone",
    "too_large": "the service cannot take this text, alone, in one request",
    "text_too_long": "the text is longer than the model takes; truncate=true embeds its beginning",
}
_TEXT_REJECTED = "the service rejects this text; the rest of its document is searchable"


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One file, text or chunk that is not searchable, why, and how often it was tried.

    Attributes:
        kind: ``document``: a file that cannot become one; ``text``: the service rejects it;
            ``chunk``: the database does not take it.
    """

    kind: str
    name: str
    window_start: date
    window_end: date
    reason: str
    detail: str
    attempts: int


def replace(
    connection: psycopg.Connection,
    corpus: str,
    kind: str,
    window: Window | None,
    entries: Iterable[QuarantineEntry],
) -> None:
    """Put the entries of one kind, of one window or (``None``) of all, in place of the old ones."""
    span = [window.start, window.end] if window else [date.min, date.max]
    with connection.transaction():
        connection.execute(
            "DELETE FROM quarantine WHERE corpus = %s AND kind = %s "
            "AND window_start < %s AND window_end > %s",
            [corpus, kind, *reversed(span)],
        )
        put(connection, corpus, entries)


def drop(connection: psycopg.Connection, corpus: str, kind: str, names: Collection[str]) -> None:
    """Take the entries ``names`` of one kind off the list, in every window."""
    connection.execute(
        "DELETE FROM quarantine WHERE corpus = %s AND kind = %s AND name = ANY(%s)",
        [corpus, kind, list(names)],
    )


def put(connection: psycopg.Connection, corpus: str, entries: Iterable[QuarantineEntry]) -> None:
    """Add these entries; of one that is there already, say what is known now."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO quarantine (corpus, kind, name, window_start, window_end, reason, "
            "detail, attempts) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (corpus, kind, name, window_start) DO UPDATE SET "
            "window_end = excluded.window_end, reason = excluded.reason, "
            "detail = excluded.detail, attempts = excluded.attempts, seen_at = now()",
            [
                (corpus, entry.kind, entry.name, entry.window_start, entry.window_end,
                 entry.reason, entry.detail, entry.attempts)
                for entry in entries
            ],
        )  # fmt: skip


def refused_before(connection: psycopg.Connection, corpus: str, window: Window) -> dict[str, int]:
    """Return the chunks of ``window`` that the database did not take, with their attempts."""
    rows = connection.execute(
        "SELECT name, attempts FROM quarantine WHERE corpus = %s AND kind = 'chunk' "
        "AND window_start < %s AND window_end > %s",
        [corpus, window.end, window.start],
    )
    return {str(row[0]): int(row[1]) for row in rows}


def refused_now(
    window: Window, refused: Mapping[str, str], before: Mapping[str, int]
) -> list[QuarantineEntry]:
    """Return the entries of chunks that the database does not take, each tried once more."""
    return [
        QuarantineEntry(
            kind="chunk",
            name=chunk_id,
            window_start=window.start,
            window_end=window.end,
            reason="refused_by_database",
            detail=said,
            attempts=before.get(chunk_id, 0) + 1,
        )
        for chunk_id, said in refused.items()
    ]


def entries(connection: psycopg.Connection, corpus: str) -> list[QuarantineEntry]:
    """Return everything of ``corpus`` that is not searchable, by kind and name."""
    with connection.cursor(row_factory=class_row(QuarantineEntry)) as cursor:
        return cursor.execute(
            "SELECT kind, name, window_start, window_end, reason, detail, attempts "
            "FROM quarantine WHERE corpus = %s ORDER BY kind, name",
            [corpus],
        ).fetchall()


def text_entries(quarantined: Iterable[Outcome], window: Window) -> list[QuarantineEntry]:
    """Return the entries of texts of ``window`` without a vector, but for the forgotten ones."""
    return [
        QuarantineEntry(
            kind="text",
            name=row.text_hash,
            window_start=window.start,
            window_end=window.end,
            reason=str(row.reason),
            detail=_TEXT_DETAILS.get(str(row.reason), _TEXT_REJECTED),
            # At least one: an entry that is to be tried again stays until it was.
            attempts=max(1, row.attempts),
        )
        for row in quarantined
        if not row.is_forgotten
    ]
