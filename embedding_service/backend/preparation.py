"""The cache of prepared models: found, or made once in a process of its own."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from embedding_service.backend.agreement import read_texts
from embedding_service.backend.openvino import Prepared, capabilities, read_prepared
from embedding_service.backend.order import Order
from embedding_service.errors import ModelRefused, SettingRefused

_logger = logging.getLogger(__name__)

# To be raised whenever the same folder would be prepared differently.
_FORMAT = 8
# Quantising the largest of the usual models takes some minutes on two cores.
_LONGEST_S = 3600
_LIBRARIES = ("openvino", "nncf", "torch", "transformers", "sentence-transformers")
_CHILD = "embedding_service.backend.conversion_process"


def prepared_model(order: Order, cache: Path) -> tuple[Path, Prepared]:
    """Return the folder of the prepared model and what it is, made now if it is not in ``cache``.

    Two processes that want the same model make it once: the second waits.

    Raises:
        ModelRefused: The model cannot be loaded, or preparing it failed.
        SettingRefused: The cache cannot be written, or the calibration texts cannot be read.
    """
    name = order.folder.name.replace("/", "--")
    target = cache / f"{name}-{order.precision}-{cache_key(order, library_versions())}"
    # Before the lock, which needs a cache that can be written: this one may be part of an image.
    if prepared := read_prepared(target):
        return target, prepared
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _taken(FileLock(f"{target}.lock"), name):
            prepared = read_prepared(target)
            if prepared is None:
                _make(order, target)
                prepared = read_prepared(target)
    except Timeout as error:
        raise ModelRefused(f"{target}: another process has prepared it for too long") from error
    except OSError as error:
        raise SettingRefused(
            f"EMBEDDING_CACHE_DIR={cache}: {target.name} is not in it, and it cannot be written: "
            f"{error}"
        ) from error
    if prepared is None:
        raise ModelRefused(f"{target}: not readable after it was prepared; is the disk full?")
    return target, prepared


@contextmanager
def _taken(lock: FileLock, name: str) -> Iterator[None]:
    """Hold ``lock`` for the block; raise ``Timeout`` if another process does for an hour."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _logger.info("waiting for another process that prepares %s", name)
        lock.acquire(timeout=_LONGEST_S)
    try:
        yield
    finally:
        lock.release()


def cache_key(order: Order, libraries: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits over everything that preparing depends on.

    ``libraries`` as of ``library_versions``.

    Raises:
        ModelRefused: The model's folder cannot be read.
        SettingRefused: The calibration texts cannot be read.
    """
    parts = {
        "format": _FORMAT,
        "name": order.folder.name,
        "weights": order.folder.weights_sha256,
        "configs": _configs(order.folder.path),
        "precision": order.precision,
        "calibration": read_texts(order.calibration),
        "libraries": dict(libraries),
        # The comparison with fp32 holds for the instructions that it was made with.
        "machine": [platform.machine(), *sorted(capabilities())],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _configs(folder: Path) -> dict[str, str]:
    try:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*.json"))
        }
    except OSError as error:
        raise ModelRefused(f"{folder}: cannot be read: {error}") from error


def library_versions() -> dict[str, str]:
    """Return the version of each library that has a part in preparing; empty if not installed."""
    return {name: _version(name) for name in _LIBRARIES}


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _make(order: Order, target: Path) -> None:
    """Make ``target`` whole or not at all; what an interrupted attempt left is removed."""
    partial = target.with_name(f"{target.name}.partial")
    for leftover in (partial, target):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        _in_a_child(order, partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _in_a_child(order: Order, out: Path) -> None:
    _logger.info("preparing %s in %s for OpenVINO, once", order.folder.name, order.precision)
    # Both libraries report their use to their maker unless they believe to be in a test run.
    environment = os.environ | {"CI": "true", "NNCF_CI": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-m", _CHILD, *order.arguments(out)],
            # Never written to: its end tells the child that we are gone.
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.PIPE,
            env=environment,
            # Ctrl-C is for us; the child ends when we do.
            start_new_session=True,
        )
        code = _watched(child)
        said.seek(0)
        reason = said.read().decode(errors="replace").strip()
    if code != 0:
        reason = reason or f"its process ended with {code}; the lines above say more"
        raise ModelRefused(f"{order.folder.name}: cannot be prepared for OpenVINO: {reason}")


def _watched(child: "subprocess.Popen[bytes]") -> int:
    """Return the exit code; what the child logs goes into our log, in our format."""
    deadline = threading.Timer(_LONGEST_S, child.kill)
    deadline.daemon = True
    deadline.start()
    try:
        with child:
            for line in child.stderr or ():
                if text := line.decode(errors="replace").strip():
                    _logger.info("preparing: %s", text)
            return child.wait()
    finally:
        deadline.cancel()
        child.kill()
