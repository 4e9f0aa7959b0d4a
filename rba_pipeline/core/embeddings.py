"""Texts on their way to vectors: batches, the wire format, and what an answer has to promise."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.errors import ContractBroken

Item = TypeVar("Item")

# Unit length as the service promises it, with room for float32 and half-precision rounding.
NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Space:
    """What a vector has to share with another to be comparable, as the service describes it.

    Attributes:
        id: 32 hex over all of ``details``.
        details: Every ingredient: weights, tokenizer, prompts, pooling, precision, and so on.
    """

    id: str
    model: str
    dimensions: int
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Text:
    """One distinct text to embed: SHA-256 of its UTF-8 bytes in hex, and its length in tokens."""

    text_hash: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A text that the service can never embed, and its reason code."""

    text_hash: str
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one distinct text.

    Attributes:
        outcome: ``embedded`` now, ``reused`` from an earlier run, or ``quarantined``.
        reason: A code, only for a quarantined text.
        attempts: How often the text was sent in vain, over all runs.
    """

    text_hash: str
    outcome: str
    reason: str | None
    attempts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Part:
    """Vectors kept together in one file: ``n`` hashes and float32 vectors of shape ``(n,
    dimensions)``.
    """

    text_hashes: tuple[str, ...]
    vectors: NDArray[np.float32]
    rejections: tuple[Rejection, ...] = ()

    def __post_init__(self) -> None:
        if len(self.text_hashes) != len(self.vectors):
            raise ValueError(f"{len(self.text_hashes)} hashes for {len(self.vectors)} vectors")


def outcomes_of(
    tokens_by_hash: Mapping[str, int],
    *,
    embedded: Set[str],
    reused: Set[str],
    rejections: Iterable[Rejection],
    earlier_attempts: Mapping[str, int],
) -> tuple[Outcome, ...]:
    """Return one outcome for every text of ``tokens_by_hash``, in its order.

    Raises:
        RuntimeError: A text was neither embedded, nor reused, nor rejected.
    """
    rejected = {rejection.text_hash: rejection for rejection in rejections}

    def outcome_of(text_hash: str, tokens: int) -> Outcome:
        if text_hash in rejected:
            attempts = rejected[text_hash].attempts + earlier_attempts.get(text_hash, 0)
            reason = rejected[text_hash].reason
            return Outcome(text_hash, "quarantined", reason, attempts, tokens)
        if text_hash not in embedded and text_hash not in reused:
            raise RuntimeError(f"text {text_hash} has no outcome: this is a bug in EmbeddingStream")
        return Outcome(text_hash, "reused" if text_hash in reused else "embedded", None, 0, tokens)

    return tuple(outcome_of(name, tokens) for name, tokens in tokens_by_hash.items())


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in order, ``size`` at a time; the last list may be shorter, none is empty."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def by_similar_length(texts: Iterable[Text], look_ahead: int) -> Iterator[Text]:
    """Yield all texts, the longest first within every ``look_ahead`` of them.

    Texts of similar length meet in one request, so that the service pads little; only
    ``look_ahead`` texts are in memory at once.
    """
    for block in batched(texts, look_ahead):
        yield from sorted(block, key=lambda text: (-text.tokens, text.text_hash))


def decode_vectors(data: Sequence[object], *, count: int, dimensions: int) -> NDArray[np.float32]:
    """Return the vectors of an answer in the order of its request.

    Args:
        data: Each with ``index`` and base64 ``embedding`` (little-endian float32).
        count: How many texts were sent.
        dimensions: The length that each vector has in this embedding space.

    Returns:
        float32, shape ``(count, dimensions)``, every row finite and of unit length.

    Raises:
        ContractBroken: Another number of items, an index missing or twice, a vector that is not
            base64 of ``dimensions`` finite numbers, or not of unit length.
    """
    if len(data) != count:
        raise ContractBroken(f"{count} texts were sent, {len(data)} vectors came back")
    vectors = np.empty((count, dimensions), dtype=np.float32)
    missing = set(range(count))
    for item in data:
        if not isinstance(item, dict):
            raise ContractBroken(f"an item is not an object but {type(item).__name__}")
        index = item.get("index")
        # True is an int to Python, and equal to 1.
        if type(index) is not int or index not in missing:
            raise ContractBroken(f"index {index!r} is out of range 0 to {count - 1} or came twice")
        missing.remove(index)
        vectors[index] = _decoded(item.get("embedding"), index, dimensions)
    _check_rows(vectors)
    return vectors


def _decoded(encoded: object, index: int, dimensions: int) -> NDArray[np.float32]:
    if not isinstance(encoded, str):
        raise ContractBroken(f"vector {index} is not base64 text but {type(encoded).__name__}")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise ContractBroken(f"vector {index} is not base64: {error}") from error
    if len(raw) != 4 * dimensions:
        raise ContractBroken(f"vector {index}: expected {dimensions} float32, got {len(raw)} bytes")
    return np.frombuffer(raw, dtype="<f4")


def _check_rows(vectors: NDArray[np.float32]) -> None:
    for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
        raise ContractBroken(f"vector {index} holds NaN or infinity")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for index in np.flatnonzero(np.abs(norms - 1.0) > NORM_TOLERANCE):
        raise ContractBroken(f"vector {index} has length {norms[index]:.6f}, expected 1")
