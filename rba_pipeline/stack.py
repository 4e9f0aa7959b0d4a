"""What has to run around the pipeline on one machine: database, service, Dagster's servers."""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import unquote

from rba_pipeline import local_env, processes
from rba_pipeline.core.addresses import address_parts
from rba_pipeline.core.errors import RbaError
from rba_pipeline.local_service import (
    ServiceAddress,
    addresses_file,
    service_elsewhere,
    service_of_up,
    start_service,
)
from rba_pipeline.resources.file_lock import FileLock
from rba_pipeline.resources.postgres import EmbeddedPostgres, is_embedded
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.supervision import say, start_all, watch

__all__ = [
    "DatabaseUrls",
    "ServiceAddress",
    "database",
    "load_environment",
    "project_root",
    "seen_environment",
    "service",
    "stopping_on_signals",
    "up",
]

_SERVICE_STOP_S = 8


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """Addresses, with passwords, of our tables and of Dagster's storage."""

    rba: str
    dagster: str


def project_root() -> Path:
    """Return the folder of workspace.yaml and dagster.yaml, which holds .env and .state.

    ``RBA_PROJECT`` names another one, for instance for tests. Where the package was installed
    without its project, it is the current folder.
    """
    named = os.environ.get("RBA_PROJECT")
    if named:
        return Path(named).absolute()
    here = Path(__file__).resolve().parents[1]
    return here if (here / "workspace.yaml").exists() else Path.cwd()


def load_environment() -> dict[str, str]:
    """Put the variables of .env into this process' environment, where the shell did not set them.

    Makes .env and Dagster's home when they are absent. In a folder that is not ours to write, as
    in a container, all variables have to come from outside.

    Returns:
        The variables of .env with the values that are now in force.
    """
    root = project_root()
    if not (root / ".env").exists() and not os.access(root, os.W_OK):
        return {}
    values = local_env.read(root)
    for name, value in values.items():
        os.environ.setdefault(name, value)
    _make_dagster_home(root)
    return {name: os.environ[name] for name in values}


def seen_environment() -> None:
    """Put the variables of .env into this process' environment, as ``load_environment``; make
    nothing.
    """
    for name, value in local_env.written(project_root()).items():
        os.environ.setdefault(name, value)


@contextmanager
def database() -> Iterator[DatabaseUrls]:
    """Have the database for the block, and its addresses in the environment.

    The embedded server is started, or joined, if an address in the environment is its own: user
    ``rba`` at ``127.0.0.1``. Any other address is taken as it is, and nothing is started for it;
    for a server of your own on this machine write ``localhost``.

    Raises:
        BadSetting: An address cannot be read.
        DatabaseError: The embedded server did not start.
    """
    load_environment()
    addresses = {name: os.environ[name] for name in ("RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL")}
    parts = {name: address_parts(name, url) for name, url in addresses.items()}
    own = {name: parts[name] for name, url in addresses.items() if is_embedded(url)}
    if not own:
        yield DatabaseUrls(addresses["RBA_DATABASE_URL"], addresses["DAGSTER_POSTGRES_URL"])
        return
    first = next(iter(own.values()))
    server = EmbeddedPostgres(
        project_root() / ".state" / "postgres",
        port=first.port or 0,
        password=unquote(first.password or ""),
    )
    with server:
        addresses |= {name: server.url(url.path.lstrip("/")) for name, url in own.items()}
        with _exported(addresses):
            yield DatabaseUrls(addresses["RBA_DATABASE_URL"], addresses["DAGSTER_POSTGRES_URL"])


@contextmanager
def service(model: str | None) -> Iterator[ServiceAddress]:
    """Have an embedding service for the block, and its address in the environment.

    Taken is one at another host that EMBEDDING_API_URL names, else the one of a running ``up`` if
    it answers to our key and serves ``model``, else a new one, which ends with the block or with
    this process.

    Args:
        model: A name or a folder; None for the default, or for whatever a running service has.

    Raises:
        ServiceUnavailable: The new one did not become ready; the message has the end of its log.
    """
    load_environment()
    root = project_root()
    key = os.environ["EMBEDDING_API_KEY"]
    found = service_elsewhere(key) or service_of_up(root, key, model)
    if found is not None:
        with _exported({"EMBEDDING_API_URL": found.url}):
            yield found
        return
    starting = start_service(root, model)
    try:
        address = starting.wait()
        with _exported({"EMBEDDING_API_URL": address.url}):
            yield address
    finally:
        processes.stop([starting.component], _SERVICE_STOP_S)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP of the block into KeyboardInterrupt, ignore more.

    Children get the default handlers, also where a shell started us with SIGINT ignored. Only for
    the main thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    received: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up(source: str | None) -> None:
    """Run database, embedding service, Dagster's web interface and daemon until Ctrl-C or SIGTERM.

    Addresses and ports in use are written to .env, so that Dagster's own commands find them.

    Args:
        source: What to serve from now on, a folder or an fsspec URL; None changes nothing.

    Raises:
        RbaError: Another ``up`` runs in this folder, or a component did not start, or has ended.
    """
    load_environment()
    root = project_root()
    lock = FileLock(root / ".state" / "up.lock")
    if not lock.try_exclusive():
        raise RbaError(f"make up runs in this folder already: {_address_of_up(root)}")
    if source is not None:
        os.environ["RBA_SOURCE"] = source if "://" in source else str(Path(source).absolute())
        local_env.update(root, {"RBA_SOURCE": os.environ["RBA_SOURCE"]})
    try:
        with stopping_on_signals(), database() as urls, ExitStack() as running:
            say("database", _without_password(urls.rba))
            with VectorStore(database_url=urls.rba, corpus="").open() as vector_store:
                vector_store.migrate()
            watch(start_all(root, running))
    except KeyboardInterrupt:
        say("stopped", "everything")
    finally:
        addresses_file(root).unlink(missing_ok=True)
        lock.release()


def _address_of_up(root: Path) -> str:
    try:
        return str(json.loads(addresses_file(root).read_text())["webserver"])
    except (OSError, ValueError, KeyError):
        return "it is just starting"


def _without_password(url: str) -> str:
    parts = address_parts("RBA_DATABASE_URL", url)
    return f"{parts.hostname}:{parts.port}{parts.path}"


def _make_dagster_home(root: Path) -> None:
    home = Path(os.environ["DAGSTER_HOME"])
    if home != root / ".state" / "dagster":
        return
    home.mkdir(parents=True, exist_ok=True)
    link = home / "dagster.yaml"
    if not link.is_symlink() and not link.exists():
        with suppress(FileExistsError):
            link.symlink_to(Path("..", "..", "dagster.yaml"))


@contextmanager
def _exported(values: Mapping[str, str]) -> Iterator[None]:
    """Have ``values`` in the environment for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
