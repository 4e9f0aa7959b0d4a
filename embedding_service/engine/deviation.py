"""Pure: how far vectors are from those of the same texts alone, and how far they may be."""

from dataclasses import dataclass

import numpy as np

from embedding_service.backend.base import Precision, Vectors

MAX_DELTA = 1e-5
"""Of any component, in fp32."""
LEAST_COSINE = 0.9999
"""Of any text, in every other precision: there even the order of a sum shows in the components."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """The worst of some comparisons; NaN where a vector was not finite."""

    delta: float = 0.0
    cosine: float = 1.0

    def worst(self, other: "Deviation") -> "Deviation":
        """Return the greater delta and the lesser cosine of the two; NaN wins."""
        return Deviation(
            float(np.maximum(self.delta, other.delta)), float(np.minimum(self.cosine, other.cosine))
        )

    def allowed(self, precision: Precision) -> bool:
        """Return whether a model that computes in ``precision`` may deviate so far."""
        if precision == "fp32":
            return self.delta <= MAX_DELTA
        return self.cosine >= LEAST_COSINE


def deviation(found: Vectors, expected: Vectors) -> Deviation:
    """Compare row by row; both of shape ``(n, dimensions)``, n ≥ 1, no row zero."""
    exact, other = expected.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.einsum("nd,nd->n", exact, other) / norms
    return Deviation(float(np.abs(exact - other).max()), float(cosines.min()))


def bound(precision: Precision) -> str:
    """Return what ``allowed`` asks for, in words."""
    if precision == "fp32":
        return f"max |delta| at most {MAX_DELTA:.0e}"
    return f"cosine at least {LEAST_COSINE}"
