"""What search would read of a window that was just applied, counted within its transaction."""

from collections.abc import Mapping

import psycopg
from psycopg import sql

from rba_pipeline.core.checks import ServedRows
from rba_pipeline.core.embeddings import NORM_TOLERANCE, Space
from rba_pipeline.resources.vector_index import table_of

_ROWS = """
SELECT count(*), count(*) FILTER (WHERE v.text_hash <> s.text_hash),
    count(*) FILTER (WHERE NOT (vector_dims(v.embedding) = %(dimensions)s
        AND abs(vector_norm(v.embedding) - 1) <= %(tolerance)s))
FROM staged_chunks s
JOIN vectors v ON v.corpus = %(corpus)s AND v.space = %(space)s AND v.chunk_id = s.chunk_id
"""
_FOREIGN = """
SELECT count(*) FROM {table} v JOIN documents d USING (corpus, document_id)
WHERE d.corpus = %(corpus)s AND d.published_on >= %(start)s AND d.published_on < %(end)s
AND NOT EXISTS (SELECT 1 FROM staged_chunks s WHERE s.chunk_id = v.chunk_id)
AND NOT d.document_id = ANY(%(elsewhere)s)
"""
_DOCUMENTS = """
SELECT (SELECT count(*) FROM documents d WHERE d.corpus = %(corpus)s
    AND d.published_on >= %(start)s AND d.published_on < %(end)s
    AND NOT d.document_id = ANY(%(elsewhere)s)),
    (SELECT count(*) FROM staged_documents)
"""
_SPACE = "SELECT space, model, dimensions, details FROM spaces WHERE space = %(space)s"


def served_rows(
    connection: psycopg.Connection, about: Mapping[str, object], space: Space
) -> ServedRows:
    """Return what is there of the window that ``about`` names, as the transaction sees it.

    ``withheld`` is 0: if there are fewer rows than chunks, the caller counts those in quarantine.

    Args:
        about: ``corpus``, ``space``, ``start``, ``end`` and ``elsewhere``, as in ``Publication``.
    """
    about = {**about, "dimensions": space.dimensions, "tolerance": NORM_TOLERANCE}

    def counted(statement: str | sql.Composed) -> tuple[int, ...]:
        return tuple(connection.execute(statement, about).fetchone() or ())

    rows, altered, faulty = counted(_ROWS)
    (foreign,) = counted(sql.SQL(_FOREIGN).format(table=table_of(space.id)))
    documents, recorded = counted(_DOCUMENTS)
    (chunks,) = counted("SELECT count(*) FROM staged_chunks")
    known = connection.execute(_SPACE, about).fetchone()
    return ServedRows(
        space=space,
        chunks=chunks,
        withheld=0,
        rows=rows,
        foreign=foreign + altered,
        faulty=faulty,
        documents=documents,
        recorded=recorded,
        known=Space(*known) if known else None,
    )
