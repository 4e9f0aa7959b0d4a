"""Pure: the tokens of a batch one behind the other, and the place of each in a table of its texts.

All of a model but attention looks at one token at a time, so a pass over texts of any lengths needs
no padding there. For attention and for pooling they stand in the table, one row per text.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_service.backend.base import TokenIds

Counts = NDArray[np.int64]

# A runtime makes code for each number of tokens and keeps it. On two cores with AMX that took 7 to
# 10 ms in bf16 and 40 ms in int8 of MiniLM, as long as a pass over 16 short texts; that the table
# is new took 1 ms. So sizes are few: up to 2,048 tokens at most 80. Whoever forms a batch knows
# them, and fills most of them.
_SIZES_PER_OCTAVE, _LARGEST_STEP = 8, 64
# Attention of texts 92 wide took 1.9 times as long in bf16 as of texts 96 wide, and 1.4 times in
# fp32 (MiniLM, two cores with AMX): what does not fill a register goes number by number.
_WIDTHS_PER_OCTAVE, _LEAST_WIDTH_STEP, LARGEST_WIDTH_STEP = 16, 16, 32


def pass_size(tokens: Counts | int) -> Counts:
    """Return the least size of a pass that holds ``tokens`` ≥ 1: at most 1/8, or 63, more."""
    return _least(tokens, _SIZES_PER_OCTAVE, (1, _LARGEST_STEP))


def table_width(longest: int) -> int:
    """Return the width of a table whose longest text has ``longest`` ≥ 1 tokens: a whole multiple
    of 16, at most 1/16, or 15, more."""
    return int(_least(longest, _WIDTHS_PER_OCTAVE, (_LEAST_WIDTH_STEP, LARGEST_WIDTH_STEP)))


def _least(counts: Counts | int, per_octave: int, steps: tuple[int, int]) -> Counts:
    counts = np.asarray(counts, dtype=np.int64)
    octave = 1 << (np.frexp(counts)[1].astype(np.int64) - 1)
    step = np.clip(octave // per_octave, *steps)
    sizes: Counts = -(-counts // step) * step
    return sizes


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
    size, width = tokens, longest
    if round_up:
        size, width = int(pass_size(tokens)), table_width(longest)
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
