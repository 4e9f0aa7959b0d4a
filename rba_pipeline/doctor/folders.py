"""The record, which has to be writable, and the source, which has to be readable."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from rba_pipeline.doctor.findings import Finding, failed, ok, warning
from rba_pipeline.resources.source_folder import open_source, publications
from rba_pipeline.resources.store_root import StoreRoot
from rba_pipeline.settings import Settings

_GIB = 1 << 30
_LITTLE_BYTES = 1 * _GIB


def record(settings: Settings) -> Iterator[Finding]:
    """Write a file into the record and remove it; a folder that is not there yet is not made."""
    place = settings.store
    local = None if "://" in place else Path(place)
    if local is not None and not local.exists():
        parent = next(each for each in local.absolute().parents if each.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            yield failed("record", f"{place} cannot be made: {parent} is no folder for us to write")
            return
        yield ok("record", f"{place} is not there yet: the first run makes it")
        return
    root, name = StoreRoot(place), f"doctor-{secrets.token_hex(4)}"
    try:
        with root.write(name) as file:
            file.write(b"written by rba-pipeline doctor, to be removed")
        root.remove(name)
    except OSError as error:
        yield failed("record", f"{place} cannot be written: {error.strerror or error}")
        return
    if local is None:
        yield ok("record", f"{place} can be written")
        return
    free = shutil.disk_usage(local).free
    told = f"{place} can be written, {free / _GIB:.1f} GiB free"
    yield warning("record", f"{told}: make room") if free < _LITTLE_BYTES else ok("record", told)


def source(settings: Settings) -> Iterator[Finding]:
    """List the source."""
    folder = open_source(settings.source)
    found = publications(folder.walk())
    told = f"{len(found)} files in {settings.source}, corpus {settings.corpus}"
    unreadable = sum(file.problem is not None for file in found)
    if not found:
        yield warning("source", f"{told}: nothing to materialise. Is RBA_SOURCE the right folder?")
    elif unreadable:
        yield warning("source", f"{told}, {unreadable} of them cannot be read")
    else:
        yield ok("source", told)
