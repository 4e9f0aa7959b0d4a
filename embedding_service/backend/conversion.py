"""Make a model ready for OpenVINO: converted, quantised if asked for, and held against fp32.

Runs in a process of its own: it needs torch and several times the memory that serving takes.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from embedding_service.backend import matrices
from embedding_service.backend.agreement import LIKE_FP32, least_cosine, read_texts, sample_ids
from embedding_service.backend.base import TokenIds, Vectors
from embedding_service.backend.loading import Body, Loaded, load
from embedding_service.backend.openvino import (
    Compiled,
    Prepared,
    files_sha256,
    keep_tokenizer,
)
from embedding_service.backend.order import Order
from embedding_service.backend.text_model import TextModel, Weights
from embedding_service.errors import ModelRefused

_logger = logging.getLogger(__name__)

_CALIBRATION_TEXTS, _CALIBRATION_TOKENS = 120, 512
# Below, something went wrong that rounding does not explain.
_LEAST_COSINE = 0.9


def convert(order: Order, out: Path) -> None:
    """Write a prepared model into the folder ``out``, which exists and is empty.

    Raises:
        ModelRefused: The model cannot be loaded, or its vectors are not those of torch.
        SettingRefused: The texts to calibrate with cannot be used.
    """
    torch.set_num_threads(order.threads)
    texts = read_texts(order.calibration)
    loaded = load(order.folder, "cpu")
    model = _text_model(order, loaded)
    ids = sample_ids(model, texts)
    exact = np.concatenate([_by_torch(loaded.body, model, text) for text in ids])
    _logger.info("converting %s for OpenVINO", order.folder.name)
    graph = _traced(loaded, model, ids[:2])
    matrices.transpose(graph)
    matrices.split(graph)
    quantised = order.precision == "int8"
    if quantised:
        graph = _quantised(graph, model, texts)
    # Half precision on the disk, and so in memory: bf16 rounds more coarsely than that anyway.
    _save(graph, out / "model.xml", compress_to_fp16=order.precision != "fp32")
    del graph
    compiled = Compiled(out / "model.xml", order.precision, order.threads)
    got = np.concatenate([compiled.run(model.passed([text])) for text in ids])
    cosine = least_cosine(exact, got)
    _logger.info("least cosine of %s to fp32 on %d texts: %.6f", order.precision, len(ids), cosine)
    floor = LIKE_FP32 if order.precision == "fp32" else _LEAST_COSINE
    if not cosine >= floor:
        raise ModelRefused(
            f"its vectors in {order.precision} have a cosine of {cosine:.4f} to those of torch in "
            f"fp32, at least {floor} is needed; set EMBEDDING_PRECISION=fp32 or "
            "EMBEDDING_RUNTIME=torch"
        )
    keep_tokenizer(out, loaded.tokenizer_json)
    hashes = files_sha256(out)
    Prepared(
        description=loaded.description,
        precision=order.precision,
        like_fp32=not quantised and cosine >= LIKE_FP32,
        least_cosine=cosine,
        # Calibration changes quantised weights and scales: another calibration is another space.
        weights_sha256=hashes["model.bin"] if quantised else order.folder.weights_sha256,
        files_sha256=hashes,
    ).write(out)


def _save(graph: openvino.Model, path: Path, *, compress_to_fp16: bool) -> None:
    try:
        openvino.save_model(graph, path, compress_to_fp16=compress_to_fp16)
    except RuntimeError as error:
        # Its own message is of C++ streams, and names neither path nor reason.
        raise ModelRefused(
            f"{path} cannot be written: is the disk of EMBEDDING_CACHE_DIR full? ({error})"
        ) from error


def _text_model(order: Order, loaded: Loaded) -> TextModel:
    folder = order.folder
    return TextModel(
        loaded.description,
        Weights.in_fp32(folder),
        tokenizer_json=loaded.tokenizer_json,
        # Long texts are compared as well, whether or not they will be taken.
        max_tokens=loaded.description.longest_tokens,
    )


def _by_torch(body: Body, model: TextModel, text: TokenIds) -> Vectors:
    given = {name: torch.from_numpy(array) for name, array in model.passed([text]).items()}
    with torch.inference_mode():
        vectors: Vectors = body(**given).numpy()
    return vectors


def _traced(loaded: Loaded, model: TextModel, example: Sequence[TokenIds]) -> openvino.Model:
    # Of two lengths: with no cell empty in the example, the mask would be traced away.
    shorter = [example[0], example[1][: max(1, len(example[0]) // 2)]]
    arrays = model.passed(shorter)
    free = {name: [-1] * array.ndim for name, array in arrays.items()}
    if "frequencies" in arrays:
        free["frequencies"] = list(arrays["frequencies"].shape)
    with warnings.catch_warnings():
        # Tracing warns of every Python condition, and these hold for whatever we pass.
        warnings.simplefilter("ignore")
        return openvino.convert_model(
            loaded.body,
            example_input={name: torch.from_numpy(array) for name, array in arrays.items()},
            input=list(free.items()),
        )


def calibration_ids(model: TextModel, texts: Sequence[str]) -> list[TokenIds]:
    """Return at most 120 of ``texts``, cut to 512 tokens, or to what the ordinary path takes."""
    longest = min(_CALIBRATION_TOKENS, model.native_tokens)
    ids = [text[:longest] for text in model.tokenise(texts, "document")]
    chosen = [ids[i * len(ids) // _CALIBRATION_TEXTS] for i in range(_CALIBRATION_TEXTS)]
    return list({id(text): text for text in chosen}.values())


def _quantised(graph: openvino.Model, model: TextModel, texts: Sequence[str]) -> openvino.Model:
    import nncf

    chosen = calibration_ids(model, texts)
    _logger.info("quantising to int8, calibrated on %d texts; this takes minutes", len(chosen))

    def given(text: TokenIds) -> dict[str, Any]:
        # What fills a pass up is no text, and must not widen the ranges that are found.
        return dict(model.passed([text], round_up=False))

    # Attention stays as it is: rounding it costs accuracy, and on two cores the conversions to and
    # from int8 around it took longer than they saved (nomic-shaped, 545 tokens: 1.9 against 2.5
    # thousand tokens/s).
    return nncf.quantize(
        graph,
        nncf.Dataset(chosen, given),
        subset_size=len(chosen),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(types=["ScaledDotProductAttention"]),
    )
