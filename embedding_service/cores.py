"""How many cores this process may use."""

import math
import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1 = Path("/sys/fs/cgroup/cpu")


def usable_cores(limit_file: Path = _CGROUP_LIMIT) -> int:
    """Return the smaller of the affinity mask and the container's quota, at least 1.

    The machine's count would be wrong in a container: threads beyond the quota are only throttled.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return max(1, min(cores, _quota(limit_file) or cores))


def _quota(limit_file: Path) -> int | None:
    # Version 2 of cgroups has one file, version 1 has two.
    for files in ([limit_file], [_CGROUP_1 / f"cpu.cfs_{n}_us" for n in ("quota", "period")]):
        try:
            quota, period = " ".join(file.read_text() for file in files).split()
            cores = math.ceil(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            # Absent on other systems; "max 100000" where version 2 has no quota.
            continue
        # Version 1 says -1 where there is none.
        return cores if cores > 0 else None
    return None
