"""The table of ``benchmarks.memory`` and what it has to say about the goals."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load_generator import LoadFigures
from benchmarks.reports import Goal, mib

ALLOWED_BYTES = 1_500_000_000
_SHOWN_SAMPLES = 12


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen under load. Sizes are bytes resident in memory."""

    idle: int
    peak: int
    samples: Sequence[tuple[float, int]]
    """Seconds since the load began, and the size then."""
    load: LoadFigures
    alone_s: float
    """A query when nothing else is asked for."""
    query_s: Sequence[float]
    """Each query under load."""
    longest_pass_s: float
    """One of the queries may have come when it had just begun."""

    @property
    def pass_s(self) -> float:
        """Mean seconds of a pass under load: each text of so many tokens has one of its own."""
        return sum(self.load.compute_s) / self.load.texts

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
            ["idle MiB", mib(self.idle)],
            ["peak MiB", mib(self.peak)],
            ["allowed MiB", mib(self.idle + ALLOWED_BYTES)],
            ["MiB over time", " ".join(mib(size) for _, size in self._shown())],
            ["texts of 8,192 tokens", str(self.load.texts)],
            ["seconds", f"{self.load.seconds:.1f}"],
            ["tokens/s", f"{self.load.tokens_per_s:,.0f}"],
            ["refusals", str(self.load.refusals)],
            ["forward pass, mean, s", f"{self.pass_s:.3f}"],
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

    def _shown(self) -> Sequence[tuple[float, int]]:
        step = -(-len(self.samples) // _SHOWN_SAMPLES)
        return self.samples[::step]
