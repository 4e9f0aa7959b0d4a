"""How much memory this process takes, and may take."""

import os
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_OF_THE_MACHINE = 0.8
# Beyond a container's limit the process is killed, and the files that it reads count as well.
_OF_THE_CONTAINER = 0.9


def usable_bytes(limit_files: tuple[Path, ...] = _CGROUP_LIMITS) -> int:
    """Return 90 % of the container's limit, or else 80 % of the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Version 1 of cgroups says "no limit" with a number larger than any machine.
    limits = [found for found in map(_limit, limit_files) if found and found < machine]
    return int(min(limits) * _OF_THE_CONTAINER if limits else machine * _OF_THE_MACHINE)


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # Absent outside of Linux; "max" where there is no limit.
        return None


def resident_and_peak_bytes(status: Path = _STATUS) -> tuple[int, int]:
    """Return how much memory is resident, and the most that ever was.

    Raises:
        OSError: There are no such figures; only Linux has them.
    """
    lines = dict(line.split(b":", 1) for line in status.read_bytes().splitlines() if b":" in line)
    try:
        resident, peak = (int(lines[name].split()[0]) * 1024 for name in (b"VmRSS", b"VmHWM"))
    except KeyError as error:
        raise OSError(f"{status} has no {error.args[0].decode()}") from None
    return resident, peak
