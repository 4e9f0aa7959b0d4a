"""Whole files, or none, on a local disk and elsewhere."""

import errno
import os
import resource
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from rba_pipeline.core.errors import RecordDamaged, RecordFull
from rba_pipeline.resources.store_root import KeptRows, StoreRoot


@pytest.fixture(params=["folder", "file-url", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StoreRoot:
    urls = {
        "folder": str(tmp_path),
        "file-url": tmp_path.as_uri(),
        "memory": f"memory://store-{secrets.token_hex(4)}",
    }
    return StoreRoot(urls[request.param])


def put(root: StoreRoot, path: str, content: bytes) -> None:
    with root.write(path) as file:
        file.write(content)


def fail_half_way(root: StoreRoot, path: str, error: BaseException) -> None:
    with root.write(path) as file:
        file.write(b"half of the new")
        raise error


def content(root: StoreRoot, path: str) -> bytes:
    with root.read(path) as file:
        return file.read()


def test_what_was_written_is_read_in_folders_that_did_not_exist(root: StoreRoot) -> None:
    put(root, "a/b/c.parquet", b"first")

    assert root.exists("a/b/c.parquet")
    assert content(root, "a/b/c.parquet") == b"first"


@pytest.mark.parametrize("found", [b"", b"PAR1", b"PAR1 and then the disk was full", b"\0" * 4096])
def test_what_is_no_whole_parquet_file_is_named(root: StoreRoot, found: bytes) -> None:
    put(root, "a/torn.parquet", found)

    with (
        pytest.raises(RecordDamaged, match=r"a/torn\.parquet is not a whole"),
        root.parquet("a/torn.parquet"),
    ):
        pass


def test_an_absent_parquet_file_is_not_called_damaged(root: StoreRoot) -> None:
    with pytest.raises(FileNotFoundError), root.parquet("a/none.parquet"):
        pass


def test_writing_again_replaces_the_whole_file(root: StoreRoot) -> None:
    put(root, "a/long.bin", b"a long first content")

    put(root, "a/long.bin", b"short")

    assert content(root, "a/long.bin") == b"short"


def test_an_exception_in_the_block_leaves_the_old_file_and_no_litter(root: StoreRoot) -> None:
    put(root, "a/x.parquet", b"old")

    with pytest.raises(ZeroDivisionError):
        fail_half_way(root, "a/x.parquet", ZeroDivisionError())

    assert content(root, "a/x.parquet") == b"old"
    assert root.list("a", "") == ["a/x.parquet"]


def test_an_exception_in_the_block_makes_no_new_file(root: StoreRoot) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(root, "a/x.parquet", KeyboardInterrupt())

    assert not root.exists("a/x.parquet")
    assert root.list("a", "") == []


def test_a_file_that_is_being_written_is_neither_listed_nor_there(root: StoreRoot) -> None:
    put(root, "a/1.parquet", b"1")

    with root.write("a/2.parquet") as file:
        file.write(b"2")
        meanwhile = root.list("a", ".parquet"), root.exists("a/2.parquet")

    assert meanwhile == (["a/1.parquet"], False)
    assert root.list("a", ".parquet") == ["a/1.parquet", "a/2.parquet"]


def test_two_writers_of_one_path_leave_the_whole_file_of_the_last(tmp_path: Path) -> None:
    root = StoreRoot(str(tmp_path))

    with root.write("x.bin") as first:
        first.write(b"first")
        put(root, "x.bin", b"second")

    assert content(root, "x.bin") == b"first"
    assert root.list("", "") == ["x.bin"]


def test_what_a_killed_writer_left_goes_after_a_day_and_nothing_else_does(tmp_path: Path) -> None:
    root = StoreRoot(str(tmp_path))
    with root.write("a/b/x.parquet"):
        [aside] = (tmp_path / "a" / "b").iterdir()
    young = aside.with_name("y.parquet.0123abcd.tmp")
    whole, foreign = aside.with_name("x.parquet"), aside.with_name("notes.tmp")
    two_days_ago = time.time() - 2 * 86_400
    for path in (aside, young, foreign):
        path.touch()
    for path in (aside, whole, foreign):
        os.utime(path, (two_days_ago, two_days_ago))

    root.remove_abandoned()

    assert set(aside.parent.iterdir()) == {young, whole, foreign}


def test_a_listing_is_sorted_and_has_only_files_with_the_suffix(root: StoreRoot) -> None:
    for name in ("b.parquet", "a.parquet", "c.json", "deeper/d.parquet"):
        put(root, f"f/{name}", b"")

    assert root.list("f", ".parquet") == ["f/a.parquet", "f/b.parquet"]


def test_an_absent_folder_lists_nothing(root: StoreRoot) -> None:
    assert root.list("nowhere/at/all", ".parquet") == []


def test_a_file_that_is_absent_cannot_be_read(root: StoreRoot) -> None:
    with pytest.raises(FileNotFoundError), root.read("absent.parquet"):
        pass


def test_a_folder_is_no_file(root: StoreRoot) -> None:
    put(root, "a/x.parquet", b"")

    assert not root.exists("a")


def test_removing_twice_is_no_error(root: StoreRoot) -> None:
    put(root, "a/x.parquet", b"")

    root.remove("a/x.parquet")
    root.remove("a/x.parquet")

    assert root.list("a", "") == []


def test_a_file_is_read_at_any_position(root: StoreRoot) -> None:
    put(root, "x.bin", b"0123456789")

    with root.read("x.bin") as file:
        file.seek(-3, 2)
        last = file.read()

    assert last == b"789"


def test_two_roots_on_one_url_see_the_same_files(root: StoreRoot) -> None:
    other = StoreRoot(root.url)
    assert other.list("a", "") == []

    put(root, "a/x.parquet", b"1")

    assert other.list("a", "") == ["a/x.parquet"]


def test_a_disk_without_room_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    root = StoreRoot(str(tmp_path))
    put(root, "a/kept.parquet", b"before")

    with (
        pytest.raises(RecordFull, match=r"a/kept\.parquet cannot be written \(File too large"),
        limited_file_size(1000),
    ):
        put(root, "a/kept.parquet", b"x" * 5000)

    assert content(root, "a/kept.parquet") == b"before"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept.parquet"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        pytest.param(errno.EROFS, "Read-only file system", id="read-only"),
        pytest.param(errno.ENOSPC, "No space left on device", id="full"),
    ],
)
def test_a_disk_without_room_for_a_new_folder_is_named(
    tmp_path: Path, number: int, said: str
) -> None:
    class Refusing(LocalFileSystem):
        """A local disk that takes no new folder: only root could mount a real one."""

        protocol = f"refusing-{number}"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix(f"{cls.protocol}://")))

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            raise OSError(number, os.strerror(number), path)

    fsspec.register_implementation(Refusing.protocol, Refusing, clobber=True)
    root = StoreRoot(f"{Refusing.protocol}://{tmp_path}")

    with pytest.raises(RecordFull, match=rf"new/x\.parquet cannot be written \({said}"):
        put(root, "new/x.parquet", b"x")

    assert list(tmp_path.iterdir()) == []


