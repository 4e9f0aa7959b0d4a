"""How far a backfill is, as one line for people."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where one partition of a backfill is."""

    LEFT = "left"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Return whether nothing more happens to the partition."""
        return self in (Stage.DONE, Stage.FAILED, Stage.CANCELLED)


@dataclass(frozen=True, slots=True)
class Progress:
    """One backfill at one moment.

    Attributes:
        stages: By partition.
        texts: Embedded by the runs that have ended.
        elapsed_s: Since the backfill was asked for.
    """

    stages: Mapping[str, Stage]
    texts: int
    elapsed_s: float

    @property
    def left_s(self) -> float | None:
        """Return about how long it goes on, by what it has taken so far; ``None``: not known."""
        ended = sum(stage.has_ended for stage in self.stages.values())
        if not ended:
            return None
        return self.elapsed_s * (len(self.stages) - ended) / ended

    def __str__(self) -> str:
        counts = Counter(self.stages.values())
        parts = [f"{counts[Stage.DONE]} of {len(self.stages)} partitions done"]
        parts += [
            f"{counts[stage]} {stage}" for stage in Stage if counts[stage] and stage != Stage.DONE
        ]
        if self.texts and self.elapsed_s > 0:
            parts.append(f"{self.texts:,} texts embedded{_rate(self.texts / self.elapsed_s)}")
        if self.left_s:
            parts.append(f"about {duration(self.left_s)} to go")
        return ", ".join(parts)


def _rate(per_second: float) -> str:
    """Return a speed in brackets; nothing where it would read as a standstill."""
    if per_second < 0.05:
        return ""
    return f" ({per_second:,.{0 if per_second >= 10 else 1}f}/s)"


def duration(seconds: float) -> str:
    """Return a length of time as people say it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
