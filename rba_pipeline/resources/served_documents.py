"""What the database has of each document, compared with one space and one way of cutting."""

from datetime import date

import psycopg

from rba_pipeline.core.standings import Served

_SERVED = """
SELECT d.published_on, d.document_id, d.content_hash,
    p.content_hash IS NOT DISTINCT FROM d.content_hash,
    NOT EXISTS (SELECT 1 FROM vectors v WHERE v.corpus = d.corpus AND v.space = %(space)s
        AND v.document_id = d.document_id AND v.chunking_id <> %(chunking_id)s)
FROM documents d LEFT JOIN published_documents p
    ON p.corpus = d.corpus AND p.space = %(space)s AND p.document_id = d.document_id
WHERE d.corpus = %(corpus)s
"""


def served_documents(
    connection: psycopg.Connection, corpus: str, *, space: str, chunking_id: str
) -> list[tuple[date, Served]]:
    """Return every document of ``corpus``, with its filing date."""
    about = {"corpus": corpus, "space": space, "chunking_id": chunking_id}
    return [(day, Served(*row)) for day, *row in connection.execute(_SERVED, about)]


_PUBLISHED = """
SELECT d.published_on, d.document_id, p.content_hash FROM documents d
LEFT JOIN published_documents p
    ON p.corpus = d.corpus AND p.space = %s AND p.document_id = d.document_id
WHERE d.corpus = %s
"""


def published_documents(
    connection: psycopg.Connection, corpus: str, space: str
) -> dict[str, tuple[date, str | None]]:
    """Return, by id, when each document is filed, and the content that ``space`` has of it."""
    rows = connection.execute(_PUBLISHED, [space, corpus])
    return {document_id: (day, content_hash) for day, document_id, content_hash in rows}
