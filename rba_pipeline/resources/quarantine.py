"""What is not searchable, and why: files and texts, per corpus and window."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg.rows import class_row

from rba_pipeline.core.windows import Window


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One file or text that is not searchable, why, and how often it was tried."""

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
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO quarantine (corpus, kind, name, window_start, window_end, reason, "
                "detail, attempts) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
                "ON CONFLICT (corpus, kind, name, window_start) DO NOTHING",
                [
                    (corpus, entry.kind, entry.name, entry.window_start, entry.window_end,
                     entry.reason, entry.detail, entry.attempts)
                    for entry in entries
                ],
            )  # fmt: skip


def entries(connection: psycopg.Connection, corpus: str) -> list[QuarantineEntry]:
    """Return everything of ``corpus`` that is not searchable, files before texts, by name."""
    with connection.cursor(row_factory=class_row(QuarantineEntry)) as cursor:
        return cursor.execute(
            "SELECT kind, name, window_start, window_end, reason, detail, attempts "
            "FROM quarantine WHERE corpus = %s ORDER BY kind, name",
            [corpus],
        ).fetchall()
