"""A Postgres of a test's own, synced to the disk as in production, to be killed and filled."""

import os
import resource
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
_DISK_BYTES, _LEFT_BYTES = 64 * 2**20, 2 * 2**20


class SmallDisk:
    """A disk of a database's own, and the file of somebody else that takes its room."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._folder = folder

    def fill(self) -> None:
        """Leave 2 MiB free."""
        space = os.statvfs(self._folder)
        with (self._folder / "filling").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bfree * space.f_frsize - _LEFT_BYTES)

    def make_room(self) -> None:
        """Remove what ``fill`` has written."""
        (self._folder / "filling").unlink()


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

    def new_database(self, tablespace: str = "pg_default") -> str:
        """Return the address of an empty database."""
        name = f"test_{secrets.token_hex(4)}"
        with psycopg.connect(self._server.url("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TABLESPACE {}").format(
                    sql.Identifier(name), sql.Identifier(tablespace)
                )
            )
        return self._server.url(name)

    @contextmanager
    def small_disk(self) -> Iterator[SmallDisk | None]:
        """Have an empty database on a disk of 64 MiB; ``None`` where nothing may be mounted."""
        home = open_home(self._folder)
        folder = home.folder / "small"
        folder.mkdir()
        mount = [shutil.which("mount") or "false", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}"]
        if subprocess.run([*mount, "tmpfs", folder], capture_output=True, check=False).returncode:
            folder.rmdir()
            yield None
            return
        try:
            home.give(folder)
            with psycopg.connect(self._server.url("postgres"), autocommit=True) as connection:
                place = sql.Literal(str(folder))
                connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(place))
                url = self.new_database("small")
                try:
                    yield SmallDisk(folder, url)
                finally:
                    name = sql.Identifier(url.rpartition("/")[2])
                    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
                    connection.execute("DROP TABLESPACE small")
        finally:
            # Lazily: the server may have files open there that it has removed.
            subprocess.run(["umount", "--lazy", folder], check=True)
            folder.rmdir()

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
