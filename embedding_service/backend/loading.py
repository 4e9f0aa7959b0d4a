"""From a checked folder to the modules of sentence-transformers, and what they say of the model."""

import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)
from tokenizers import Tokenizer
from torch import Tensor, nn

from embedding_service.backend import attention
from embedding_service.backend.agreement import least_cosine
from embedding_service.backend.base import Matryoshka, Prompts, Vectors
from embedding_service.backend.description import Description
from embedding_service.backend.models import ModelFolder
from embedding_service.backend.packing import packed
from embedding_service.backend.rotary import Rotary
from embedding_service.errors import ModelRefused

_logger = logging.getLogger(__name__)

_NOMIC = "nomic_bert"
# Nomic's model card: these prefixes are part of the model, it was trained to 2,048 tokens, and with
# a rotary scaling factor of 2 it takes 8,192.
_NOMIC_PROMPTS = {"document": "search_document: ", "query": "search_query: "}
_NOMIC_TRAINED_TOKENS, _NOMIC_LONGEST_TOKENS, _NOMIC_SCALING = 2048, 8192, 2.0
_NOMIC_DIMENSIONS = (64, 128, 256, 512, 768)
# Their first position is the one after the padding token's id: so many of the table are not used.
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet")
_KNOWN_STEPS = (Pooling, Dense, LayerNorm, Normalize, Dropout)
_PROBES = (
    "The cash rate target was left unchanged at 4.35 per cent.",
    "naïve  Ökonomie — 通貨",
    "a",
)
# Two texts show whether each attends to itself only; more would delay each start on torch.
_COMPARED = (_PROBES[0], _PROBES[2])
_LEAST_COSINE = 0.9999


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in fp32, and everything that serves it without sentence-transformers."""

    body: "Body"
    description: Description
    tokenizer_json: bytes


class Body(nn.Module):
    """From the packed tokens of some texts to their unit vectors; can be run or converted."""

    def __init__(
        self, model: SentenceTransformer, rotary: "GivenRotary | None", first_position: int
    ) -> None:
        super().__init__()
        first, *others = model
        transformer: Any = first.auto_model
        attention.prepare(transformer)
        self.transformer = transformer
        self.others = nn.ModuleList(others)
        self.first_position = first_position
        # A plain attribute: it is a part of the transformer already.
        self.given = [rotary] if rotary else []

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        cells: Tensor,
        table: Tensor,
        mask: Tensor,
        frequencies: Tensor | None = None,
    ) -> Tensor:
        """Return float32 of shape ``(n, dimensions)``.

        Args:
            input_ids, positions, cells, table, mask: As ``packing.packed`` returns them.
            frequencies: float32, shape ``(head_dimensions / 2,)``, for a model that has rotary
                positions only.
        """
        if frequencies is not None:
            self.given[0].frequencies[:] = [frequencies]
        flat = attention.is_flat(self.transformer)
        layout = (attention.Layout.flat if flat else attention.Layout)(cells, table, mask)
        hidden = attention.hidden_states(
            self.transformer, input_ids, positions + self.first_position, layout
        )
        features: dict[str, Any] = {
            "token_embeddings": layout.rows(hidden),
            "attention_mask": mask,
        }
        for step in self.others:
            features = step(features)
        return nn.functional.normalize(features["sentence_embedding"].float(), p=2, dim=-1)


class GivenRotary(nn.Module):
    """Rotary positions whose frequencies come with each pass, and so are part of the function."""

    def __init__(self, attention_scaling: float) -> None:
        super().__init__()
        self.attention_scaling = attention_scaling
        # A list, because a traced module must not be given other tensors than it was made with.
        self.frequencies: list[Tensor] = []

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.frequencies[0]
        both = torch.cat((angles, angles), dim=-1)
        cos, sin = both.cos() * self.attention_scaling, both.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def load(folder: ModelFolder, device: str) -> Loaded:
    """Load ``folder`` in fp32 on ``device``.

    Raises:
        ModelRefused: The folder holds no model that we can serve faithfully.
    """
    _log_as_we_do()
    model = _sentence_transformer(folder, device)
    _check_steps(model)
    config = folder.json("config.json")
    rotary = _rotary(model) if config["model_type"] == _NOMIC else None
    usual = _usual_tokens(model, config)
    description = Description(
        dimensions=int(model.get_embedding_dimension() or 0),
        pooling=_pooling(model),
        prompts=_prompts(model, config),
        matryoshka=_matryoshka(folder, config),
        pad_id=int(model.tokenizer.pad_token_id or 0),
        usual_tokens=usual,
        native_tokens=rotary.trained_tokens if rotary else usual,
        longest_tokens=rotary.longest_tokens if rotary else usual,
        rotary=rotary,
    )
    tokenizer_json = whole_tokenizer(folder)
    _check_tokenizer(folder, tokenizer_json, model)
    # Before its parts are taken, and changed.
    expected = model.encode(list(_COMPARED), prompt="", show_progress_bar=False)
    given = _given_rotary(model) if rotary else None
    body = Body(model, given, _first_position(model, config)).eval()
    loaded = Loaded(body, description, tokenizer_json)
    _check_vectors(loaded, device, expected)
    return loaded


def whole_tokenizer(folder: ModelFolder) -> bytes:
    """Return the tokenizer of ``folder`` without truncation and padding.

    From the file, not from a loaded object: the bytes, and so the space, then do not change with
    the version of the tokenizer's library.
    """
    found = folder.json("tokenizer.json") | {"truncation": None, "padding": None}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _log_as_we_do() -> None:
    """Take the library's own ways to standard error away, where every line has our log's form."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()


