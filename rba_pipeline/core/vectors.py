"""Search results, and how good a ranking is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage found: ``score`` is the cosine similarity to the query, from -1 to 1."""

    score: float
    document_id: str
    path: str
    title: str
    series: str
    published_on: date
    section: str
    page: int | None
    url: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Known-item search over ``queries`` queries; each figure is a share from 0 to 1."""

    queries: int
    recall_at_1: float
    recall_at_10: float
    mean_reciprocal_rank: float


def rank_of(wanted: str, ranking: Sequence[str]) -> int | None:
    """Return the 1-based place of ``wanted`` among the distinct names, best first."""
    distinct = list(dict.fromkeys(ranking))
    return distinct.index(wanted) + 1 if wanted in distinct else None


def quality(ranks: Sequence[int | None]) -> Quality:
    """Return recall and mean reciprocal rank; ``ranks`` has one entry per query, n ≥ 1.

    ``None`` is a wanted document that was not found: its reciprocal rank counts as 0.
    """
    return Quality(
        queries=len(ranks),
        recall_at_1=fmean(rank is not None and rank <= 1 for rank in ranks),
        recall_at_10=fmean(rank is not None and rank <= 10 for rank in ranks),
        mean_reciprocal_rank=fmean(0.0 if rank is None else 1 / rank for rank in ranks),
    )
