"""Pure: shorter vectors of a model that was trained for it (Matryoshka representation learning)."""

import numpy as np

from embedding_service.backend.base import Backend, Vectors
from embedding_service.errors import BadRequest


def check_dimensions(backend: Backend, wanted: int | None) -> int:
    """Return the length of vectors to answer with.

    Raises:
        BadRequest: The model's vectors mean nothing at that length.
    """
    own = backend.space.dimensions
    shorter = backend.matryoshka.dimensions if backend.matryoshka else ()
    if wanted is None or wanted == own:
        return own
    if wanted not in shorter:
        allowed = ", ".join(str(n) for n in sorted({*shorter, own}))
        why = "" if shorter else "; its config.json names no matryoshka_dimensions"
        raise BadRequest(f"dimensions: {backend.space.model} gives {allowed}, got {wanted}{why}")
    return wanted


def cut(vectors: Vectors, dimensions: int, *, layer_norm_first: bool) -> Vectors:
    """Return the first ``dimensions`` components of each row, as unit vectors again.

    Layer normalisation before the cut follows the model card of nomic-embed-text-v1.5. Of
    ``(x - mean) / deviation`` only the numerator is computed: the division is by the same number
    for a whole row, and the unit length that follows takes any such factor away.

    Args:
        vectors: float32, shape ``(n, d)``, d ≥ ``dimensions``.
        dimensions: At least 1.
        layer_norm_first: Whether the model was trained with layer normalisation before the cut.

    Returns:
        float32, shape ``(n, dimensions)``; ``vectors`` itself where nothing is cut.
    """
    if dimensions == vectors.shape[1]:
        return vectors
    if layer_norm_first:
        vectors = vectors - vectors.mean(axis=1, keepdims=True)
    shorter = vectors[:, :dimensions]
    unit: Vectors = shorter / np.linalg.norm(shorter, axis=1, keepdims=True)
    return unit.astype(np.float32, copy=False)
