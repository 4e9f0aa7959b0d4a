"""The two sides of a comparison, the model that both serve, and the texts that both are sent."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.nomic_shaped_model import make_model
from benchmarks.reports import progress
from benchmarks.roofline import Shape
from benchmarks.server_processes import Command
from benchmarks.texts import CHUNKS, SHORT_TEXTS, Lengths, make_texts, whole_words

REFERENCE = "reference"
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
SIDES = (REFERENCE, *PRECISIONS)
CACHE = Path(".state/benchmarks")


@dataclass(frozen=True, slots=True)
class Model:
    """A model on the local disk, and the texts that it is measured on."""

    name: str
    served_as: str
    """What ``EMBEDDING_MODEL`` is set to."""
    folder: Path
    lengths: Lengths
    usual_texts: int
    warm_up_texts: int
    """How many a fresh server embeds before it is measured. All, where a load takes a second: else
    code that is made once per size of a pass would be a good part of what is measured."""
    kind: str
    """``nomic`` or ``minilm``: whose goals it is held to; empty for any other model."""

    def texts(self, n: int) -> list[str]:
        """Return ``n`` texts whose token counts are exact; the same for the same ``n``."""
        return make_texts(self.lengths.sample(n), whole_words(self.folder))


def find_model(name: str, cache: Path) -> Model:
    """Return the model ``nomic`` (made if absent), ``minilm`` or a folder; checked by the service.

    Raises:
        embedding_service.errors.ModelRefused: There is no such model, or it cannot be served.
    """
    from embedding_service.backend import models

    if name == "minilm":
        found = models.find_model(models.DEFAULT_MODEL, None)
        return Model(name, models.DEFAULT_MODEL, found.path, SHORT_TEXTS, 640, 640, name)
    folder = _nomic_shaped(cache) if name == "nomic" else Path(name)
    found = models.find_model(str(folder), None)
    kind = "nomic" if is_nomic_shaped(found.path) else ""
    return Model(name, str(found.path), found.path, CHUNKS, 64, 2, kind)


def is_nomic_shaped(folder: Path) -> bool:
    """Return whether ``config.json`` in ``folder`` says: 12 layers of nomic's kind, 768 wide."""
    shape = Shape.read(folder)
    return (shape.gated, shape.layers, shape.hidden) == (True, 12, 768)


def _nomic_shaped(cache: Path) -> Path:
    folder = cache / "nomic-shaped"
    if not folder.is_dir():
        progress(f"making the nomic-shaped model in {folder}")
        unfinished = cache / "nomic-shaped.unfinished"
        make_model(unfinished)
        unfinished.rename(folder)
    return folder


def command(side: str, model: Model, *, device: str, cache: Path) -> Command:
    """Return how ``side`` serves ``model``: the reference, or ours in a precision."""
    if side == REFERENCE:
        arguments = ("--model", str(model.folder), "--device", device)
        return Command("benchmarks.reference_server", arguments)
    return Command("embedding_service", environment=settings_of(side, model, device, cache))


def settings_of(precision: str, model: Model, device: str, cache: Path) -> dict[str, str]:
    """Return the environment of our service; everything that is not in it has its default."""
    return {
        "EMBEDDING_MODEL": model.served_as,
        "EMBEDDING_DEVICE": device,
        "EMBEDDING_PRECISION": precision,
        "EMBEDDING_CACHE_DIR": str((cache / "prepared").resolve()),
    }
