"""What is to be prepared for OpenVINO, from one process to another."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedding_service.backend.base import Precision
from embedding_service.backend.models import ModelFolder


@dataclass(frozen=True, slots=True)
class Order:
    """A checked folder, and what to make of it."""

    folder: ModelFolder
    precision: Precision
    threads: int
    calibration: Path | None
    """Texts, one per line; None stands for the built-in sample."""

    def arguments(self, out: Path) -> list[str]:
        """Return what ``read_order`` reads, as arguments of a command."""
        said = {**dataclasses.asdict(self.folder), "out": out, "precision": self.precision}
        said |= {"threads": self.threads, "calibration": self.calibration or ""}
        return [f"--{name}={value}" for name, value in said.items()]


def read_order(arguments: Sequence[str]) -> tuple[Order, Path]:
    """Return what was ordered, and the empty folder to write it to."""
    parser = argparse.ArgumentParser()
    for name in ("path", "name", "revision", "weights_sha256", "out", "precision", "calibration"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--threads", type=int, required=True)
    said = parser.parse_args(arguments)
    folder = ModelFolder(Path(said.path), said.name, said.revision, said.weights_sha256)
    calibration = Path(said.calibration) if said.calibration else None
    return Order(folder, said.precision, said.threads, calibration), Path(said.out)
