"""A project for tests of the stack: tiny definitions, and a service that only says its name."""

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from rba_pipeline import local_env
from rba_pipeline.resources.ports import free_port
from rba_pipeline.resources.postgres import EmbeddedPostgres

REPOSITORY = Path(__file__).parents[1]

DEFINITIONS = """
import time
import dagster as dg

@dg.asset(pool="embedding")
def quick() -> None: ...

@dg.asset
def endless() -> None:
    time.sleep(600)

defs = dg.Definitions(assets=[quick, endless])
"""

SERVICE = """
import argparse, json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--ready-fd", type=int)
given = parser.parse_args()
model = os.environ.get("EMBEDDING_MODEL", "tiny")
if model == "broken":
    sys.exit("there is no model named broken")

class Info(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers.get("Authorization") == "Bearer " + os.environ["EMBEDDING_API_KEY"]
        body = json.dumps({"model": model}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = HTTPServer((given.host, given.port), Info)
with os.fdopen(given.ready_fd, "w") as pipe:
    pipe.write(json.dumps({"port": given.port, "pid": os.getpid()}) + "\\n")
server.serve_forever()
"""


def make_project(root: Path) -> Path:
    """Write a project into ``root``; its own ``embedding_service`` is found before the real one."""
    shutil.copy(REPOSITORY / "dagster.yaml", root)
    (root / "workspace.yaml").write_text(
        "load_from: [{python_module: {module_name: tiny_definitions, location_name: tiny}}]\n"
    )
    (root / "tiny_definitions.py").write_text(DEFINITIONS)
    (root / "embedding_service").mkdir()
    (root / "embedding_service" / "__init__.py").touch()
    (root / "embedding_service" / "__main__.py").write_text(SERVICE)
    return root


def stop_database(root: Path) -> None:
    """End the project's database, if something left it running, and remove its data."""
    folder = root / ".state" / "postgres"
    server = EmbeddedPostgres(folder, port=0, password="")
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(folder.resolve() / "data"):
            process.kill()
            process.wait(10)
    server.remove()


def free_ports(root: Path) -> dict[str, int]:
    """Write ports into .env that no real installation on this machine uses, and return them."""
    local_env.read(root)
    there = local_env.written(root)
    ports = {"database": free_port(12000), "service": free_port(12100), "web": free_port(12200)}
    databases = ("RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL")
    change = {name: there[name].replace("55432", str(ports["database"])) for name in databases}
    change["EMBEDDING_API_URL"] = f"http://127.0.0.1:{ports['service']}"
    change["RBA_WEBSERVER_PORT"] = str(ports["web"])
    local_env.update(root, change)
    return ports


def clean_environment(root: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process' environment without anything that an installation sets."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RBA_", "EMBEDDING_", "DAGSTER_", "PYTEST_"))
        or name == "EMBEDDING_CACHE_DIR"
    }
    return kept | {"RBA_PROJECT": str(root), "PYTHONPATH": str(REPOSITORY)} | dict(extra or {})


def run_in(root: Path, *command: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the project's folder as a user would."""
    return subprocess.run(
        command,
        cwd=root,
        env=clean_environment(root, extra),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def python_in(root: Path, code: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    return run_in(root, sys.executable, "-c", code, **extra)


def processes_of(root: Path) -> dict[int, str]:
    """Return the processes that were started for this project, the database's not among them."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("RBA_PROJECT") == str(root)
            gone = process.status() == psutil.STATUS_ZOMBIE
            if ours and not gone and "postgres" not in process.name():
                found[process.pid] = " ".join(process.cmdline())
    return found


def wait_for_none_of(root: Path, deadline_s: float) -> dict[int, str]:
    """Wait until no process of the project is left, or the deadline; return those that are."""
    for pid in processes_of(root):
        try:
            psutil.Process(pid).wait(deadline_s)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue
    return processes_of(root)


class Up:
    """``rba-pipeline up`` as a process; leaving the block kills whatever a test left of it."""

    def __init__(self, root: Path, *arguments: str, **extra: str) -> None:
        self._root = root
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "rba_pipeline.cli", "up", *arguments],
            cwd=root,
            env=clean_environment(root, extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def said_until(self, first_word: str, deadline_s: float = 90) -> list[str]:
        """Return its lines up to the one that begins with ``first_word``."""
        end = time.monotonic() + deadline_s
        lines: list[str] = []
        while not lines or not lines[-1].startswith(first_word):
            line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            if not line:
                raise AssertionError(f"up ended: {lines} {self._process.communicate()[1]}")
            lines.append(line)
        return lines

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, deadline_s: float = 30) -> tuple[int, str]:
        """Return its exit status and what it wrote to stderr."""
        status = self._process.wait(deadline_s)
        assert self._process.stderr is not None
        return status, self._process.stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pid in processes_of(self._root):
            try:
                psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                continue
