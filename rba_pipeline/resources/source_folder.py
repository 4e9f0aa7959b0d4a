"""The folder of publications: what is in it, and the bytes of one file at a time."""

import json
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from rba_pipeline.core.documents import Stated
from rba_pipeline.core.errors import DocumentRejected, SourceUnavailable

MANIFEST = "manifest.jsonl"
# At the root they describe the folder; they are no publications.
_NOT_PUBLICATIONS = (MANIFEST, "README.md")


@dataclass(frozen=True, slots=True)
class Found:
    """A file as listed.

    Attributes:
        path: Relative to the source, with forward slashes.
        size: Bytes; 0 if ``problem`` says why the file cannot be read.
        modified: Differs whenever the file may have changed; empty where the source cannot tell.
    """

    path: str
    size: int
    modified: str
    problem: DocumentRejected | None = None

    @property
    def is_missing(self) -> bool:
        """Return whether it was named, but not there."""
        return self.problem is not None and self.problem.reason == "missing"


class SourceFolder(Protocol):
    """A folder somewhere. Nothing outside it is ever read, and no read waits for a writer."""

    def walk(self) -> list[Found]:
        """Return every file below the folder but hidden ones, in no particular order.

        Raises:
            SourceUnavailable: The folder, or one below it, cannot be listed.
        """

    def look(self, path: str) -> Found:
        """Return one file that a manifest names, whether it is there or not."""

    def read(self, path: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of a file.

        Raises:
            DocumentRejected: ``missing``, ``unreadable`` or ``outside_source``.
            SourceUnavailable: The folder itself went away after it was listed.
        """


def open_source(url: str) -> SourceFolder:
    """Return the folder at ``url``: a local path or any fsspec URL."""
    try:
        files, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SourceUnavailable(f"{url}: {error}. Nothing was changed.") from error
    if isinstance(files, LocalFileSystem):
        return LocalFolder(root)
    return RemoteFolder(files, root, url)


def publications(found: list[Found]) -> list[Found]:
    """Return the publications among ``found``: not the manifest or README at the root."""
    return [file for file in found if file.path not in _NOT_PUBLICATIONS]


class LocalFolder:
    """A folder on a local disk."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)

    def walk(self) -> list[Found]:
        """See ``SourceFolder``. Links to folders are not followed."""
        if not os.path.isdir(self._root):
            raise SourceUnavailable(_gone(self._root))
        found: list[Found] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                path = posixpath.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif not os.path.isdir(entry.path):
                    found.append(self.look(path))
        return found

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                yield from (entry for entry in entries if not entry.name.startswith("."))
        except FileNotFoundError:
            if not folder:
                raise SourceUnavailable(_gone(self._root)) from None
        except OSError as error:
            # Without it, its files would look deleted.
            raise SourceUnavailable(f"{error}. Nothing was changed.") from error

    def look(self, path: str) -> Found:
        """See ``SourceFolder``. A name that is no UTF-8 is told in escapes, and cannot be read."""
        if not path.isprintable() and _printable(path) != path:
            return Found(
                _printable(path), 0, "", DocumentRejected("unreadable", "its name is not UTF-8")
            )
        try:
            status = os.stat(self._inside(path))
            _require_file(status.st_mode)
        except DocumentRejected as problem:
            return Found(path, 0, "", problem)
        except (OSError, ValueError) as error:
            return Found(path, 0, "", _translated(error))
        return Found(
            path, status.st_size, f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"
        )

    def read(self, path: str, limit: int) -> bytes:
        """See ``SourceFolder``."""
        try:
            descriptor = self._opened(self._inside(path))
            with open(descriptor, "rb") as file:
                _require_file(os.fstat(descriptor).st_mode)
                return file.read(limit)
        except (OSError, ValueError) as error:
            raise _translated(error) from error

    def _opened(self, resolved: str) -> int:
        """Open a file from the root on, folder by folder, no link followed, no writer waited for.

        A link or a pipe may have taken the place of what was looked at just before.
        """
        *folders, name = os.path.relpath(resolved, self._root).split("/")
        try:
            place = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Not this file alone is gone, and none of them may be taken for deleted.
            raise SourceUnavailable(_gone(self._root)) from None
        try:
            for folder in folders:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
                os.close(place)
                place = inner
            return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=place)
        finally:
            os.close(place)

    def _inside(self, path: str) -> str:
        resolved = os.path.realpath(os.path.join(self._root, path))
        if os.path.isabs(path) or not resolved.startswith(self._root.rstrip("/") + "/"):
            raise DocumentRejected(
                "outside_source", "the path or link leads outside the source folder"
            )
        return resolved


