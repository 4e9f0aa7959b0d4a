"""The proof, before any caller is let in, that a text's vector does not depend on its batch."""

import numpy as np

from embedding_service.backend.base import Backend, TokenIds, Vectors

MAX_DELTA = 1e-5
"""Largest difference of any component, in fp32."""

_GOLDEN = (
    "Interest rates were left unchanged.",
    "Inflation",
    "Members noted that household spending had grown more slowly than expected over the year, "
    "while business investment outside mining had picked up and the labour market had remained "
    "tight; wages growth was still consistent with inflation returning to target.",
    "The exchange rate, at 67.2 US cents, had moved little since the previous meeting (see graph).",
    "Ölpreis & naïve expectations: 4¼ per cent — 通貨.",
)


def check_invariance(backend: Backend) -> int:
    """Encode golden texts alone and together; return how many tokens that took.

    Only the owner thread calls this. It warms the model up as well.

    Raises:
        RuntimeError: A vector is not finite, not of length 1, or depends on its neighbours.
    """
    ids = [backend.shorten(found) for found in backend.tokenise(_GOLDEN, "document")]
    longest = _longest(backend)
    alone = np.concatenate([backend.encode([text]) for text in ids])
    together = backend.encode([longest, *reversed(ids)])[1:][::-1]
    after = np.concatenate([backend.encode([text]) for text in ids])
    for name, vectors in (("alone", alone), ("in a batch", together), ("afterwards", after)):
        _check_unit(vectors, name)
        delta = float(np.abs(vectors - alone).max())
        if not delta <= MAX_DELTA:
            raise RuntimeError(
                f"self-test: vectors {name} differ by {delta:.2e} from those alone, "
                f"at most {MAX_DELTA:.0e} is allowed"
            )
    golden = sum(len(text) for text in ids)
    return 2 * golden + (len(ids) + 1) * len(longest)


def _longest(backend: Backend) -> TokenIds:
    # Long enough to pad all others, short enough not to hold up the start of a large model.
    wanted = min(backend.max_tokens, 256)
    (ids,) = backend.tokenise([" ".join(_GOLDEN) * 4], "document")
    return ids if len(ids) <= wanted else ids[:wanted]


def _check_unit(vectors: Vectors, name: str) -> None:
    if not np.isfinite(vectors).all():
        raise RuntimeError(f"self-test: a vector {name} is not finite")
    norms = np.linalg.norm(vectors, axis=1)
    if not np.allclose(norms, 1, atol=1e-4):
        raise RuntimeError(f"self-test: vectors {name} have lengths {norms.tolist()}, expected 1")
