"""The root folder of the record: whole files on a local disk or any fsspec URL."""

import errno
import json
import os
import posixpath
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from rba_pipeline.core.errors import RecordDamaged, RecordFull

# A file that is not whole yet; and for how long its writer may still be at it.
_ASIDE = re.compile(r"\.[0-9a-f]{8}\.tmp$")
_ABANDONED_S = 24 * 60 * 60
# What bytes that nobody wrote so are found by, when they are taken apart.
_SENSELESS = (
    pa.ArrowException, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

Decoded = TypeVar("Decoded")


class KeptRows:
    """An open Parquet file of the record: what it says of itself, and its rows.

    Every method raises RecordDamaged, with the file's name, where that cannot be read; not where
    the disk, or whoever is on the way to it, fails.
    """

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._reads = _Reads(file)
        with self._whole():
            # Else it fetches a file in advance, and keeps what it fetched until the end.
            self._file = pq.ParquetFile(self._reads, pre_buffer=False)
            self.schema: pa.Schema = self._file.schema_arrow
            self.groups = int(self._file.num_row_groups)

    def told(self, decode: Callable[[dict[str, Any]], Decoded]) -> Decoded:
        """Return what ``decode`` makes of what the pipeline keeps beside the rows."""
        with self._whole():
            return decode(json.loads(self._file.metadata.metadata[b"rba"]))

    def decoded(
        self,
        decode: Callable[[pa.RecordBatch], Decoded],
        rows: int,
        *,
        columns: Sequence[str] | None = None,
        group: int | None = None,
    ) -> Iterator[Decoded]:
        """Yield what ``decode`` makes of the rows, so many at a time, of all groups or one.

        It only takes them apart: where it fails, a value is none of ours.
        """
        groups = None if group is None else [group]
        with self._whole():
            about = self._file.metadata if group is None else self._file.metadata.row_group(group)
            left = about.num_rows
            batches = self._file.iter_batches(rows, row_groups=groups, columns=columns)
        while True:
            with self._whole():
                batch = next(batches, None)
                if batch is None:
                    # Arrow takes some damage for the end.
                    if left:
                        raise ValueError(f"{left} of {about.num_rows} rows are missing")
                    return
                left -= len(batch)
                batch.validate(full=True)
                made = decode(batch if columns is None else batch.select(columns))
            # Outside: what becomes of it is no fault of the file.
            yield made

    def first(
        self, decode: Callable[[pa.RecordBatch], Decoded], *, group: int | None = None
    ) -> Decoded:
        """Return what ``decode`` makes of the first row, of a group or of all; there is one."""
        with self._whole():
            [made] = islice(self.decoded(decode, 1, group=group), 1)
        return made

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except _SENSELESS as error:
            # Who is on the way to the disk says it in its own words; a nonsensical size is ours.
            if error is self._reads.raised and not isinstance(error, OverflowError):
                raise
            raise RecordDamaged(
                f"{self._name} is not a whole Parquet file ({error}). Restore it, or remove it and "
                "run its partition again (refresh, if it is the catalogue): what it held is made "
                "anew, but for which texts were forgotten and what the canary's vector was"
            ) from error


class _Reads:
    """A file that remembers what a read of it raised."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.raised: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.raised = error
            raise


class StoreRoot:
    """Reads and writes whole files below one URL. Paths are relative, with forward slashes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = url_to_fs(url)
        self._local = isinstance(self._fs, LocalFileSystem)

    def _at(self, path: str) -> str:
        return posixpath.join(self._root, path)

    @contextmanager
    def write(self, path: str) -> Iterator[IO[bytes]]:
        """Open ``path`` for writing; it appears whole when the block ends, or not at all when it
        raises.

        On a local disk the bytes are written aside, synced, and renamed, so that a crash of the
        process or the machine leaves the old file or the new one. Elsewhere the object is put in
        one piece.
        """
        target = self._at(path)
        folder = posixpath.dirname(target)
        if not self._local:
            self._fs.makedirs(folder, exist_ok=True)
            # Object stores show an object only after its upload was completed.
            with self._fs.transaction, self._fs.open(target, "wb") as file:
                yield cast(IO[bytes], file)
            return
        aside = f"{target}.{secrets.token_hex(4)}.tmp"
        try:
            # A folder needs room as well.
            self._fs.makedirs(folder, exist_ok=True)
            with open(aside, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except BaseException as error:
            if os.path.exists(aside):
                os.unlink(aside)
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise RecordFull(
                    f"{self.url}/{path} cannot be written ({error.strerror}): make room, and run "
                    "again; what was kept before is still there"
                ) from error
            raise

    @contextmanager
    def read(self, path: str) -> Iterator[IO[bytes]]:
        """Open ``path`` for reading at any position.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with self._fs.open(self._at(path), "rb") as file:
            yield cast(IO[bytes], file)

    @contextmanager
    def parquet(self, path: str) -> Iterator[KeptRows]:
        """Open a Parquet file; it stays the same while it is open, whatever takes its place.

        Raises:
            FileNotFoundError: There is no such file.
            RecordDamaged: It is not a whole Parquet file.
        """
        with self.read(path) as file:
            yield KeptRows(f"{self.url}/{path}", file)

    def exists(self, path: str) -> bool:
        """Return whether ``path`` is a complete file."""
        return bool(self._fs.isfile(self._at(path)))

    def is_folder(self, path: str) -> bool:
        """Return whether ``path`` is a folder, so that no file can have its name."""
        return bool(self._fs.isdir(self._at(path)))

    def list(self, folder: str, suffix: str) -> list[str]:
        """Return the relative paths of the complete files directly in ``folder``, sorted by name.

        An absent folder has none. Files still being written are never listed.
        """
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        names = sorted(posixpath.basename(str(name)) for name in found)
        return [posixpath.join(folder, name) for name in names if name.endswith(suffix)]

    def remove(self, path: str) -> None:
        """Remove ``path``; an absent file is no error."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._at(path))

    def remove_abandoned(self) -> None:
        """Remove what killed writers had begun, wherever below the root: a day is over for each."""
        if not self._local:
            return
        before = time.time() - _ABANDONED_S
        for folder, _, names in os.walk(self._root):
            for name in filter(_ASIDE.search, names):
                path = posixpath.join(folder, name)
                # Another run may be at it as well; and what is not ours to remove hurts nobody.
                with suppress(OSError):
                    if os.stat(path).st_mtime < before:
                        os.unlink(path)
