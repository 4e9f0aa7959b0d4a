"""Whether one way of computing a model gives the vectors of another, on real sentences."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedding_service.backend.base import TokenIds, Vectors
from embedding_service.backend.text_model import TextModel
from embedding_service.errors import SettingRefused

LIKE_FP32 = 0.9995
"""Least cosine to fp32 of any text at which another precision may share the space of fp32."""

_SAMPLE = Path(__file__).with_name("calibration_sample.txt")
_COMPARED_TEXTS = 24
_LONG_TEXT_TOKENS = 1024
_BEYOND_NATIVE_TOKENS = 64
_FEWEST_TEXTS = 10


def read_texts(path: Path | None) -> list[str]:
    """Return the lines of ``path`` that are not blank; None stands for the built-in sample.

    Raises:
        SettingRefused: It cannot be read, or has fewer than ten texts.
    """
    source = path or _SAMPLE
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingRefused(f"EMBEDDING_CALIBRATION={source}: cannot be read: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if len(texts) < _FEWEST_TEXTS:
        raise SettingRefused(
            f"EMBEDDING_CALIBRATION={source}: expected at least {_FEWEST_TEXTS} texts, one per "
            f"line, got {len(texts)}"
        )
    return texts


def sample_ids(model: TextModel, texts: Sequence[str] = ()) -> list[TokenIds]:
    """Return some two dozen of ``texts``, or of the built-in sample, and a long text of them.

    A model that takes texts beyond ``native_tokens`` gets one of those too: their path is another.
    """
    given = texts or read_texts(None)
    chosen = [given[i * len(given) // _COMPARED_TEXTS] for i in range(_COMPARED_TEXTS)]
    *ids, joined = model.tokenise([*chosen, " ".join(given)], "document")
    ids.append(joined[:_LONG_TEXT_TOKENS])
    if model.max_tokens > model.native_tokens:
        ids.append(np.resize(joined, model.native_tokens + _BEYOND_NATIVE_TOKENS))
    return [model.shorten(text) for text in ids]


def least_cosine(one: Vectors, other: Vectors) -> float:
    """Return the smallest cosine of rows of the same place; both float32, shape ``(n, d)``.

    NaN, which no bound lets through, if a vector is not finite.
    """
    products = np.einsum("nd,nd->n", one.astype(np.float64), other.astype(np.float64))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((products / norms).min())
