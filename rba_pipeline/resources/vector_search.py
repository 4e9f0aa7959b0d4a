"""The passages closest to a query, within one corpus, one space and what the filters leave."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import class_row

from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import WrongSpace
from rba_pipeline.core.vectors import Hit
from rba_pipeline.resources import space_register, vector_index

# The index remembers this many passages while it looks for the closest; pgvector allows 1,000.
LEAST_REMEMBERED, MOST_REMEMBERED = 100, 1000

_CLOSEST = """
SELECT 1 - (v.{embedding} <=> %(query)s) AS score, d.document_id, d.path, d.title, d.series,
    d.published_on, v.section, v.page, d.url, v.text
FROM vectors v JOIN documents d USING (corpus, document_id)
WHERE v.corpus = %(corpus)s AND v.space = %(space)s
AND (%(series)s::text IS NULL OR d.series = %(series)s
    OR starts_with(d.series, %(series)s || '/'))
AND d.published_on BETWEEN coalesce(%(first_day)s::date, '-infinity')
    AND coalesce(%(last_day)s::date, 'infinity')
ORDER BY v.{embedding} <=> %(query)s, v.chunk_id LIMIT %(k)s
"""


@dataclass(frozen=True, slots=True)
class Filters:
    """What a search leaves out; ``None`` leaves out nothing. Both dates are included."""

    series: str | None = None
    first_day: date | None = None
    last_day: date | None = None


def search(
    connection: psycopg.Connection,
    corpus: str,
    query: NDArray[np.float32],
    *,
    space: str,
    k: int,
    filters: Filters,
) -> list[Hit]:
    """Return the ``k`` passages closest to ``query`` by cosine, best first.

    Exact, unless the space has an index that is whole; and also then, where the index finds fewer
    than ``k``, because filters leave too little of what it looks at.

    Raises:
        WrongSpace: The corpus is searched in another space, or holds nothing yet.
    """
    active = searched_space(connection, corpus)
    if active.id != space:
        raise WrongSpace(
            f"corpus {corpus!r} is searched in space {active.id} ({active.model}), the "
            f"query was embedded in {space}: start the service with {active.model}, or embed the "
            "corpus with the new model"
        )
    about = {
        "query": query,
        "corpus": corpus,
        "space": space,
        "k": k,
        "series": filters.series,
        "first_day": filters.first_day,
        "last_day": filters.last_day,
    }
    if vector_index.is_ready(connection, space):
        found = _by_index(connection, active, k, about)
        if len(found) == k:
            return found
    # No index is over the bare column: this compares with every passage.
    return _closest(connection, sql.Identifier("embedding"), about)


def searched_space(connection: psycopg.Connection, corpus: str) -> Space:
    """Return the space in which ``corpus`` is searched.

    Raises:
        WrongSpace: It holds nothing yet.
    """
    active = space_register.active_space(connection, corpus)
    if active is None:
        raise WrongSpace(f"corpus {corpus!r} has nothing to search: materialise a partition")
    return active


def _by_index(
    connection: psycopg.Connection, space: Space, k: int, about: Mapping[str, object]
) -> list[Hit]:
    remembered = min(MOST_REMEMBERED, max(LEAST_REMEMBERED, 2 * k))
    with connection.transaction():
        # Goes on looking while filters take away what was found.
        connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
        connection.execute(f"SET LOCAL hnsw.ef_search = {remembered}")
        return _closest(connection, vector_index.indexed(space), about)


def _closest(
    connection: psycopg.Connection, embedding: sql.Composable, about: Mapping[str, object]
) -> list[Hit]:
    statement = sql.SQL(_CLOSEST).format(embedding=embedding)
    with connection.cursor(row_factory=class_row(Hit)) as cursor:
        return cursor.execute(statement, about).fetchall()
