"""How many cores this process may use."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from embedding_service.cgroups import limit_folders


def usable_cores(folders: Sequence[Path] | None = None) -> int:
    """Return the smaller of the affinity mask and the quotas in ``folders``, at least 1.

    By default those of this process's control groups. The machine's count would be wrong in a
    container: threads beyond the quota are only throttled.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quotas = map(_quota, limit_folders("cpu") if folders is None else folders)
    return max(1, min([cores, *filter(None, quotas)]))


def _quota(folder: Path) -> int | None:
    # Version 2 of cgroups has one file, version 1 has two.
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            cores = math.ceil(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            # Absent at the root, and on other systems; "max 100000" where there is no quota.
            continue
        # Version 1 says -1 where there is none.
        return cores if cores > 0 else None
    return None
