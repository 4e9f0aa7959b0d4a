"""The same model compiled by OpenVINO for this CPU, from a folder that was prepared before."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from pydantic import TypeAdapter

from embedding_service.backend import matrices
from embedding_service.backend.allocation import memory_is_told_apart
from embedding_service.backend.base import Precision, TokenIds, Vectors
from embedding_service.backend.description import Description
from embedding_service.backend.models import ModelFolder
from embedding_service.backend.text_model import TextModel, Weights

_GRAPH, _WEIGHTS, _TOKENIZER, _ABOUT = "model.xml", "model.bin", "tokenizer.json", "prepared.json"
_FILES = (_GRAPH, _WEIGHTS, _TOKENIZER)


def capabilities() -> frozenset[str]:
    """Return what this CPU has instructions for, in OpenVINO's words."""
    return frozenset(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What lies in the folder of a prepared model, beside graph, weights and tokenizer."""

    description: Description
    precision: Precision
    like_fp32: bool
    least_cosine: float
    weights_sha256: str
    """As it goes into the embedding space."""
    files_sha256: dict[str, str]
    """Of graph, weights and tokenizer as they lie here, to see that they are whole."""

    def write(self, folder: Path) -> None:
        """Complete ``folder``: this file comes last."""
        (folder / _ABOUT).write_bytes(_PREPARED.dump_json(self, indent=1))


_PREPARED = TypeAdapter(Prepared)


def keep_tokenizer(folder: Path, tokenizer_json: bytes) -> None:
    """Write the tokenizer to where it is looked for."""
    (folder / _TOKENIZER).write_bytes(tokenizer_json)


def files_sha256(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a prepared model, by name.

    Raises:
        OSError: One cannot be read.
    """
    found = {}
    for name in _FILES:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read_prepared(folder: Path) -> Prepared | None:
    """Return what was prepared in ``folder``; None if that is nothing, or damaged."""
    try:
        prepared = _PREPARED.validate_json((folder / _ABOUT).read_bytes())
        whole = files_sha256(folder) == prepared.files_sha256
    except (OSError, ValueError):
        return None
    return prepared if whole else None


class Compiled:
    """A graph with one stream of ``threads`` threads: one pass at a time has all the cores."""

    def __init__(self, graph: Path, precision: Precision, threads: int) -> None:
        # Anew at each start, in 0.8 s for bf16 and 1.4 s for int8 (nomic-shaped, two cores): from a
        # CACHE_DIR of its own it takes 0.5 and 0.4 s, and 200 to 260 MiB more of the disk.
        self._compile = partial(compiled, graph, properties(precision, threads))
        self._request = self._compile().create_infer_request()

    def run(self, given: Mapping[str, NDArray[Any]]) -> Vectors:
        """Return float32 of shape ``(n, dimensions)``; ``given`` as ``TextModel.passed`` has it.

        Not thread-safe.

        Raises:
            MemoryError: There is not enough for so much at once.
        """
        with memory_is_told_apart("cpu"):
            if self._request is None:
                self._request = self._compile().create_infer_request()
            try:
                result = self._request.infer(dict(given), share_inputs=True, share_outputs=True)
            except RuntimeError:
                # Half of its layers have the sizes of the pass that failed, and hold memory for
                # them: it was seen to refuse the next pass for sizes that did not match.
                self._request = None
                raise
        # A copy: the next pass writes its result to the same place.
        vectors: Vectors = np.array(result[0], dtype=np.float32)
        return vectors


def compiled(graph: Path, chosen: Mapping[str, Any]) -> openvino.CompiledModel:
    """Return ``graph``, of a prepared model, as it is served; ``chosen`` is what ``properties``
    returns, or a variant of it."""
    core = openvino.Core()
    model = core.read_model(graph)
    matrices.add_as_computed(model)
    return core.compile_model(model, "CPU", dict(chosen))


def properties(precision: Precision, threads: int) -> dict[str, Any]:
    """Return how OpenVINO compiles a model that is served in ``precision`` on this CPU."""
    # What int8 leaves unquantised is computed in bf16 where there are instructions for it.
    half = "bf16" if "BF16" in capabilities() else "f32"
    hints = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": half}
    return {
        "INFERENCE_PRECISION_HINT": hints[precision],
        # Two streams of one thread each gave 2 to 6 % more in a loop (bf16 and int8, both models,
        # two cores) and nothing over HTTP (MiniLM at 16 x 4); a query alone took half as long
        # again of the larger model.
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Code is made for each shape and kept. Of 5,000 pieces, as it would be, 2,000 passes of
        # as many shapes held 1,000 MiB, of 256 they hold 150. Of twice as many sizes as
        # packing.pass_size has, 1,024 pieces were no faster than 256 (MiniLM, bf16 and int8).
        "CPU_RUNTIME_CACHE_CAPACITY": "256",
    }


class OpenVinoBackend(TextModel):
    """Runs a prepared model; torch is not needed, and not loaded."""

    device = "cpu"
    runtime = "openvino"

    def __init__(
        self,
        folder: ModelFolder,
        prepared_in: Path,
        prepared: Prepared,
        *,
        threads: int,
        max_tokens: int | None,
    ) -> None:
        """``max_tokens`` None means: what the model's folder asks for.

        Raises:
            ModelRefused: The model does not take texts of ``max_tokens``.
        """
        super().__init__(
            prepared.description,
            Weights(
                model=folder.name,
                revision=folder.revision,
                sha256=prepared.weights_sha256,
                configuration_sha256=folder.configuration_sha256,
                precision=prepared.precision,
                like_fp32=prepared.like_fp32,
            ),
            tokenizer_json=(prepared_in / _TOKENIZER).read_bytes(),
            max_tokens=max_tokens,
        )
        self.cores = threads
        self._compiled = Compiled(prepared_in / _GRAPH, prepared.precision, threads)

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        return self._compiled.run(self.passed(batch))

    def begin(self, batch: Sequence[TokenIds]) -> Callable[[], Vectors]:
        return partial(self.encode, batch)
