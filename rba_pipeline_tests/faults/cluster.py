"""A Postgres of a test's own, synced to the disk as in production, to be killed and filled."""

import resource
import secrets
import shutil
import socket
import tempfile
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from rba_pipeline.resources.ports import LOOPBACK
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline.resources.postgres_home import open_home

DEADLINE_S = 60


class Cluster:
    """The server, and what is done to it."""

    def __init__(self) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="rba-faults-"))
        self._folder = self._base / "postgres"
        self._server = EmbeddedPostgres(self._folder, port=0, password="test")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._server.leave()
            self._server.remove()
        finally:
            shutil.rmtree(self._base, ignore_errors=True)

    def new_database(self) -> str:
        """Return the address of an empty database."""
        name = f"test_{secrets.token_hex(4)}"
        with psycopg.connect(self._server.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._server.url(name)

    def crash(self) -> None:
        """End the server at once, as if it was killed: it has to recover when it starts."""
        self._control("stop", "-m", "immediate")

    def restart(self, *, longest_file: int | None = None) -> None:
        """Stop the server and start it anew, with a limit on the bytes of a file that it writes."""
        self._control("stop", "-m", "fast")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # What is started inherits it; we ourselves write nothing in between.
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest_file or soft, hard))
        try:
            self._start()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def restart_when_somebody_calls(self) -> Thread:
        """Refuse the first caller at the address of the crashed server, then start it again."""
        listener = socket.create_server((LOOPBACK, self._server.port))
        listener.settimeout(DEADLINE_S)

        def refuse_and_start() -> None:
            with listener:
                caller, _ = listener.accept()
                caller.close()
            self._start()

        thread = Thread(target=refuse_and_start)
        thread.start()
        return thread

    def _start(self) -> None:
        port, log = self._server.port, self._folder.resolve() / "postgres.log"
        options = f"-p {port} -c listen_addresses={LOOPBACK} -c unix_socket_directories=''"
        self._control("start", "-l", str(log), "-o", options)

    def _control(self, action: str, *options: str) -> None:
        data = self._folder.resolve() / "data"
        status, printed = open_home(self._folder).run(
            "pg_ctl", action, "-D", data, "-w", "-s", *options, deadline_s=DEADLINE_S
        )
        if status != 0:
            raise RuntimeError(f"pg_ctl {action}: {printed}")
