"""What this process takes, and may take."""

import os
import sys
from pathlib import Path

import pytest

from embedding_service.process_memory import resident_and_peak_bytes, usable_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("1073741824\n", int(2**30 * 0.9), id="a-limit"),
        pytest.param("max\n", int(MACHINE * 0.8), id="version-2-without-limit"),
        pytest.param("9223372036854771712\n", int(MACHINE * 0.8), id="version-1-without-limit"),
        pytest.param(None, int(MACHINE * 0.8), id="no-container"),
    ],
)
def test_the_containers_limit_comes_first(
    tmp_path: Path, content: str | None, expected: int
) -> None:
    file = tmp_path / "memory.max"
    if content is not None:
        file.write_text(content)

    assert usable_bytes((file,)) == expected


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
