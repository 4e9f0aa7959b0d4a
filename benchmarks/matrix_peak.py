"""How fast this machine multiplies matrices of a model's own shapes, with nothing around it."""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.roofline import Peak, Shape

_REPEATS = 5
# Enough products in a row that the first input's and the last output's conversion does not count.
_SQUARE, _THERE_AND_BACK = 8, 3
_TOKENS = {"cpu": (512, 2048), "cuda": (8192, 32768)}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_INT8_LEVELS = 256

Chain = list[tuple[int, int]]
"""Rows and columns of matrices that an input is multiplied by, one after the other."""
Run = Callable[[], object]
Library = Callable[[Chain, int, str, str], Run]


def peaks(shape: Shape, precision: str, device: str) -> list[Peak]:
    """Return what each library reaches at each number of tokens; a few seconds on two cores."""
    return [
        _measured(name, library, shape, tokens, precision, device)
        for name, library in _libraries(precision, device)
        for tokens in _TOKENS[device]
    ]


def _libraries(precision: str, device: str) -> Iterator[tuple[str, Library]]:
    if precision in _DTYPES:
        yield "torch", _torch
    elif device == "cpu":
        yield "torch", _torch_int8
    if device == "cpu":
        yield "openvino", _openvino


def _measured(
    name: str, library: Library, shape: Shape, tokens: int, precision: str, device: str
) -> Peak:
    square: Chain = [(shape.hidden, shape.hidden)] * _SQUARE
    inner: Chain = [(shape.hidden, shape.inner), (shape.inner, shape.hidden)] * _THERE_AND_BACK
    speeds = [
        2 * tokens * sum(rows * columns for rows, columns in chain) / seconds
        for chain in (square, inner)
        for seconds in [_seconds(library(chain, tokens, precision, device))]
    ]
    return Peak(name, tokens, *speeds)


def _seconds(run: Run) -> float:
    run()
    taken = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return median(taken)


def _torch(chain: Chain, tokens: int, precision: str, device: str) -> Run:
    dtype = _DTYPES[precision]
    weights = [torch.from_numpy(w).to(device, dtype) for w in _weights(chain)]
    first = torch.from_numpy(_input(chain, tokens)).to(device, dtype)

    def run() -> None:
        states = first
        with torch.inference_mode():
            for weight in weights:
                states = states @ weight
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _torch_int8(chain: Chain, tokens: int, precision: str, device: str) -> Run:
    """Products only: each input is there in int8 before."""
    pairs = [(_random_int8(tokens, rows), _random_int8(rows, columns)) for rows, columns in chain]

    def run() -> None:
        for states, weight in pairs:
            torch._int_mm(states, weight)

    return run


def _random_int8(rows: int, columns: int) -> torch.Tensor:
    return torch.randint(-127, 128, (rows, columns), dtype=torch.int8)


def _openvino(chain: Chain, tokens: int, precision: str, device: str) -> Run:
    import openvino
    from openvino import opset13 as ops

    from embedding_service.backend.openvino import properties
    from embedding_service.cores import usable_cores

    given = ops.parameter([tokens, chain[0][0]], np.float32)
    states: Any = given
    for weight in _weights(chain):
        if precision == "int8":
            states, factor = _quantised(states), _int8_constant(weight)
        else:
            factor = ops.constant(weight)
        states = ops.matmul(states, factor, False, False)
    as_served = properties(precision, usable_cores())  # type: ignore[arg-type]
    model = openvino.Core().compile_model(openvino.Model([states], [given]), "CPU", as_served)
    request = model.create_infer_request()
    first = _input(chain, tokens)
    return lambda: request.infer([first], share_inputs=True, share_outputs=True)


def _quantised(states: Any) -> Any:
    """Round to 256 levels; OpenVINO makes it a part of the product before, as in a real model."""
    from openvino import opset13 as ops

    bounds = [ops.constant(np.float32(bound)) for bound in (-5, 5 - 10 / _INT8_LEVELS) * 2]
    return ops.fake_quantize(states, *bounds, _INT8_LEVELS)


def _int8_constant(weight: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    from openvino import opset13 as ops

    scale = np.abs(weight).max() / 127
    small = ops.constant(np.round(weight / scale).astype(np.int8))
    return ops.multiply(ops.convert(small, np.float32), ops.constant(np.float32(scale)))


def _weights(chain: Chain) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return random weights under which numbers keep their size, however long the chain."""
    chance = np.random.default_rng(0)
    return [
        chance.standard_normal(shape, dtype=np.float32) / np.float32(shape[0] ** 0.5)
        for shape in chain
    ]


def _input(chain: Chain, tokens: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((tokens, chain[0][0]), dtype=np.float32)
