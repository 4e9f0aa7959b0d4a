"""The proof, before any caller is let in, that a text's vector does not depend on its batch."""

from collections.abc import Callable, Sequence

import numpy as np

from embedding_service.backend.base import Backend, TokenIds, Vectors
from embedding_service.engine.deviation import bound, deviation

_GOLDEN = (
    "Inflation",
    "The exchange rate, at 67.2 US cents, had moved little since the previous meeting (see graph).",
    "Ölpreis & naïve expectations: 4¼ per cent — 通貨.",
)
_NEIGHBOUR = (
    "Members noted that household spending had grown more slowly than expected over the year, "
    "while business investment outside mining had picked up and the labour market had remained "
    "tight; wages growth was still consistent with inflation returning to target. "
)
# Long enough to pad the others, short enough that a large model is ready within seconds.
_NEIGHBOUR_TOKENS = 96

Encode = Callable[[Sequence[TokenIds]], Vectors]


def check_invariance(backend: Backend, encode: Encode | None = None) -> int:
    """Encode golden texts alone, together and alone again; return how many tokens that took.

    Only the owner thread calls this. It warms the model up as well. Texts beyond
    ``native_tokens`` are left to the operator's check: one of them takes seconds.

    Args:
        backend: What is served.
        encode: Called in place of ``backend.encode``.

    Raises:
        RuntimeError: A vector is not finite, not of length 1, or depends on its neighbours.
    """
    encode = encode or backend.encode
    ids = [backend.shorten(found) for found in backend.tokenise(_GOLDEN, "document")]
    neighbour = _neighbour(backend)
    alone = np.concatenate([encode([text]) for text in ids])
    _check(alone, "alone", alone, backend)
    together = encode([neighbour, *reversed(ids)])[1:][::-1]
    _check(together, "in a batch", alone, backend)
    # One is enough to see what the passes before have left behind.
    after = encode(ids[-1:])
    _check(after, "afterwards", alone[-1:], backend)
    return 2 * sum(map(len, ids)) + len(neighbour) + len(ids[-1])


def _neighbour(backend: Backend) -> TokenIds:
    (ids,) = backend.tokenise([_NEIGHBOUR * 4], "document")
    return ids[: min(backend.native_tokens, _NEIGHBOUR_TOKENS)]


def _check(vectors: Vectors, name: str, alone: Vectors, backend: Backend) -> None:
    if not np.isfinite(vectors).all():
        raise RuntimeError(f"self-test: a vector {name} is not finite")
    norms = np.linalg.norm(vectors, axis=1)
    if not np.allclose(norms, 1, atol=1e-4):
        raise RuntimeError(f"self-test: vectors {name} have lengths {norms.tolist()}, expected 1")
    found = deviation(vectors, alone)
    if not found.allowed(backend.precision):
        raise RuntimeError(
            f"self-test: vectors {name} differ by {found.delta:.2e} from those alone, "
            f"cosine {found.cosine:.6f}; allowed in {backend.precision}: {bound(backend.precision)}"
        )
