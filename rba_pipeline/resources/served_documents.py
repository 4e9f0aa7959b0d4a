"""What the database has of each document, compared with one space and one way of cutting."""

from collections.abc import Callable
from datetime import date

import psycopg

from rba_pipeline.core.standings import Served
from rba_pipeline.core.windows import Window

_IDS_AT_ONCE = 4096

# Not joined: without statistics, which new tables lack at first, the planner compared every row of
# one table with every row of the other.
_CONTENT = """(
    SELECT p.content_hash FROM published_documents p
    WHERE p.corpus = d.corpus AND p.space = %(space)s AND p.document_id = d.document_id)
"""
_SERVED = f"""
SELECT d.published_on, d.document_id, d.content_hash,
    {_CONTENT} IS NOT DISTINCT FROM d.content_hash,
    NOT EXISTS (SELECT 1 FROM vectors v WHERE v.corpus = d.corpus AND v.space = %(space)s
        AND v.document_id = d.document_id AND v.chunking_id <> %(chunking_id)s)
FROM documents d WHERE d.corpus = %(corpus)s
"""
_PUBLISHED = f"""
SELECT d.published_on, d.document_id, {_CONTENT} FROM documents d WHERE d.corpus = %(corpus)s
"""
# Those that a publication of the window would keep or delete.
_AT_STAKE = """
SELECT v.chunk_id FROM vectors v JOIN documents d USING (corpus, document_id)
WHERE v.corpus = %(corpus)s AND v.space = %(space)s AND (d.document_id = ANY(%(wanted)s)
    OR (d.published_on >= %(start)s AND d.published_on < %(end)s
        AND NOT d.document_id = ANY(%(elsewhere)s)))
"""


def served_documents(
    connection: psycopg.Connection, corpus: str, *, space: str, chunking_id: str
) -> list[tuple[date, Served]]:
    """Return every document of ``corpus``, with its filing date."""
    about = {"corpus": corpus, "space": space, "chunking_id": chunking_id}
    return [(day, Served(*row)) for day, *row in connection.execute(_SERVED, about)]


def published_documents(
    connection: psycopg.Connection, corpus: str, space: str
) -> dict[str, tuple[date, str | None]]:
    """Return, by id, when each document is filed, and the content that ``space`` has of it."""
    rows = connection.execute(_PUBLISHED, {"corpus": corpus, "space": space})
    return {document_id: (day, content_hash) for day, document_id, content_hash in rows}


def rows_at_stake(
    connection: psycopg.Connection,
    about: dict[str, object],
    *,
    window: Window,
    take: Callable[[list[str]], None],
) -> int:
    """Hand the ids of the chunks that a publication of ``window`` would keep or delete to ``take``,
    some thousand at a time, and return how many there are.

    Args:
        about: ``corpus`` and ``space``; ``wanted`` and ``elsewhere``: the ids of the documents that
            the window has, and of those that other windows have.
    """
    count = 0
    with connection.transaction(), connection.cursor("at_stake") as cursor:
        cursor.execute(_AT_STAKE, {**about, "start": window.start, "end": window.end})
        while rows := cursor.fetchmany(_IDS_AT_ONCE):
            take([row[0] for row in rows])
            count += len(rows)
    return count
