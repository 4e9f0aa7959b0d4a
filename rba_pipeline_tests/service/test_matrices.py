"""A model's matrices are rewritten without another result."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from openvino import opset13

from embedding_service.backend import matrices
from embedding_service.backend.openvino import compiled, properties

HIDDEN = 8
Layer = Callable[[Any, int], Any]


def weights(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    return chance.standard_normal((rows, columns), dtype=np.float32) / np.float32(rows**0.5)


def linear(x: Any, rows: int, columns: int, seed: int) -> Any:
    """As converted from torch: the matrix stands with its columns as rows."""
    turned = np.ascontiguousarray(weights(rows, columns, seed).T)
    return opset13.matmul(x, opset13.constant(turned), False, True)


def gated(x: Any, width: int) -> Any:
    gate = opset13.swish(linear(x, HIDDEN, width, 1))
    return linear(opset13.multiply(gate, linear(x, HIDDEN, width, 2)), width, HIDDEN, 3)


def with_biases(x: Any, width: int) -> Any:
    bias = opset13.constant(weights(1, width, 4)[np.newaxis])
    inner = opset13.gelu(opset13.add(linear(x, HIDDEN, width, 1), bias), "erf")
    halved = opset13.multiply(inner, opset13.constant(np.full((1, 1, 1), 0.5, np.float32)))
    return opset13.add(linear(halved, width, HIDDEN, 3), opset13.constant(weights(1, HIDDEN, 5)))


def approximate(x: Any, width: int) -> Any:
    """Gelu as tanh has it, and what is not below 0 of it."""
    inner = opset13.gelu(linear(x, HIDDEN, width, 1), "tanh")
    return linear(opset13.relu(inner), width, HIDDEN, 3)


def normalised(x: Any, width: int) -> Any:
    """Each column depends on all others."""
    inner = opset13.mvn(linear(x, HIDDEN, width, 1), np.array([2]), True, 1e-5, "inside_sqrt")
    return linear(inner, width, HIDDEN, 3)


def one_gate(x: Any, width: int) -> Any:
    """All columns are multiplied with the same number."""
    inner = opset13.multiply(linear(x, HIDDEN, width, 1), linear(x, HIDDEN, 1, 2))
    return linear(inner, width, HIDDEN, 3)


def model(layer: Layer, width: int) -> openvino.Model:
    given = opset13.parameter([1, -1, HIDDEN], np.float32)
    return openvino.Model([layer(given, width)], [given])


def result(graph: openvino.Model) -> NDArray[np.float32]:
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    x = np.random.default_rng(0).standard_normal((1, 5, HIDDEN), dtype=np.float32)
    found: NDArray[np.float32] = openvino.Core().compile_model(graph, "CPU", exact)(x)[0]
    return found


def products(graph: openvino.Model) -> list[tuple[int, ...]]:
    """Return the shapes of all matrices, the most frequent first."""
    shapes = [
        tuple(node.input_value(1).get_shape())
        for node in graph.get_ops()
        if node.get_type_name() == "MatMul"
    ]
    return [shape for shape, n in Counter(shapes).most_common() for _ in range(n)]


@pytest.mark.parametrize(
    ("layer", "width", "expected"),
    [
        (gated, 3072, 8 * [(HIDDEN, 768)] + 4 * [(768, HIDDEN)]),
        (with_biases, 3072, 4 * [(HIDDEN, 768)] + 4 * [(768, HIDDEN)]),
        (approximate, 3072, 4 * [(HIDDEN, 768)] + 4 * [(768, HIDDEN)]),
        (with_biases, 4096, 8 * [(HIDDEN, 512)] + 8 * [(512, HIDDEN)]),
    ],
)
def test_a_wide_layer_is_computed_in_pieces(
    layer: Layer, width: int, expected: list[tuple[int, ...]]
) -> None:
    before, graph = result(model(layer, width)), model(layer, width)

    matrices.transpose(graph)
    matrices.split(graph)

    assert sorted(products(graph)) == sorted(expected)
    assert np.abs(result(graph) - before).max() < 1e-5


@pytest.mark.parametrize(
    ("layer", "width"),
    [(gated, 1536), (gated, 1984), (normalised, 3072), (one_gate, 3072)],
    ids=["narrow", "only of narrow pieces", "dependent columns", "one gate for all"],
)
def test_another_layer_stays(layer: Layer, width: int) -> None:
    before, graph = result(model(layer, width)), model(layer, width)
    matrices.transpose(graph)
    whole = products(graph)

    matrices.split(graph)

    assert products(graph) == whole
    assert {(HIDDEN, width), (width, HIDDEN)} <= set(whole)
    assert np.abs(result(graph) - before).max() < 1e-6


def test_pieces_are_added_as_they_were_computed_with_the_same_result(tmp_path: Path) -> None:
    given = opset13.parameter([1, -1, HIDDEN], np.float32)
    graph = openvino.Model([opset13.add(given, gated(given, 3072))], [given])
    matrices.transpose(graph)
    matrices.split(graph)
    openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=True)
    x = np.random.default_rng(0).standard_normal((1, 5, HIDDEN), dtype=np.float32)
    # On a CPU without bf16 the pieces are float32 either way.
    chosen = properties("bf16", 1)

    served = compiled(tmp_path / "model.xml", chosen)

    plain = openvino.Core().compile_model(tmp_path / "model.xml", "CPU", chosen)
    np.testing.assert_array_equal(served(x)[0], plain(x)[0])
    (added,) = inputs_of_sums(served)
    assert sorted(added) == [*4 * ["FullyConnected"], "Input"]


def inputs_of_sums(served: openvino.CompiledModel) -> list[list[str]]:
    """Return, for each sum as it is executed, what computes its summands."""
    graph = served.get_runtime_model()
    return [
        [kind_of(value.get_node()) for value in node.input_values()]
        for node in graph.get_ops()
        if kind_of(node) == "Eltwise" and len(node.input_values()) > 2
    ]


def kind_of(node: openvino.Node) -> str:
    """Return what ``node`` of a compiled graph is, in the words of OpenVINO."""
    return node.get_rt_info()["layerType"].astype(str)