@contextmanager
def limited_file_size(most: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``most`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_done_with_the_rows_is_no_damage(root: StoreRoot) -> None:
    with root.write("a/x.parquet") as file:
        pq.write_table(pa.table({"number": [1, 2]}), file)

    with pytest.raises(KeyError, match="mine"):
        fail_at_a_row(root, "a/x.parquet", KeyError("mine"))


def fail_at_a_row(root: StoreRoot, path: str, error: Exception) -> None:
    with root.parquet(path) as kept:
        for _ in kept.decoded(len, 1):
            raise error


@pytest.mark.parametrize("fails_at_once", [True, False])
def test_a_disk_that_fails_is_no_damage(fails_at_once: bool) -> None:
    class Disk(BytesIO):
        fails = False

        def read(self, size: int | None = -1) -> bytes:
            if self.fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    disk = Disk()
    pq.write_table(pa.table({"number": [1, 2]}), disk)
    disk.fails = fails_at_once

    with pytest.raises(OSError, match="Input/output error"):
        read_after(disk)


def read_after(disk: BytesIO) -> None:
    """Let ``disk`` fail when the file is open, if it does not before, and read the rows."""
    kept = KeptRows("x.parquet", disk)
    disk.fails = True  # type: ignore[attr-defined]
    list(kept.decoded(len, 1))


def test_a_parquet_file_is_not_fetched_before_its_rows_are_asked_for(tmp_path: Path) -> None:
    root = StoreRoot(str(tmp_path))
    table = pa.table({"number": range(2_000_000)})
    with root.write("a/many.parquet") as file:
        pq.write_table(table, file, row_group_size=4000, use_dictionary=False, compression="none")

    with root.parquet("a/many.parquet") as parquet:
        before = bytes_read()
        rows = parquet.decoded(len, 4000)
        next(rows)
        fetched = bytes_read() - before
        left = sum(rows)

    assert left == 2_000_000 - 4000
    assert 4000 * 8 <= fetched < (tmp_path / "a/many.parquet").stat().st_size / 4


def bytes_read() -> int:
    """Return what this process has read from files so far, as Linux counts it."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))
