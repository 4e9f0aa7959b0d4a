"""What ``up`` starts, in which order, and how long it goes on."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import dagster as dg

from rba_pipeline import local_env, processes
from rba_pipeline.dagster_servers import DagsterServers, wait_for_daemon, wait_for_webserver
from rba_pipeline.local_service import (
    addresses_file,
    resolved_model,
    service_elsewhere,
    start_service,
)
from rba_pipeline.lost_runs import look_again
from rba_pipeline.processes import Component
from rba_pipeline.resources.ports import LOOPBACK, free_port
from rba_pipeline.resources.postgres import is_embedded

_SERVICE_STOP_S = 4
_DAGSTER_STOP_S = 6
_LOST_RUNS_EVERY_S = 15.0


def start_all(root: Path, running: ExitStack) -> list[Component]:
    """Start everything, the service beside Dagster's servers, and say of each when it is ready.

    Returns:
        The children to watch. They are stopped with ``running``, Dagster's servers first, also
        when one of them fails here.
    """
    port = free_port(int(os.environ["RBA_WEBSERVER_PORT"]))
    starting = None
    address = service_elsewhere(os.environ["EMBEDDING_API_KEY"])
    if address is None:
        starting = start_service(root, os.environ.get("EMBEDDING_MODEL"))
        running.callback(processes.stop, [starting.component], _SERVICE_STOP_S)
        os.environ["EMBEDDING_API_URL"] = starting.url
    _publish(root, port)

    components: list[Component] = []
    running.callback(processes.stop, components, _DAGSTER_STOP_S)
    servers = DagsterServers(root, components.append)
    recovered = servers.recover_lost_runs()
    components.clear()  # it has ended, as it should
    if recovered:
        say("recovery", recovered)
    servers.start_code_server()
    webserver, daemon = servers.start_webserver(port), servers.start_daemon()
    if starting is not None:
        address = starting.wait()
        components.append(starting.component)
    say("embedding service", address.url if address else "")
    wait_for_daemon(daemon)
    say("daemon", "schedules, queue and backfills")
    wait_for_webserver(webserver, port)
    say("web interface", f"http://{LOOPBACK}:{port}")
    return components


def watch(components: Sequence[Component], every_s: float = _LOST_RUNS_EVERY_S) -> None:
    """Wait until one of them ends, or for KeyboardInterrupt; look after killed runs meanwhile.

    Args:
        every_s: Seconds between two looks.

    Raises:
        RbaError: One has ended; the message has its name and the end of its log.
    """
    ended: SimpleQueue[Component] = SimpleQueue()
    for component in components:
        Thread(target=_wait_and_tell, args=(component, ended), daemon=True).start()
    say("ready", "Ctrl-C stops everything")
    with dg.DagsterInstance.get() as instance:
        while True:
            try:
                component = ended.get(timeout=every_s)
            except Empty:
                look_again(instance, partial(say, "killed run"))
                continue
            raise component.died()


def _wait_and_tell(component: Component, ended: SimpleQueue[Component]) -> None:
    component.process.wait()
    ended.put(component)


def _publish(root: Path, port: int) -> None:
    """Write the addresses in use where other commands look for them: .env and .state/up.json."""
    os.environ["RBA_WEBSERVER_PORT"] = str(port)
    names = ["RBA_WEBSERVER_PORT"]
    names += [
        name
        for name in ("RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL")
        if is_embedded(os.environ[name])
    ]
    if service_elsewhere("") is None:
        names.append("EMBEDDING_API_URL")
    local_env.update(root, {name: os.environ[name] for name in names})
    told = {
        "webserver": f"http://{LOOPBACK}:{port}",
        "service": os.environ["EMBEDDING_API_URL"],
        "model": resolved_model(os.environ.get("EMBEDDING_MODEL", "")),
    }
    addresses_file(root).write_text(json.dumps(told))


def say(what: str, words: str) -> None:
    print(f"{what:<18} {words}", flush=True)
