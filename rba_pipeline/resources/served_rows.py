"""What search would read of a window that was just applied, counted within its transaction."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from rba_pipeline.core.checks import ServedRows
from rba_pipeline.core.embeddings import NORM_TOLERANCE, Space
from rba_pipeline.resources.vector_index import table_of

_DATED_HERE = """
SELECT document_id FROM documents WHERE corpus = %(corpus)s
AND published_on >= %(start)s AND published_on < %(end)s AND NOT document_id = ANY(%(elsewhere)s)
"""
# The ids are a value: those of a subquery are ten to the planner. What is asked of a vector is
# answered where it is read (OFFSET 0): the join carries none along.
_ROWS = """
SELECT count(s.chunk_id), count(*) FILTER (
        WHERE (s.document_id, s.text_hash) IS DISTINCT FROM (v.document_id, v.text_hash)),
    count(*) FILTER (WHERE v.is_faulty)
FROM (
    SELECT chunk_id, document_id, text_hash, NOT (vector_dims(embedding) = %(dimensions)s
        AND abs(vector_norm(embedding) - 1) <= %(tolerance)s) AS is_faulty
    FROM {table} WHERE corpus = %(corpus)s AND document_id = ANY(%(ids)s::text[])
    OFFSET 0
) v LEFT JOIN staged_chunks s USING (chunk_id)
"""
_DOCUMENTS = """
SELECT (SELECT count(*) FROM documents d WHERE d.corpus = %(corpus)s
    AND d.published_on >= %(start)s AND d.published_on < %(end)s
    AND NOT d.document_id = ANY(%(elsewhere)s)),
    (SELECT count(*) FROM staged_documents)
"""
_SPACE = "SELECT space, model, dimensions, details FROM spaces WHERE space = %(space)s"


def served_rows(
    connection: psycopg.Connection, about: Mapping[str, Any], space: Space
) -> ServedRows:
    """Return what is there of the window that ``about`` names, as the transaction sees it.

    ``withheld`` is 0: if there are fewer rows than chunks, the caller counts those in quarantine.

    Args:
        about: ``corpus``, ``space``, ``start``, ``end``, ``elsewhere`` and ``documents``, as in
            ``Publication``.
    """
    dated_here = (row[0] for row in connection.execute(_DATED_HERE, about, prepare=False))
    ids = sorted({*about["documents"], *dated_here})
    asked = {"dimensions": space.dimensions, "tolerance": NORM_TOLERANCE, "ids": ids}

    def counted(statement: str | sql.Composed, **more: object) -> tuple[int, ...]:
        # Not prepared: a plan that is kept for any ids is one for ten.
        row = connection.execute(statement, {**about, **more}, prepare=False).fetchone()
        return tuple(row or ())

    # What was just inserted has no statistics: the planner expects far fewer rows, and would look
    # up the other side for each of them, at 6 us a row of a million instead of 3.
    connection.execute("SET LOCAL enable_nestloop = off")
    rows, foreign, faulty = counted(sql.SQL(_ROWS).format(table=table_of(space.id)), **asked)
    connection.execute("SET LOCAL enable_nestloop TO DEFAULT")
    documents, recorded = counted(_DOCUMENTS)
    (chunks,) = counted("SELECT count(*) FROM staged_chunks")
    known = connection.execute(_SPACE, about).fetchone()
    return ServedRows(
        space=space,
        chunks=chunks,
        withheld=0,
        rows=rows,
        foreign=foreign,
        faulty=faulty,
        documents=documents,
        recorded=recorded,
        known=Space(*known) if known else None,
    )
