"""A sentence-transformers model on torch, driven by ids that were tokenised once."""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from embedding_service.backend.base import (
    InputType,
    Matryoshka,
    Prompts,
    Space,
    TokenIds,
    Vectors,
)
from embedding_service.backend.models import ModelFolder
from embedding_service.errors import ModelRefused

_logger = logging.getLogger(__name__)

_NOMIC = "nomic_bert"
# Nomic's model card: these prefixes are part of the model, and it was trained to 2,048 tokens.
_NOMIC_PROMPTS = {"document": "search_document: ", "query": "search_query: "}
_NOMIC_TRAINED_TOKENS = 2048
_NOMIC_DIMENSIONS = (64, 128, 256, 512, 768)
_PROBES = (
    "The cash rate target was left unchanged at 4.35 per cent.",
    "naïve  Ökonomie — 通貨",
    "a",
)


class SentenceTransformerBackend:
    """Runs the modules of one SentenceTransformer in fp32."""

    runtime = "torch"

    def __init__(
        self, folder: ModelFolder, *, device: str, threads: int, max_tokens: int | None
    ) -> None:
        """Load ``folder``. ``max_tokens`` None means: what the model was made for.

        Raises:
            ModelRefused: The folder holds no model that we can serve faithfully.
        """
        torch.set_num_threads(threads)
        self.device = _device(device)
        self.cores = threads
        self._model = _load(folder, self.device)
        self._config = folder.json("config.json")
        self.max_tokens = self._limit(folder, max_tokens)
        self.prompts = self._prompts()
        self.matryoshka = self._matryoshka(folder)
        self.tokenizer_json = _whole_tokenizer(folder)
        # Never given truncation or padding, so that any number of threads may use it.
        self._tokenizer = Tokenizer.from_str(self.tokenizer_json.decode())
        self._pad_id = int(self._model.tokenizer.pad_token_id or 0)
        self._closing = _closing_tokens(self._tokenizer)
        self._check_tokenizer(folder)
        self.space = self._space(folder)

    def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
        prompt = self.prompts.of(input_type)
        found = self._tokenizer.encode_batch_fast([prompt + text for text in texts])
        return [np.array(encoding.ids, dtype=np.int32) for encoding in found]

    def shorten(self, ids: TokenIds) -> TokenIds:
        if len(ids) <= self.max_tokens:
            return ids
        kept = self.max_tokens - self._closing
        return np.concatenate([ids[:kept], ids[len(ids) - self._closing :]])

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        features: dict[str, Any] = self._padded(batch)
        with torch.inference_mode():
            for module in self._model:
                features = module(features)
            pooled = features["sentence_embedding"].float()
            unit = torch.nn.functional.normalize(pooled, p=2, dim=-1)
            vectors: Vectors = unit.cpu().numpy()
        return vectors

    def _padded(self, batch: Sequence[TokenIds]) -> dict[str, torch.Tensor]:
        shape = (len(batch), max(len(ids) for ids in batch))
        input_ids = np.full(shape, self._pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, ids in enumerate(batch):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        return {
            "input_ids": torch.from_numpy(input_ids).to(self.device),
            "attention_mask": torch.from_numpy(mask).to(self.device),
        }

    def _limit(self, folder: ModelFolder, wanted: int | None) -> int:
        known = [self._model.max_seq_length, self._config.get("max_position_embeddings")]
        if self._config["model_type"] == _NOMIC:
            known.append(_NOMIC_TRAINED_TOKENS)
        longest = min((int(n) for n in known if n), default=512)
        if wanted is not None and wanted > longest:
            raise ModelRefused(
                f"EMBEDDING_MAX_SEQ_LENGTH={wanted}: {folder.name} takes 8 to {longest} tokens"
            )
        return wanted or longest

    def _prompts(self) -> Prompts:
        named = {name: text for name, text in self._model.prompts.items() if text}
        if not named and self._config["model_type"] == _NOMIC:
            named = _NOMIC_PROMPTS
        document = named.get("document") or named.get("passage") or ""
        return Prompts(document=document, query=named.get("query", ""))

    def _matryoshka(self, folder: ModelFolder) -> Matryoshka | None:
        nomic = self._config["model_type"] == _NOMIC
        listed = self._config.get("matryoshka_dimensions") or ()
        if nomic and not listed and folder.name.endswith("nomic-embed-text-v1.5"):
            listed = _NOMIC_DIMENSIONS
        return Matryoshka(tuple(listed), layer_norm_first=nomic) if listed else None

    def _check_tokenizer(self, folder: ModelFolder) -> None:
        ours = [ids.tolist() for ids in self.tokenise(_PROBES, "raw")]
        theirs = [self._model.tokenizer(text)["input_ids"] for text in _PROBES]
        if ours != theirs:
            raise ModelRefused(
                f"{folder.path}: tokenizer.json gives other tokens than the tokenizer's own "
                "configuration; save the tokenizer again with transformers"
            )

    def _space(self, folder: ModelFolder) -> Space:
        return Space(
            model=folder.name,
            revision=folder.revision,
            weights_sha256=folder.weights_sha256,
            tokenizer_sha256=hashlib.sha256(self.tokenizer_json).hexdigest(),
            document_prompt=self.prompts.document,
            query_prompt=self.prompts.query,
            pooling=_pooling(self._model),
            normalised=True,
            dimensions=int(self._model.get_embedding_dimension() or 0),
            precision="fp32",
            max_tokens=self.max_tokens,
        )


def _device(wanted: str) -> str:
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[wanted]:
        found = ", ".join(name for name, there in present.items() if there)
        raise ModelRefused(f"EMBEDDING_DEVICE={wanted}: not on this machine; there is: {found}")
    return wanted


def _load(folder: ModelFolder, device: str) -> SentenceTransformer:
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


def _pooling(model: SentenceTransformer) -> str:
    pooling = next((module for module in model if hasattr(module, "pooling_mode")), None)
    if pooling is None:
        raise ModelRefused("the model has no pooling module, so its vectors are not one per text")
    if not getattr(pooling, "include_prompt", True):
        # Its result would depend on a prompt's length, which is not the same all over a batch.
        raise ModelRefused("the model leaves its prompt out of pooling; that is not supported")
    mode: Any = pooling.pooling_mode
    return mode if isinstance(mode, str) else "+".join(mode)


def _whole_tokenizer(folder: ModelFolder) -> bytes:
    # From the file, not from the loaded object: the bytes, and so the space, then do not change
    # with the version of the tokenizer's library.
    found = folder.json("tokenizer.json") | {"truncation": None, "padding": None}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _closing_tokens(tokenizer: Tokenizer) -> int:
    """Return how many special tokens stand after a text."""
    mask = tokenizer.encode("a").special_tokens_mask
    return next(i for i, special in enumerate(reversed(mask)) if not special)
