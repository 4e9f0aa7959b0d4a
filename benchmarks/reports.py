"""Figures as they are shown: medians with their spread, ratios, goals, tables, JSON."""

import dataclasses
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

_LIBRARIES = (
    "torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "openvino", "nncf",
    "fastapi", "uvicorn",
)  # fmt: skip
# Of the processor: what decides how fast it multiplies in each precision.
_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several measurements, the least and the greatest of them."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of ``n`` values, n ≥ 1."""
        return cls(median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, over: Sequence[float], under: Sequence[float]) -> "Spread":
        """Return the spread of ``over[i] / under[i]``: rounds that lay side by side in time.

        The machine's own speed changes between rounds; within one it changes both sides.
        """
        return cls.of([a / b for a, b in zip(over, under, strict=True)])

    def __str__(self) -> str:
        if self.least == self.most:
            return _number(self.middle)
        return f"{_number(self.middle)} ({_number(self.least)}–{_number(self.most)})"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that was promised, and what was found."""

    claim: str
    found: float | None
    """None where it was not measured: that is not met."""
    bound: float
    beyond: float | None = None
    """A bound further out that one would like to reach."""
    at_most: bool = False
    lacks: str = ""
    """What failed of the measurement, such as "1 of 3 rounds": then it is not met either."""

    @property
    def met(self) -> bool:
        return not self.lacks and self._reaches(self.bound)

    def _reaches(self, bound: float) -> bool:
        if self.found is None:
            return False
        return self.found <= bound if self.at_most else self.found >= bound

    def cells(self) -> list[str]:
        """Return the row of this goal: claim, found, bound, verdict."""
        sign = "≤" if self.at_most else "≥"
        found = "-" if self.found is None else _number(self.found)
        verdict = self._verdict()
        if self.beyond is not None:
            further = "pass" if self.met and self._reaches(self.beyond) else "short"
            verdict += f" (beyond {sign} {self.beyond:g}: {further})"
        return [self.claim, found, f"{sign} {self.bound:g}", verdict]

    def _verdict(self) -> str:
        if self.met:
            return "pass"
        if self.found is None:
            return "SHORT: not measured"
        if self.lacks:
            return f"SHORT: failed in {self.lacks}"
        return f"SHORT by {abs(self.bound - self.found):.3g}"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return lines with aligned columns: the first to the left, the others to the right."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(headings))]
    lines = []
    for row in cells:
        first, *others = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def goals_table(goals: Sequence[Goal]) -> str:
    """Return one line per goal, with its verdict."""
    return table(["goal", "found", "bound", ""], [goal.cells() for goal in goals])


def exit_code(goals: Sequence[Goal], invalid: Sequence[str] = ()) -> int:
    """Return 0 if every goal is met by figures that are worth something, else 1."""
    return 0 if all(goal.met for goal in goals) and not invalid else 1


def write_json(
    path: Path,
    name: str,
    figures: Mapping[str, Any],
    goals: Sequence[Goal],
    invalid: Sequence[str] = (),
) -> None:
    """Write everything that was measured so far, when and on what, to ``path``, and replace it.

    ``invalid`` says why the figures are worth nothing, if they are. Folders are made.
    """
    found = {
        "benchmark": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {library: _version(library) for library in _LIBRARIES},
        "goals": [dataclasses.asdict(goal) | {"met": goal.met} for goal in goals],
        "invalid": list(invalid),
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(found, indent=2, default=_as_json) + "\n", encoding="utf-8")
    unfinished.replace(path)


def machine() -> dict[str, str | int | list[str]]:
    """Return what the figures depend on: processor, its fast instructions, cores, Python."""
    from embedding_service.cores import usable_cores

    return {
        "processor": _processor_line("model name") or platform.machine(),
        "flags": [flag for flag in _FLAGS if flag in _processor_line("flags").split()],
        "cores": usable_cores(),
        "python": platform.python_version(),
    }


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def mib(size: float) -> str:
    """Return bytes as whole MiB."""
    return f"{size / 2**20:,.0f}"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _processor_line(name: str) -> str:
    """Return what the system says of the first core under ``name``; empty if it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _as_json(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
