"""How much memory a process under test has, and ever had."""

from pathlib import Path

import psutil


def peak_bytes(pid: int) -> int:
    """Return the most physical memory that the process ever had; on Linux only, else now's."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return int(psutil.Process(pid).memory_info().rss)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def address_space_bytes(pid: int) -> int:
    """Return how much address space the process has: what RLIMIT_AS bounds."""
    return int(psutil.Process(pid).memory_info().vms)
