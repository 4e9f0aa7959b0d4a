"""The data of the embedded Postgres: made, given a password, and found again after a crash."""

import hashlib
import shutil
import time
from pathlib import Path

import psutil
from psycopg import sql

from rba_pipeline.core.errors import DatabaseError
from rba_pipeline.resources.postgres_home import PostgresHome

USER = "rba"

_START_S = 60
_STOP_S = 30
_PAUSE_S = 0.05
# The usual 4,096 protect a password that people chose; ours has 192 random bits. Dagster connects
# for every event, and connecting takes 2.3 ms with these instead of 4.2.
_SCRAM_ITERATIONS = 64


def running_port(data: Path) -> int | None:
    """Return the port of the server over our data, once it is ready; None if there is none."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        lines = lines_of(data / "postmaster.pid")
        if not lines or not _works_in(data, int(lines[0])):
            return None
        if len(lines) >= 8 and lines[7].strip() == "ready":
            return int(lines[3])
        time.sleep(_PAUSE_S)
    raise DatabaseError(f"the server over {data} neither becomes ready nor ends")


def initialise(home: PostgresHome, data: Path, password: str, *, durable: bool) -> None:
    """Make the data whole or not at all: a killed initdb leaves what looks complete."""
    for left in home.folder.glob("initdb-*"):
        _remove(left)
    aside = home.folder / f"initdb-{time.time_ns()}"
    secret = home.folder / f"{aside.name}.password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    home.give(secret)
    unsynced = () if durable else ("--no-sync",)
    try:
        status, printed = home.run(
            "initdb", "-D", aside, "-U", USER, "--pwfile", secret, "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            "--locale=C", "--no-instructions", "-c", f"scram_iterations={_SCRAM_ITERATIONS}",
            *unsynced, deadline_s=120,
        )  # fmt: skip
    finally:
        secret.unlink()
    if status != 0:
        raise DatabaseError(f"initdb failed in {home.folder}:\n{printed}")
    _note_password(aside, password)
    aside.rename(data)


def set_password(home: PostgresHome, data: Path, password: str) -> None:
    """Make ours the server's password: whoever may write its data may also name it."""
    noted = lines_of(data / "rba-password.sha256")
    if noted == [_digest(password)]:
        return
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(
        sql.Identifier(USER), sql.Literal(password)
    )
    status, printed = home.run(
        "postgres", "--single", "-D", data, "postgres",
        deadline_s=60, given=statement.as_string(None) + "\n",
    )  # fmt: skip
    if status != 0 or "ERROR" in printed:
        raise DatabaseError(f"the password of {data} could not be set:\n{printed[-2000:]}")
    _note_password(data, password)


def clear_remains(data: Path) -> None:
    """After a kill or a power cut: wait for orphans, and forget an id that is another's now."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    end = time.monotonic() + _STOP_S
    while _anybody_works_in(data):
        if time.monotonic() > end:
            raise DatabaseError(f"processes of a killed server still work in {data}; end them")
        time.sleep(_PAUSE_S)
    pid_file.unlink(missing_ok=True)


def _note_password(data: Path, password: str) -> None:
    (data / "rba-password.sha256").write_text(_digest(password))


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file; none if it is not there."""
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _works_in(folder: Path, pid: int) -> bool:
    """Return whether ``pid`` is a process of the server over ``folder``: they all work in it."""
    try:
        return bool(psutil.Process(pid).cwd() == str(folder))
    except psutil.Error:
        return False


def _anybody_works_in(folder: Path) -> bool:
    return any(_works_in(folder, pid) for pid in psutil.pids())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
