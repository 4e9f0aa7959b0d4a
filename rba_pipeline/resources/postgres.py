"""The embedded Postgres: one server over one folder, shared by every process that joined it."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

from rba_pipeline.core.errors import DatabaseError, DatabaseUnavailable
from rba_pipeline.resources.file_lock import FileLock, held
from rba_pipeline.resources.ports import LOOPBACK, free_port
from rba_pipeline.resources.postgres_data import (
    USER,
    clear_remains,
    initialise,
    lines_of,
    running_port,
    set_password,
)
from rba_pipeline.resources.postgres_home import PostgresHome, open_home

DATABASES = ("rba", "dagster")

_START_S = 60
_STOP_S = 30
_LOG_BYTES = 16 * 2**20
# On the command line, not in postgresql.conf, so that they change with the code. Without a unix
# socket the length of the folder's path does not matter. The buffers hold the primary key of a
# million vectors, 120 MB, beside the rows that are written: with 128 MB, each of its pages was read
# and written again and again.
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "''",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Commits still reach the kernel, so that they outlive a killed server.
_UNSYNCED = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """PostgreSQL with pgvector from a Python wheel, on 127.0.0.1, by password only.

    Whoever uses it holds a part in ``<folder>.lock``; who leaves as the last one stops the server.
    A process that is killed leaves no part behind, and the next one to leave stops the server.
    """

    def __init__(self, folder: Path, *, port: int, password: str, durable: bool = True) -> None:
        """Name the server; nothing is started.

        Args:
            folder: Data and log lie in it; may become a link, see ``open_home``.
            port: The first to try; 0 for any. A server that already runs keeps its own.
            password: Of the superuser ``rba``, without line breaks.
            durable: False trades safety in a power cut for speed: for tests.
        """
        self.port = port
        self._folder = folder.absolute()
        self._password = password
        self._durable = durable
        self._part: FileLock | None = None
        self._home: PostgresHome | None = None

    def url(self, database: str) -> str:
        """Return the address of ``database``, password included; right only after ``start``."""
        password = quote(self._password, safe="")
        return f"postgresql://{USER}:{password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, or join the one that runs over the folder, and learn its port.

        Raises:
            DatabaseError: It did not start; the message ends with the last lines of its log.
            DatabaseUnavailable: The one that runs has another password.
        """
        self._part = FileLock(self._beside("lock"))
        try:
            # Waits for one who is stopping the server just now.
            self._part.shared(_STOP_S * 2)
            with held(self._beside("starting"), _START_S * 2):
                self._home = open_home(self._folder)
                self._join_or_launch(self._home)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give up our part; if nobody else has one, stop the server. Twice is no error."""
        part, self._part = self._part, None
        if part is None:
            return
        try:
            if self._home is not None and part.try_exclusive():
                self._stop(self._home)
        finally:
            part.release()

    def remove(self) -> None:
        """Delete the data, wherever they lie. For folders that were only made for a test.

        Raises:
            DatabaseError: The server is running.
        """
        if running_port(self._data) is not None:
            raise DatabaseError(f"the server over {self._data} is running")
        shutil.rmtree(self._folder.resolve(), ignore_errors=True)
        if self._folder.is_symlink():
            self._folder.unlink()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    @property
    def _data(self) -> Path:
        return self._folder.resolve() / "data"

    def _beside(self, suffix: str) -> Path:
        return self._folder.with_name(f"{self._folder.name}.{suffix}")

    def _join_or_launch(self, home: PostgresHome) -> None:
        self.port = running_port(self._data) or self._launch(home)
        try:
            self._create_missing(DATABASES)
        except DatabaseUnavailable:
            if running_port(self._data) is not None:
                raise
            # It was dying when we found it.
            self.port = self._launch(home)
            self._create_missing(DATABASES)

    def _launch(self, home: PostgresHome) -> int:
        if not self._data.exists():
            initialise(home, self._data, self._password, durable=self._durable)
        clear_remains(self._data)
        set_password(home, self._data, self._password)
        log = home.folder / "postgres.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        for _ in range(5):
            port = free_port(self.port)
            if self._launched_on(home, port, log):
                return port
            if not any("could not bind" in line for line in lines_of(log)[-6:]):
                break
        raise DatabaseError("Postgres did not start:\n" + "\n".join(lines_of(log)[-12:]))

    def _launched_on(self, home: PostgresHome, port: int, log: Path) -> bool:
        settings = _SETTINGS if self._durable else _SETTINGS | _UNSYNCED
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        status, _ = home.run(
            "pg_ctl", "start", "-D", self._data, "-l", log, "-w", "-t", str(_START_S), "-s",
            "-o", f"-p {port} {options}", deadline_s=_START_S + 10,
        )  # fmt: skip
        return status == 0

    def _stop(self, home: PostgresHome) -> None:
        for mode in ("fast", "immediate"):
            if running_port(self._data) is None:
                return
            home.run(
                "pg_ctl", "stop", "-D", self._data, "-m", mode, "-w", "-t", str(_STOP_S), "-s",
                deadline_s=_STOP_S + 10,
            )  # fmt: skip

    def _create_missing(self, names: Iterable[str]) -> None:
        try:
            with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=10) as link:
                there = {str(row[0]) for row in link.execute("SELECT datname FROM pg_database")}
                for name in names:
                    if name not in there:
                        link.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                # Dagster commits every event by itself. A power cut may cost its last second of
                # events, never their consistency; our own tables stay as durable as before.
                link.execute("ALTER DATABASE dagster SET synchronous_commit = off")
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(
                f"the server over {self._data} runs on port {self.port} but refuses us: {error}"
            ) from error


def is_embedded(url: str) -> bool:
    """Return whether ``url`` can only mean an embedded server: user ``rba`` at 127.0.0.1."""
    parts = urlsplit(url)
    return parts.hostname == LOOPBACK and parts.username == USER