class RemoteFolder:
    """A folder in an object store, or behind any other fsspec file system."""

    def __init__(self, files: Any, root: str, url: str) -> None:  # fsspec has no types
        self._files = files
        self._root = root.rstrip("/")
        self._url = url

    def walk(self) -> list[Found]:
        """See ``SourceFolder``."""
        self._files.invalidate_cache()
        try:
            listed = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            listed = {}
        except OSError as error:
            raise SourceUnavailable(f"{self._url}: {error}. Nothing was changed.") from error
        # An object store knows no folders: one without objects is not there.
        if not listed and not self._files.isdir(self._root):
            raise SourceUnavailable(_gone(self._url))
        paths = {name[len(self._root) :].lstrip("/"): details for name, details in listed.items()}
        return [
            _found(path, details)
            for path, details in paths.items()
            if path and not any(part.startswith(".") for part in path.split("/"))
        ]

    def look(self, path: str) -> Found:
        """See ``SourceFolder``."""
        try:
            details = self._files.info(self._inside(path))
        except DocumentRejected as problem:
            return Found(path, 0, "", problem)
        except OSError as error:
            return Found(path, 0, "", _translated(error))
        if details.get("type") == "directory":
            return Found(path, 0, "", DocumentRejected("unreadable", "it is a folder, not a file"))
        return _found(path, details)

    def read(self, path: str, limit: int) -> bytes:
        """See ``SourceFolder``."""
        try:
            with self._files.open(self._inside(path), "rb") as file:
                return bytes(file.read(limit))
        except OSError as error:
            raise _translated(error) from error

    def _inside(self, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise DocumentRejected("outside_source", "the path leads outside the source folder")
        return f"{self._root}/{path}"


def read_manifest(source: SourceFolder) -> dict[str, Stated] | None:
    """Return what the manifest at the root states, by path; ``None`` if there is no manifest.

    Raises:
        SourceUnavailable: A line is no JSON object with a path, or says two things of one file:
            which files are publications is then unknown, and none may be taken for deleted.
    """
    if source.look(MANIFEST).is_missing:
        return None
    try:
        lines = source.read(MANIFEST, -1).decode("utf-8-sig").splitlines()
    except (DocumentRejected, UnicodeDecodeError) as error:
        raise SourceUnavailable(
            f"{MANIFEST} cannot be read: {error}. Nothing was changed."
        ) from error
    stated: dict[str, Stated] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _manifest_row(line, number)
            if stated.setdefault(row.path, row) != row:
                raise SourceUnavailable(
                    f"{MANIFEST} line {number}: {row.path!r} is listed before, with other values. "
                    "Nothing was changed."
                )
    return stated


def _manifest_row(line: str, number: int) -> Stated:
    try:
        row = json.loads(line)
        values = {name: row.get(name) for name in ("path", "date", "title", "url", "kind")}
    except (ValueError, AttributeError, RecursionError) as error:
        raise SourceUnavailable(
            f"{MANIFEST} line {number} is not a JSON object: {error}. Nothing was changed."
        ) from error
    wrong = [name for name, value in values.items() if not isinstance(value, str | None)]
    if wrong or not values["path"]:
        name = wrong[0] if wrong else "path"
        raise SourceUnavailable(
            f"{MANIFEST} line {number}: {name!r} is no text. Nothing was changed."
        )
    path = posixpath.normpath(_printable(values["path"]))
    return Stated(path, values["date"], values["title"], values["url"], values["kind"])


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def _found(path: str, details: dict[str, Any]) -> Found:
    marks = (
        details.get(name)
        for name in ("ETag", "etag", "LastModified", "mtime", "updated", "created")
    )
    mark = next((str(value) for value in marks if value is not None), "")
    return Found(path, int(details.get("size") or 0), mark)


def _require_file(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise DocumentRejected("unreadable", "it is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise DocumentRejected("unreadable", "it is a pipe, socket or device, not a file")


def _translated(error: OSError | ValueError) -> DocumentRejected:
    if isinstance(error, FileNotFoundError):
        return DocumentRejected("missing", "the file is not there")
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DocumentRejected("unreadable", f"the file cannot be read: {cause}")


def _gone(place: str) -> str:
    return (
        f"the source folder {place} is missing. Nothing was changed: a missing folder is never "
        "taken for an empty one. Check RBA_SOURCE, or mount the folder"
    )
