"""What a precision must keep of fp32, and how what it kept is shown."""

from dataclasses import dataclass

from benchmarks.reports import Goal
from rba_pipeline.core.vectors import Quality

LEAST_COSINE = {"bf16": 0.9995}
"""Of any passage; at this, vectors of both may be compared."""
MEAN_COSINE = {"int8": 0.995}
_PASSAGES, _QUERIES = 1000, 70
_MOST_FEWER_FOUND = 1
_MOST_LOWER_MRR = 0.02


@dataclass(frozen=True, slots=True)
class Extent:
    """On how much all precisions were compared; ``search`` is that of fp32."""

    passages: int
    queries: int
    search: Quality | None

    def goals(self) -> list[Goal]:
        """Return what there must be, lest everything below be true of nothing."""
        found = None if self.search is None else float(_found(self.search))
        return [
            Goal("passages compared by cosine", self.passages, _PASSAGES),
            Goal("known-item queries", self.queries, _QUERIES),
            Goal("fp32: found at 10", found, 1),
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One precision against fp32; ``search`` is None where there are no queries."""

    precision: str
    shares_space: bool
    least_cosine: float
    mean_cosine: float
    search: Quality | None

    def cells(self) -> list[str]:
        """Return a row of the table."""
        cosines = [f"{self.least_cosine:.6f}", f"{self.mean_cosine:.6f}"]
        return [self.precision, *cosines, *search_cells(self.search)]

    def goals(self, exact: Quality | None) -> list[Goal]:
        """Return what was promised of this precision; ``exact`` is the search in fp32."""
        name = self.precision
        goals = []
        if name in LEAST_COSINE:
            goals.append(Goal(f"{name}: least cosine", self.least_cosine, LEAST_COSINE[name]))
        if name in MEAN_COSINE:
            goals.append(Goal(f"{name}: mean cosine", self.mean_cosine, MEAN_COSINE[name]))
        fewer = lower = None
        if self.search is not None and exact is not None:
            fewer = float(_found(exact) - _found(self.search))
            lower = exact.mean_reciprocal_rank - self.search.mean_reciprocal_rank
        return [
            *goals,
            Goal(f"{name}: fewer found at 10", fewer, _MOST_FEWER_FOUND, at_most=True),
            Goal(f"{name}: MRR lower by", lower, _MOST_LOWER_MRR, at_most=True),
        ]


def search_cells(search: Quality | None) -> list[str]:
    """Return documents found at 10, and the mean reciprocal rank."""
    if search is None:
        return ["-", "-"]
    return [f"{_found(search)} of {search.queries}", f"{search.mean_reciprocal_rank:.3f}"]


def _found(search: Quality) -> int:
    return round(search.recall_at_10 * search.queries)
