"""A span of filing dates: what one partition covers."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Window:
    """The dates from ``start`` up to, not including, ``end``; a partition's lie in one year."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError(f"a window ends after it starts, got {self.start} to {self.end}")

    @property
    def year(self) -> int:
        """The calendar year that holds the window: vectors are kept by it, whatever the grain."""
        return self.start.year

    @property
    def name(self) -> str:
        """A file name that tells windows of different grain apart."""
        return f"{self.start.isoformat()}_{self.end.isoformat()}"
