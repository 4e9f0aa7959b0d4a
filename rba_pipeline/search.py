"""Search and its evaluation: a query is embedded by the service and compared in the database."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.vectors import Hit, Quality, quality, rank_of
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.resources.vector_store import VectorStore

# Passages looked at to rank documents: a document's best passage decides its place.
PASSAGES_PER_RANKING = 200


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A query, and the path of the document that a good search puts first."""

    query: str
    relevant_path: str


def search(
    query: str, *, embedding: Embedding, vector_store: VectorStore, k: int, filters: Filters
) -> list[Hit]:
    """Return the ``k`` passages closest to ``query``, best first.

    A query longer than the model takes is cut. Both resources are open.

    Raises:
        WrongSpace: The service runs another model than the corpus was embedded with.
    """
    info = embedding.handshake()
    vector = embedding.client.embed_query(query, info=info)
    return vector_store.search(vector, space=info.space.id, k=k, filters=filters)


def evaluate(
    items: Iterable[KnownItem],
    *,
    embedding: Embedding,
    vector_store: VectorStore,
    filters: Filters,
) -> Quality:
    """Return how well documents are ranked for known items, each by its best passage."""
    ranks = []
    for item in items:
        hits = search(
            item.query,
            embedding=embedding,
            vector_store=vector_store,
            k=PASSAGES_PER_RANKING,
            filters=filters,
        )
        ranks.append(rank_of(item.relevant_path, [hit.path for hit in hits]))
    return quality(ranks)


def known_items(file: Path) -> list[KnownItem]:
    """Return the rows of a JSON Lines file with ``query`` and ``relevant_path``; at least one.

    Raises:
        BadSetting: A line is not such a row, or there is none; the message has file and line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadSetting(f"{file} is not UTF-8: {error}") from error
    rows = enumerate(lines, start=1)
    items = [_known_item(line, f"{file}, line {number}") for number, line in rows if line.strip()]
    if not items:
        raise BadSetting(f"{file} holds no query")
    return items


def _known_item(line: str, place: str) -> KnownItem:
    try:
        row = json.loads(line)
        query, path = row["query"], row["relevant_path"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadSetting(
            f"{place}: expected an object with 'query' and 'relevant_path' ({error!r})"
        ) from error
    for field in (query, path):
        if not isinstance(field, str) or not field.strip():
            raise BadSetting(
                f"{place}: expected an object with 'query' and 'relevant_path', both of them texts"
            )
    return KnownItem(query, path)
