"""Runs of the partition in processes of their own."""

import os
import subprocess
import sys

from rba_pipeline_tests.faults.conftest import PARTITION
from rba_pipeline_tests.installation import Installation


def start(project: Installation, *gate: str) -> "subprocess.Popen[str]":
    """Start a run; ``gate`` is an operation on a file at which it kills itself."""
    return subprocess.Popen(
        [sys.executable, "-m", "rba_pipeline_tests.faults.killed_run", PARTITION, *gate],
        cwd=project.folder,
        env={**os.environ, **project.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
