"""The table of ``benchmarks.memory`` and what it has to say about the goals."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.load_generator import LoadFigures
from benchmarks.reports import Goal, mib

ALLOWED_BYTES = 1_500_000_000
_SHOWN_SAMPLES = 12


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment under load."""

    at_s: float
    """Since the load began."""
    size: int
    """Bytes resident in memory."""
    batches: int
    """Passes that have ended, those before the load included."""
    busy_s: float
    """What they took."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen of a model. Sizes are bytes resident in memory."""

    model: str
    precision: str
    idle: int
    peak: int
    samples: Sequence[Sample]
    """From before the load and its queries to after them, n ≥ 2."""
    load: LoadFigures
    alone_s: float
    """A query when nothing else is asked for."""
    queries: Sequence[LoadFigures]
    """Under load, one after the other, n ≥ 1; each is in a pass of its own."""

    @property
    def query_s(self) -> list[float]:
        """Seconds of each query under load."""
        return [query.seconds for query in self.queries]

    @property
    def passes(self) -> int:
        """Passes over texts of the load."""
        return self.samples[-1].batches - self.samples[0].batches - len(self.queries)

    @property
    def pass_s(self) -> float:
        """Mean seconds of such a pass."""
        computed_s = self.samples[-1].busy_s - self.samples[0].busy_s
        return (computed_s - sum(sum(query.compute_s) for query in self.queries)) / self.passes

    @property
    def longest_pass_s(self) -> float:
        """Seconds of the longest pass under load, which a query may have met at its beginning.

        What ended between two neighbouring samples: that may be one or two queries more. The
        service's own figure is of all its life, and so of the first long text's slow passes.
        """
        return max(after.busy_s - before.busy_s for before, after in pairwise(self.samples))

    @property
    def usual_patience_s(self) -> float:
        """What half of the queries may take: the usual pass that they find, and their own."""
        return self.pass_s + self.alone_s

    @property
    def patience_s(self) -> float:
        """What any query may take: the longest pass, and its own."""
        return self.longest_pass_s + self.alone_s

    def goals(self) -> list[Goal]:
        """Return what was promised: everything was answered, or there would be no figures."""
        bound = self.idle + ALLOWED_BYTES
        usual, patience = round(self.usual_patience_s, 3), round(self.patience_s, 3)
        return [
            Goal("peak MiB", self.peak / 2**20, round(bound / 2**20), at_most=True),
            Goal("refusals, each with Retry-After", self.load.refusals, 1),
            Goal("median query s", median(self.query_s), usual, at_most=True),
            Goal("slowest query s", max(self.query_s), patience, at_most=True),
        ]

    def rows(self) -> list[list[str]]:
        """Return the lines of the table."""
        return [
            ["model", f"{self.model} in {self.precision}"],
            ["idle MiB", mib(self.idle)],
            ["peak MiB", mib(self.peak)],
            ["allowed MiB", mib(self.idle + ALLOWED_BYTES)],
            ["MiB over time", " ".join(mib(each.size) for each in self._shown())],
            ["texts of 8,192 tokens", str(self.load.texts)],
            ["seconds", f"{self.load.seconds:.1f}"],
            ["tokens/s", f"{self.load.tokens_per_s:,.0f}"],
            ["refusals", str(self.load.refusals)],
            ["texts of a forward pass, mean", f"{self.load.texts / self.passes:.1f}"],
            ["its seconds, mean", f"{self.pass_s:.3f}"],
            ["the longest, s", f"{self.longest_pass_s:.3f}"],
            ["query alone, s", f"{self.alone_s:.3f}"],
            ["queries under load", str(len(self.query_s))],
            ["their median, s", f"{median(self.query_s):.3f}"],
            ["the slowest, s", f"{max(self.query_s):.3f}"],
            ["slower than a mean pass and its own", str(self._slower_than(self.usual_patience_s))],
            ["slower than the longest and its own", str(self._slower_than(self.patience_s))],
        ]

    def _slower_than(self, seconds: float) -> int:
        return sum(taken > seconds for taken in self.query_s)

    def _shown(self) -> Sequence[Sample]:
        step = -(-len(self.samples) // _SHOWN_SAMPLES)
        return self.samples[::step]
