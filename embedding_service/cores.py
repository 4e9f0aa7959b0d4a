"""How many cores this process may use."""

import math
import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(limit_file: Path = _CGROUP_LIMIT) -> int:
    """Return the smaller of the affinity mask and the container's quota, at least 1.

    The machine's count would be wrong in a container: threads beyond the quota are only throttled.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return max(1, min(cores, _quota(limit_file) or cores))


def _quota(limit_file: Path) -> int | None:
    try:
        quota, period = limit_file.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        # Absent on other systems; "max 100000" where there is no quota.
        return None