def _sentence_transformer(folder: ModelFolder, device: str) -> SentenceTransformer:
    try:
        model = SentenceTransformer(
            str(folder.path),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except Exception as error:
        raise ModelRefused(f"{folder.path}: cannot be loaded: {error}") from error
    return model.eval()


def _check_steps(model: SentenceTransformer) -> None:
    """Refuse what ``Body`` would not compute as sentence-transformers does."""
    first, *others = model
    taken = first.modality_config.get("text", {}) if isinstance(first, Transformer) else {}
    if taken.get("method_output_name") not in ("last_hidden_state", ["last_hidden_state"]):
        raise ModelRefused("the model's first module is no transformer that gives its last layer")
    for module in others:
        if not isinstance(module, _KNOWN_STEPS):
            known = ", ".join(step.__name__ for step in _KNOWN_STEPS)
            raise ModelRefused(
                f"the model has a module {type(module).__name__}; served are only {known}"
            )


def _pooling(model: SentenceTransformer) -> str:
    pooling = next((module for module in model if hasattr(module, "pooling_mode")), None)
    if pooling is None:
        raise ModelRefused("the model has no pooling module, so its vectors are not one per text")
    if not getattr(pooling, "include_prompt", True):
        # Its result would depend on a prompt's length, which is not the same all over a batch.
        raise ModelRefused("the model leaves its prompt out of pooling; that is not supported")
    mode: Any = pooling.pooling_mode
    return mode if isinstance(mode, str) else "+".join(mode)


def _prompts(model: SentenceTransformer, config: dict[str, Any]) -> Prompts:
    named = {name: text for name, text in model.prompts.items() if text}
    if not named and config["model_type"] == _NOMIC:
        named = _NOMIC_PROMPTS
    document = named.get("document") or named.get("passage") or ""
    return Prompts(document=document, query=named.get("query", ""))


def _matryoshka(folder: ModelFolder, config: dict[str, Any]) -> Matryoshka | None:
    nomic = config["model_type"] == _NOMIC
    listed = config.get("matryoshka_dimensions") or ()
    if nomic and not listed and folder.name.endswith("nomic-embed-text-v1.5"):
        listed = _NOMIC_DIMENSIONS
    return Matryoshka(tuple(listed), layer_norm_first=nomic) if listed else None


def _usual_tokens(model: SentenceTransformer, config: dict[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if positions:
        positions -= _first_position(model, config)
    known = [model.max_seq_length, positions]
    if config["model_type"] == _NOMIC:
        known.append(_NOMIC_TRAINED_TOKENS)
    return min((int(n) for n in known if n), default=512)


def _first_position(model: SentenceTransformer, config: dict[str, Any]) -> int:
    """Return what the model calls the position of a text's first token."""
    if config["model_type"] not in _POSITIONS_AFTER_PADDING:
        return 0
    inner: Any = model[0].auto_model
    return int(inner.embeddings.padding_idx) + 1


def _given_rotary(model: SentenceTransformer) -> GivenRotary:
    inner: Any = model[0].auto_model
    inner.rotary_emb = GivenRotary(inner.rotary_emb.attention_scaling)
    found: GivenRotary = inner.rotary_emb
    return found


def _rotary(model: SentenceTransformer) -> Rotary:
    inner: Any = model[0].auto_model
    # As transformers reads it: the file may be in the older layout of the model's authors.
    config = inner.config
    kind = config.rope_parameters["rope_type"]
    if kind != "default":
        raise ModelRefused(f"the model's rope_type is {kind!r}; served is only 'default'")
    return Rotary(
        base=float(config.rope_parameters["rope_theta"]),
        head_dimensions=int(config.head_dim),
        trained_tokens=_NOMIC_TRAINED_TOKENS,
        longest_tokens=_NOMIC_LONGEST_TOKENS,
        scaling_factor=_NOMIC_SCALING,
    )


def _check_tokenizer(folder: ModelFolder, ours: bytes, model: SentenceTransformer) -> None:
    tokenizer = Tokenizer.from_str(ours.decode())
    for text in _PROBES:
        if tokenizer.encode(text).ids != model.tokenizer(text)["input_ids"]:
            raise ModelRefused(
                f"{folder.path}: tokenizer.json gives other tokens than the tokenizer's own "
                "configuration; save the tokenizer again with transformers"
            )


def _check_vectors(loaded: Loaded, device: str, expected: Vectors) -> None:
    """Refuse a model whose configuration makes the library compute what ``Body`` does not."""
    tokenizer = Tokenizer.from_str(loaded.tokenizer_json.decode())
    ids = [np.array(tokenizer.encode(text).ids, dtype=np.int32) for text in _COMPARED]
    arrays: dict[str, Any] = {**packed(ids, loaded.description.pad_id)}
    if loaded.description.rotary:
        arrays["frequencies"] = loaded.description.rotary.frequencies(long=False)
    with torch.inference_mode():
        found = loaded.body(**{name: torch.from_numpy(a).to(device) for name, a in arrays.items()})
    cosine = least_cosine(found.cpu().numpy(), expected)
    if not cosine >= _LEAST_COSINE:
        raise ModelRefused(
            f"its vectors have a cosine of {cosine:.4f} to those of sentence-transformers, at "
            f"least {_LEAST_COSINE} is needed: something in its configuration is not computed here"
        )
