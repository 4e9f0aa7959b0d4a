"""What this process takes, and may take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_service.process_memory import resident_and_peak_bytes, usable_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"memory.max": "1073741824\n"}, int(2**30 * 0.9), id="a-limit"),
        pytest.param({"memory.limit_in_bytes": "1073741824\n"}, int(2**30 * 0.9), id="version-1"),
        pytest.param(
            {"memory.max": "max\n", "../memory.max": "1073741824\n"},
            int(2**30 * 0.9),
            id="of-the-group-around",
        ),
        pytest.param({"memory.max": "max\n"}, int(MACHINE * 0.8), id="version-2-without-limit"),
        pytest.param(
            {"memory.limit_in_bytes": "9223372036854771712\n"},
            int(MACHINE * 0.8),
            id="version-1-without-limit",
        ),
        pytest.param({}, int(MACHINE * 0.8), id="no-container"),
    ],
)
def test_the_least_limit_comes_first(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    group = tmp_path / "group"
    group.mkdir()
    for name, text in files.items():
        (group / name).write_text(text)

    assert usable_bytes([group, tmp_path]) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_a_limit_of_the_address_space_counts_less_what_is_mapped_only() -> None:
    """In a process of its own: the limit stays."""
    code = (
        "import mmap, resource\n"
        "from embedding_service.process_memory import usable_bytes\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "before = usable_bytes([])\n"
        "mapped = mmap.mmap(-1, 2**30)\n"
        "print(before, usable_bytes([]))\n"
    )

    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=20
    ).stdout

    before, after = map(int, said.split())
    assert 2**30 < before < 2**31 * 0.9
    assert before - after == pytest.approx(2**30 * 0.9, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_peak_counts_what_was_given_back() -> None:
    _, before = resident_and_peak_bytes()

    block = b"x" * (before + 2**26)
    del block

    resident, peak = resident_and_peak_bytes()
    assert peak >= before + 2**26
    assert 0 < resident < peak


def test_a_system_that_does_not_tell_is_an_error(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\n")

    with pytest.raises(OSError, match="no VmRSS"):
        resident_and_peak_bytes(status)
