"""A finding is one line: what was looked at, how it stands, and what to do. Checks cannot hang."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rba_pipeline.core.errors import RbaError

# For one group of checks; they run side by side.
DEADLINE_S = 30.0


class Level(StrEnum):
    """How it stands; a run would fail, or could not be launched, where something FAILED."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, for people."""

    about: str
    level: Level
    told: str


Check = Callable[[], Iterable[Finding]]


def ok(about: str, told: str) -> Finding:
    return Finding(about, Level.OK, told)


def warning(about: str, told: str) -> Finding:
    return Finding(about, Level.WARNING, told)


def failed(about: str, told: str) -> Finding:
    return Finding(about, Level.FAILED, told)


def look(
    checks: Sequence[tuple[str, Check]],
    conceal: Callable[[str], str],
    deadline_s: float = DEADLINE_S,
) -> Iterator[Finding]:
    """Yield all findings, in the order of the checks, each as soon as those before it are there.

    Args:
        checks: Each with the name under which its failure is told.
        conceal: Takes the secrets out of what is told, whatever a library writes into its errors.
    """
    looks = [_Look(name, check) for name, check in checks]
    for each in looks:
        each.thread.start()
    for each in looks:
        each.thread.join(deadline_s)
        for finding in each.found():
            yield replace(finding, told=" ".join(conceal(finding.told).split()))


class _Look:
    """One check on a thread of its own, which is left behind if it does not end."""

    def __init__(self, name: str, check: Check) -> None:
        self._name, self._check = name, check
        self._findings: list[Finding] = []
        self._ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            for finding in self._check():
                self._findings.append(finding)
        except RbaError as error:
            self._findings.append(failed(self._name, str(error)))
        except Exception as error:  # noqa: BLE001 - one failure must not hide the other checks
            self._findings.append(failed(self._name, f"{type(error).__name__}: {error}"))
        finally:
            self._ended.set()

    def found(self) -> list[Finding]:
        is_late = not self._ended.is_set()
        late = [failed(self._name, "gave no answer in time")] if is_late else []
        return [*self._findings, *late]
