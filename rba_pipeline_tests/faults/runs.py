"""Runs of the partition, here and in processes of their own."""

import os
import subprocess
import sys
from typing import Any

from rba_pipeline.materialise import PartitionResult
from rba_pipeline_tests.faults.conftest import PARTITION
from rba_pipeline_tests.installation import Installation


def run(project: Installation) -> list[PartitionResult]:
    """Run the partition in this process."""
    return project.run(PARTITION)


def figure(results: list[PartitionResult], name: str) -> Any:
    """Return a figure of the metadata of ``embeddings``."""
    return results[0].metadata["embeddings"][name]


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
