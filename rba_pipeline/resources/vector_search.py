"""The passages closest to a query, within one corpus, one space and what the filters leave."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import class_row

from rba_pipeline.core.errors import WrongSpace
from rba_pipeline.core.vectors import Hit
from rba_pipeline.resources import space_register


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
    """Return the ``k`` passages closest to ``query`` by cosine, best first; exact.

    Raises:
        WrongSpace: The corpus is searched in another space, or holds nothing yet.
    """
    active = space_register.active_space(connection, corpus)
    if active is None:
        raise WrongSpace(f"corpus {corpus!r} has nothing to search: materialise a partition")
    if active.id != space:
        raise WrongSpace(
            f"corpus {corpus!r} is searched in space {active.id} ({active.model}), the "
            f"query was embedded in {space}: start the service with {active.model}, or embed the "
            "corpus with the new model"
        )
    with connection.cursor(row_factory=class_row(Hit)) as cursor:
        return cursor.execute(
            "SELECT 1 - (v.embedding <=> %(query)s) AS score, d.document_id, d.path, d.title, "
            "d.series, d.published_on, v.section, v.page, d.url, v.text "
            "FROM vectors v JOIN documents d USING (corpus, document_id) "
            "WHERE v.corpus = %(corpus)s AND v.space = %(space)s "
            "AND (%(series)s::text IS NULL OR d.series = %(series)s "
            "     OR starts_with(d.series, %(series)s || '/')) "
            "AND d.published_on BETWEEN coalesce(%(first_day)s::date, '-infinity') "
            "                       AND coalesce(%(last_day)s::date, 'infinity') "
            "ORDER BY v.embedding <=> %(query)s, v.chunk_id LIMIT %(k)s",
            {
                "query": query,
                "corpus": corpus,
                "space": space,
                "k": k,
                "series": filters.series,
                "first_day": filters.first_day,
                "last_day": filters.last_day,
            },
        ).fetchall()
