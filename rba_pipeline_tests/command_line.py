"""The command ``rba-pipeline``, in this process or another, away from the project's state."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rba_pipeline.cli import main
from rba_pipeline_tests.installation import ROOT
from rba_pipeline_tests.oracle_service import KEY
from rba_pipeline_tests.resources.sample_records import CORPUS

COMMAND_S = 60
# The command puts these into the environment of its process, from the file .env that it makes.
_FROM_FILE = (
    "DAGSTER_DISABLE_TELEMETRY", "DAGSTER_HOME", "HF_HUB_OFFLINE", "RBA_SOURCE", "RBA_STORE",
    "RBA_WEBSERVER_PORT",
)  # fmt: skip


def point_at(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, database_url: str, service_url: str
) -> None:
    """Have the environment name a database, a service, and ``folder`` for all state.

    The host is ``localhost``: the command takes both as the user's own and starts nothing.
    """
    for name in _FROM_FILE:
        # Set first, so that what the command puts there is gone after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    database = database_url.replace("127.0.0.1", "localhost")
    values = {
        "DAGSTER_POSTGRES_URL": database,
        "EMBEDDING_API_KEY": KEY,
        "EMBEDDING_API_URL": service_url.replace("127.0.0.1", "localhost"),
        "RBA_CORPUS": CORPUS,
        "RBA_DATABASE_URL": database,
        "RBA_PROJECT": str(folder),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def called(*arguments: str) -> Result:
    """Call the command in this process."""
    return CliRunner().invoke(main, list(arguments), prog_name="rba-pipeline")


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command as ``run`` does, and do not wait; both outputs come from its pipe."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "rba_pipeline.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own, in ``folder``, as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "rba_pipeline.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
