"""Pure: the tokens of a batch one behind the other, and the place of each in a table of its texts.

All of a model but attention looks at one token at a time, so a pass over texts of any lengths needs
no padding there. For attention and for pooling they stand in the table, one row per text.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_service.backend.base import TokenIds

# A runtime makes code for each size and keeps it; for a small model that takes as long as half of a
# pass over four short texts. So sizes are rounded up: to 16 per octave, and no further than to the
# next multiple of 32. 1 to 2 % is computed in vain, and far more passes find their code made.
_SIZES_PER_OCTAVE = 16
LARGEST_STEP = 32


def rounded(tokens: int) -> int:
    """Return the least size of a pass that holds ``tokens`` ≥ 1: at most 1/16, or 31, more."""
    octave = 1 << tokens.bit_length() - 1
    step = min(max(1, octave // _SIZES_PER_OCTAVE), LARGEST_STEP)
    return -(-tokens // step) * step


def packed(
    batch: Sequence[TokenIds], pad_id: int, *, round_up: bool = True
) -> dict[str, NDArray[np.int64]]:
    """Return the arrays of one pass over ``batch``: n ≥ 1 texts of at least one token each.

    Args:
        batch: Ids without padding.
        pad_id: The id of what fills a pass up to its size.
        round_up: Without it there is no filling, and the table is as wide as the longest text.

    Returns:
        int64 arrays, for ``tokens`` and ``longest`` as rounded up:

        - ``input_ids`` and ``positions``, shape ``(tokens,)``: text after text, then filling;
        - ``cells``, shape ``(tokens,)``: where each token is in the table, row by row; the filling
          is nowhere and points at the first cell;
        - ``table``, shape ``(n, longest)``: which token is in each cell; the first one in a cell
          behind the end of its text;
        - ``mask``, shape ``(n, longest)``: 1 where there is text, 0 behind its end.
    """
    lengths = np.array([len(ids) for ids in batch])
    tokens, longest = int(lengths.sum()), int(lengths.max())
    size, width = (rounded(tokens), rounded(longest)) if round_up else (tokens, longest)
    starts = np.cumsum(lengths) - lengths
    input_ids = np.full(size, pad_id, dtype=np.int64)
    input_ids[:tokens] = np.concatenate(batch)
    positions, cells = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    positions[:tokens] = np.arange(tokens) - np.repeat(starts, lengths)
    cells[:tokens] = np.repeat(np.arange(len(batch)) * width, lengths) + positions[:tokens]
    table = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros_like(table)
    table.flat[cells[:tokens]] = np.arange(tokens)
    mask.flat[cells[:tokens]] = 1
    return {
        "input_ids": input_ids,
        "positions": positions,
        "cells": cells,
        "table": table,
        "mask": mask,
    }
