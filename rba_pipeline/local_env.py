"""The file .env: what makes a folder a working installation. Dagster's commands read it too."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from rba_pipeline.core.addresses import address_parts

_HEADER = """\
# Made by make, for this folder. Change what you like: only addresses, ports and the source are ever
# written again, and only by `make up`. NAME="${NAME:-value}" lets a variable of the shell beat the
# value here, also in Dagster's own commands, which read this file and would otherwise let it win.
"""
_STATE = Path(".state")


def _first_values(root: Path, there: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a new installation: a new key, a password if it has none."""
    names = ("RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL")
    known = (address_parts(name, there.get(name, "")) for name in names)
    ours = (url.password for url in known if url.username == "rba")
    password = next(ours, None) or secrets.token_hex(24)
    postgres = f"postgresql://rba:{password}@127.0.0.1:55432"
    return {
        "DAGSTER_HOME": str(root / _STATE / "dagster"),
        "DAGSTER_POSTGRES_URL": f"{postgres}/dagster",
        "RBA_DATABASE_URL": f"{postgres}/rba",
        "RBA_STORE": str(root / _STATE / "store"),
        "RBA_SOURCE": str(Path(__file__).resolve().parent / "sample_corpus"),
        "RBA_WEBSERVER_PORT": "3000",
        "EMBEDDING_API_URL": "http://127.0.0.1:8000",
        "EMBEDDING_API_KEY": secrets.token_hex(24),
        "HF_HUB_OFFLINE": "1",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def read(root: Path) -> dict[str, str]:
    """Return what ``.env`` says, the shell's variables put in where it asks for them.

    A file that is absent is made (mode 0600), a variable that it lacks is added. In a folder that
    was moved or copied, paths into the old place are led to the new one.
    """
    path = root / ".env"
    if not path.exists():
        first = _first_values(root, {})
        _create(path, _HEADER + "".join(_line(name, value) for name, value in first.items()))
    there = written(root)
    first = _first_values(root, there)
    change = {name: value for name, value in first.items() if name not in there}
    change |= _moved(there, root)
    if change:
        update(root, change)
    return {name: value or "" for name, value in dotenv_values(path).items()}


def written(root: Path) -> dict[str, str]:
    """Return what ``.env`` says, whatever the shell's variables are; empty without the file."""
    path = root / ".env"
    if not path.exists():
        return {}
    raw = dotenv_values(path, interpolate=False)
    return {name: _default(name, value or "") for name, value in raw.items()}


def update(root: Path, change: Mapping[str, str]) -> None:
    """Give variables of ``.env`` other values, in place; comments and all other lines stay.

    The file is replaced at once: a reader sees the old one or the new one.
    """
    path = root / ".env"
    before = written(root)
    lines = path.read_text().splitlines(keepends=True)
    for name, value in change.items():
        if before.get(name) == value:
            continue
        own = re.compile(rf"\s*(export\s+)?{re.escape(name)}\s*=")
        at = [i for i, line in enumerate(lines) if own.match(line)]
        if at:
            lines[at[-1]] = _line(name, value)
        else:
            if lines and not lines[-1].endswith("\n"):
                lines[-1] += "\n"
            lines.append(_line(name, value))
    text = "".join(lines)
    if text != path.read_text():
        _replace(path, text)


def _line(name: str, value: str) -> str:
    if "}" in value or "\\" in value or '"' in value:
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"{name}='{quoted}'\n"
    return f'{name}="${{{name}:-{value}}}"\n'


def _default(name: str, value: str) -> str:
    asked = re.fullmatch(rf"\$\{{{re.escape(name)}:-([^}}]*)\}}", value)
    return asked[1] if asked else value


def _moved(there: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the paths that lie in the folder where ``.env`` was made, if that was another one."""
    suffix = f"/{_STATE}/dagster"
    home = there.get("DAGSTER_HOME", "")
    old = home.removesuffix(suffix)
    if old == home or old == str(root):
        return {}
    return {
        name: str(root) + value.removeprefix(old)
        for name, value in there.items()
        if name in ("DAGSTER_HOME", "RBA_STORE", "RBA_SOURCE") and value.startswith(old + "/")
    }


def _create(path: Path, text: str) -> None:
    """Write a file that is not there; one that another process makes meanwhile is left as it is."""
    aside = _aside(path, text)
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()


def _replace(path: Path, text: str) -> None:
    _aside(path, text).replace(path)


def _aside(path: Path, text: str) -> Path:
    aside = path.with_name(f".env.{secrets.token_hex(4)}.tmp")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return aside
