"""How much memory this process takes, and may take."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from embedding_service.cgroups import limit_folders

_STATUS = Path("/proc/self/status")
# Of version 2 of cgroups, and of version 1.
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
_OF_THE_MACHINE = 0.8
# Beyond a container's limit the process is killed, and the files that it reads count as well.
_OF_A_LIMIT = 0.9


def usable_bytes(folders: Sequence[Path] | None = None) -> int:
    """Return 90 % of the least limit that the kernel sets, or else 80 % of the machine's memory.

    Limits are those in ``folders``, by default of this process's control groups, and RLIMIT_AS.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    folders = limit_folders("memory") if folders is None else folders
    found = [_limit(folder / name) for folder in folders for name in _LIMIT_FILES]
    # Version 1 of cgroups says "no limit" with a number larger than any machine.
    limits = [n for n in (*found, _address_space_bytes()) if n is not None and n < machine]
    return int(min(limits) * _OF_A_LIMIT if limits else machine * _OF_THE_MACHINE)


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # Absent at the root, and outside of Linux; "max" where there is no limit.
        return None


def _address_space_bytes() -> int | None:
    """Return what RLIMIT_AS leaves for memory that is used; None if it sets no limit.

    What is mapped now and not resident, such as most of the libraries, counts for the kernel.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        mapped, resident = _figures(_STATUS, "VmSize", "VmRSS")
    except OSError:
        return limit
    return max(0, limit - (mapped - resident))


def resident_and_peak_bytes(status: Path = _STATUS) -> tuple[int, int]:
    """Return how much memory is resident, and the most that ever was.

    Raises:
        OSError: There are no such figures; only Linux has them.
    """
    resident, peak = _figures(status, "VmRSS", "VmHWM")
    return resident, peak


def _figures(status: Path, *names: str) -> list[int]:
    lines = dict(line.split(b":", 1) for line in status.read_bytes().splitlines() if b":" in line)
    try:
        return [int(lines[name.encode()].split()[0]) * 1024 for name in names]
    except KeyError as error:
        raise OSError(f"{status} has no {error.args[0].decode()}") from None
