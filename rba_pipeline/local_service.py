"""The embedding service as a process of this machine: found where it runs, or started."""

import json
import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from rba_pipeline import processes
from rba_pipeline.core.errors import BadSetting, ServiceUnavailable
from rba_pipeline.processes import Component
from rba_pipeline.resources.embedding import check_addresses
from rba_pipeline.resources.file_lock import FileLock
from rba_pipeline.resources.ports import LOOPBACK, free_port

# A model is prepared for this machine at its first start, which takes minutes for a large one.
_START_S = 900


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """An embedding service that is ready. ``attached``: somebody else started it, and stops it."""

    url: str
    key: str
    attached: bool


@dataclass(frozen=True, slots=True)
class StartingService:
    """An embedding service that was started, and the pipe on which it says that it is ready."""

    component: Component
    url: str
    pipe: int
    key: str

    def wait(self) -> ServiceAddress:
        """Wait for it, once.

        Raises:
            ServiceUnavailable: It ended, or was not ready in time.
        """
        with open(self.pipe, "rb") as pipe:
            readable, _, _ = select.select([pipe], [], [], _START_S)
            said = pipe.readline() if readable else b""
        if said:
            return ServiceAddress(self.url, self.key, attached=False)
        how = "ended while starting" if readable else f"was not ready after {_START_S} s"
        log = self.component.log
        raise ServiceUnavailable(
            f"the embedding service {how}. The end of {log}:\n{processes.last_lines(log)}"
        )


def start_service(root: Path, model: str | None) -> StartingService:
    """Start a service on the port of EMBEDDING_API_URL or the next free one; do not wait for it.

    Raises:
        BadSetting: There is no key to protect it with.
    """
    key = os.environ["EMBEDDING_API_KEY"]
    if not key:
        raise BadSetting("EMBEDDING_API_KEY is empty; remove its line from .env to get a new one")
    environment = {"EMBEDDING_CACHE_DIR": str(root / ".state" / "models")} | dict(os.environ)
    if model:
        environment["EMBEDDING_MODEL"] = model
    port = free_port(urlsplit(os.environ["EMBEDDING_API_URL"]).port or 8000)
    reading, writing = os.pipe()
    try:
        component = processes.start(
            "embedding service",
            [sys.executable, "-m", "embedding_service", "--host", LOOPBACK, "--port", str(port),
             "--ready-fd", str(writing)],
            log=root / ".state" / "logs" / "embedding_service.log",
            cwd=root,
            environment=environment,
            pass_fds=(writing,),
        )  # fmt: skip
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return StartingService(component, f"http://{LOOPBACK}:{port}", reading, key)


def service_elsewhere(key: str) -> ServiceAddress | None:
    """Return the service that EMBEDDING_API_URL names; None for one at 127.0.0.1, which is ours."""
    named = os.environ["EMBEDDING_API_URL"]
    first, *others = check_addresses(named)
    if not others and urlsplit(first).hostname == LOOPBACK:
        return None
    return ServiceAddress(named, key, attached=True)


def service_of_up(root: Path, key: str, model: str | None) -> ServiceAddress | None:
    """Return the service of a running ``up`` in ``root`` that has our key and serves ``model``."""
    lock = FileLock(root / ".state" / "up.lock")
    if lock.try_exclusive():
        lock.release()
        return None  # a file that a killed ``up`` left would send our key to whoever listens now
    try:
        told = json.loads(addresses_file(root).read_text())
        url, served = str(told["service"]), str(told["model"])
        with requests.Session() as session:
            session.trust_env = False  # no proxy, and no other password from ~/.netrc
            answer = session.get(
                f"{url}/ready", headers={"Authorization": f"Bearer {key}"}, timeout=5
            )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is just starting, or ending
    if not answer.ok or (model and resolved_model(model) != served):
        return None
    return ServiceAddress(url, key, attached=True)


def resolved_model(model: str) -> str:
    """Return the whole path of a model's folder, or its name if it is not a folder here."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def addresses_file(root: Path) -> Path:
    """Return where a running ``up`` says what it serves: ``webserver``, ``service``, ``model``."""
    return root / ".state" / "up.json"
