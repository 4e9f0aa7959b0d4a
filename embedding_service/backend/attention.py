"""A transformer over texts that lie one behind the other: each of them attends to itself only."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from embedding_service.backend.packing import LARGEST_WIDTH_STEP

_NAME = "text_by_text"
# Flash attention takes texts as they lie, one behind the other. It computes in these only, and its
# kernels need a card of NVIDIA's Ampere generation or later.
_FLASH_DTYPES = (torch.bfloat16, torch.float16)
_FLASH_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a pass are; see ``packing.packed`` for what the tensors hold."""

    cells: Tensor
    table: Tensor
    mask: Tensor
    bounds: Tensor | None = None
    """Where each text begins among the tokens, then where the filling begins and ends: int32, shape
    ``(n + 2,)``; only where attention needs no table, see ``is_flat``."""

    @classmethod
    def flat(cls, cells: Tensor, table: Tensor, mask: Tensor) -> "Layout":
        """Return a layout with ``bounds``."""
        ends = mask.sum(dim=1).cumsum(0)
        first, last = ends.new_zeros(1), ends.new_full((1,), len(cells))
        return cls(cells, table, mask, torch.cat((first, ends, last)).int())

    def rows(self, x: Tensor) -> Tensor:
        """Return ``x``, shape ``(tokens, width)``, as a table: ``(n, longest, width)``."""
        texts, longest = self.table.shape
        return x.index_select(0, self.table.reshape(-1)).view(texts, longest, -1)

    @property
    def seen(self) -> Tensor:
        """Which cells of its row a text attends to; boolean, shape ``(n, 1, 1, longest)``."""
        return self.mask.bool()[:, None, None, :]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None
    ) -> Tensor:
        """Return what each token takes from its own text: ``(1, tokens, heads, head_size)``.

        Args:
            query, key, value: Each of shape ``(1, heads, tokens, head_size)``.
            mask: ``seen``, or what is added to the products of queries and keys, -inf where there
                is nothing to see; to be broadcast to ``(n, heads, longest, longest)``.
            scale: Of those products; None for ``1 / sqrt(head_size)``.
        """
        query, key, value = self._by_head(query), self._by_head(key), self._by_head(value)
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale
        )
        heads, head_size = query.shape[1], query.shape[3]
        flat = mixed.transpose(1, 2).reshape(-1, heads * head_size)
        return flat.index_select(0, self.cells).view(1, -1, heads, head_size)

    def attend_flat(
        self, query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scale: float | None
    ) -> Tensor:
        """Return what ``attend`` does, without the table; ``bounds`` as in this layout."""
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        longest = max(self.table.shape[1], LARGEST_WIDTH_STEP)
        mixed = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scale)
        if not isinstance(mixed, Tensor):
            raise TypeError(f"expected one tensor of flash attention, got {type(mixed).__name__}")
        return mixed[None]

    def _by_head(self, x: Tensor) -> Tensor:
        heads, head_size = x.shape[1], x.shape[3]
        rows = self.rows(x.transpose(1, 2).reshape(-1, heads * head_size))
        return rows.view(*self.table.shape, heads, head_size).transpose(1, 2)


def is_flat(model: PreTrainedModel) -> bool:
    """Return whether ``model`` attends without a table, and so computes nothing for its padding."""
    return (
        model.device.type == "cuda"
        and model.dtype in _FLASH_DTYPES
        # Its attention adds something to the products, and flash attention takes no such thing.
        and model.config.model_type != "mpnet"
        and torch.cuda.get_device_capability(model.device) >= _FLASH_CAPABILITY
    )


def prepare(model: PreTrainedModel) -> None:
    """Have ``model`` attend text by text; to be done once, before ``hidden_states``."""
    # cuDNN prepares anew for each number and length of texts, and hardly two passes share them.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # MPNet's layers know no other attention than their own.
    if model.config.model_type != "mpnet":
        AttentionInterface.register(_NAME, _attend)
        model.set_attn_implementation(_NAME)


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, positions: Tensor, layout: Layout
) -> Tensor:
    """Return the last layer's output, shape ``(tokens, width)``.

    Args:
        model: As prepared.
        input_ids: int64, shape ``(tokens,)``.
        positions: int64, shape ``(tokens,)``, counted as the model counts them.
        layout: Of the same tokens.
    """
    if model.config.model_type == "mpnet":
        return _mpnet(model, input_ids[None], positions[None], layout)[0]
    found = model(input_ids=input_ids[None], position_ids=positions[None], layout=layout)
    hidden: Tensor = found.last_hidden_state[0]
    return hidden


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it in place of its own; ``layout`` comes from ``hidden_states``."""
    if layout.bounds is not None:
        return layout.attend_flat(query, key, value, layout.bounds, scaling), None
    return layout.attend(query, key, value, layout.seen, scaling), None


def _mpnet(model: Any, input_ids: Tensor, position_ids: Tensor, layout: Layout) -> Tensor:
    hidden: Tensor = model.embeddings(input_ids=input_ids, position_ids=position_ids)
    # Of how far apart two tokens of a row are: it looks at the shape of what it is given, no more.
    bias = model.encoder.compute_position_bias(layout.table[:1])
    mask = bias.masked_fill(~layout.seen, -torch.inf)
    for layer in model.encoder.layer:
        own, norm = layer.attention.attn, layer.attention.LayerNorm
        shape = (1, -1, own.num_attention_heads, own.attention_head_size)
        query, key, value = (f(hidden).view(shape).transpose(1, 2) for f in (own.q, own.k, own.v))
        mixed = layout.attend(query, key, value, mask, None)
        hidden = norm(own.o(mixed.flatten(2)) + hidden)
        hidden = layer.output(layer.intermediate(hidden), hidden)
    return hidden
