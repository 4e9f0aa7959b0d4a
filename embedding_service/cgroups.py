"""Control groups: where Linux keeps the limits of this process and of those around it."""

from pathlib import Path

_OWN = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def limit_folders(controller: str, own: Path = _OWN, mounted: Path = _MOUNTED) -> list[Path]:
    """Return where limits of ``controller`` may be set, the process's own group first.

    Each of them binds, so the least is what counts. A container may be told of a path that only its
    host has; the limits of its own are then at the root of what is mounted. None but on Linux.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 has one tree for all controllers, and names none; version 1 a tree for each.
        if controllers and controller not in controllers.split(","):
            continue
        root = mounted / controller if controllers else mounted
        group = root / path.lstrip("/")
        found += [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return found
