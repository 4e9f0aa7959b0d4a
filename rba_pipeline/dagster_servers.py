"""Dagster's three servers as processes of this machine.

One code server serves both the web interface and the daemon. Left to themselves each of them would
start its own, which costs another import of everything and its memory. Runs are children of the
code server.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from rba_pipeline import processes
from rba_pipeline.core.errors import RbaError
from rba_pipeline.processes import Component
from rba_pipeline.resources.ports import LOOPBACK, free_port, somebody_listens

_START_S = 180
_DAEMON_READY = "Instance is configured with the following daemons"


class DagsterServers:
    """Starts the servers of one project folder; every child is handed to ``on_start`` at once."""

    def __init__(self, root: Path, on_start: Callable[[Component], None]) -> None:
        self._root = root
        self._on_start = on_start
        self._workspace = root / ".state" / "workspace.yaml"

    def recover_lost_runs(self) -> str:
        """Fail the runs that a crash left open, and return what there is to say about it.

        In a process of its own, because importing Dagster takes memory that we would keep. Must
        come first: it makes the tables of Dagster's storage, which servers that start side by side
        would all try to make.
        """
        recovery = self._start("recovery", [sys.executable, "-m", "rba_pipeline.lost_runs"])
        processes.wait_until(lambda: recovery.process.poll() is not None, recovery, _START_S)
        if recovery.process.returncode != 0:
            raise recovery.died()
        return recovery.logged().strip()

    def start_code_server(self) -> None:
        """Start the code server and wait until it has loaded the definitions.

        Raises:
            RbaError: They cannot be loaded; the message ends with the reason.
        """
        module, location = code_location(self._root)
        # Any: whoever starts beside us would probe the same ones in the same order.
        port = free_port(0)
        server = self._start(
            "code server",
            [_script("dagster"), "api", "grpc", "--module-name", module, "--host", LOOPBACK,
             "--port", str(port), "--location-name", location, "--log-level", "warning"],
        )  # fmt: skip
        self._workspace.write_text(served_workspace(location, port))
        processes.wait_until(lambda: somebody_listens(port), server, _START_S)

    def start_daemon(self) -> Component:
        """Start the daemon; see ``wait_for_daemon``."""
        return self._start("daemon", [_script("dagster-daemon"), "run", "-w", str(self._workspace)])

    def start_webserver(self, port: int) -> Component:
        """Start the web interface; see ``wait_for_webserver``."""
        return self._start(
            "web interface",
            [_script("dagster-webserver"), "-w", str(self._workspace), "--host", LOOPBACK,
             "--port", str(port)],
        )  # fmt: skip

    def _start(self, name: str, command: list[str]) -> Component:
        component = processes.start(
            name,
            command,
            log=self._root / ".state" / "logs" / f"{name.replace(' ', '_')}.log",
            cwd=self._root,
            environment=os.environ,
        )
        self._on_start(component)
        return component


def wait_for_webserver(webserver: Component, port: int) -> None:
    """Wait until the web interface takes connections."""
    processes.wait_until(lambda: somebody_listens(port), webserver, _START_S)


def wait_for_daemon(daemon: Component) -> None:
    """Wait until the daemon has said which daemons it runs."""
    processes.wait_until(lambda: _DAEMON_READY in daemon.logged(), daemon, _START_S)


def served_workspace(location: str, port: int) -> str:
    """Return the workspace file of a code location that is served at ``port`` of this machine."""
    # The location keeps its name wherever the server listens: the schedules' state hangs on it,
    # and backfills name it.
    target = {"host": LOOPBACK, "port": port, "location_name": location}
    return yaml.safe_dump({"load_from": [{"grpc_server": target}]})


def code_location(root: Path) -> tuple[str, str]:
    """Return module and name of the one code location in workspace.yaml.

    Raises:
        RbaError: The file has another shape than ours.
    """
    path = root / "workspace.yaml"
    try:
        (entry,) = yaml.safe_load(path.read_text())["load_from"]
        module = entry["python_module"]
        return str(module["module_name"]), str(module["location_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RbaError(
            f"{path} does not name one python_module with a location_name: {error!r}"
        ) from error


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
