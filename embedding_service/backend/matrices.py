"""A converted model's matrices, rewritten for OpenVINO: the same function, computed faster."""

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13

# Of the width between the matrices of a layer behind attention. On two cores with AMX, products
# with 768 rows or columns made 2.6 to 2.8 TFLOP/s in bf16 at any number of tokens. With 3,072 they
# made 1.8 to 2.7 at multiples of 256, and 1.3 to 2.0 elsewhere; with 384 columns 2.3 to 2.8. With
# 1,536 of a narrow model (MiniLM) pieces were no faster, and in fp32 they made no difference.
_NARROW, _PIECES = 1536, range(768, 383, -64)
_BY_COLUMN: dict[str, Callable[..., openvino.Node]] = {
    "Add": opset13.add,
    "Gelu": opset13.gelu,
    "Multiply": opset13.multiply,
    "Relu": opset13.relu,
    "Swish": opset13.swish,
}


def transpose(graph: openvino.Model) -> None:
    """Have each layer multiply with the transpose of its matrix: the same product.

    On a CPU with AMX OpenVINO 2026.4 takes the three matrices behind attention for those of a large
    language model, and computes them its own way in bf16: on one thread it divides by zero, which
    ends the process, and on two it is a tenth slower than what a layer is computed with by itself
    (nomic-shaped). It does not know them by their transpose.
    """
    for product, weights in _products(graph):
        if product.get_attributes()["transpose_b"]:
            turned = opset13.constant(np.ascontiguousarray(weights.data.T))
            turned.set_friendly_name(weights.get_friendly_name())
            product.input(1).replace_source_output(turned.output(0))
            product.set_attribute("transpose_b", False)
    graph.validate_nodes_and_infer_types()


def split(graph: openvino.Model) -> None:
    """Have a layer compute its inner width in pieces: f(xA)B is the sum of f(xA_i)B_i.

    A_i are columns of A, and B_i the same rows of B; f looks at one column at a time. For a graph
    after ``transpose``. A layer of another form, or of a width without such pieces, stays. But for
    rounding the result is the same: in bf16 each of the summands is rounded.
    """
    for product, weights in _products(graph):
        cuts = _cuts(weights.data.shape[0])
        parts = [_columns(product.input_value(0), cut) for cut in cuts]
        if not cuts or None in parts:
            continue
        summands = [
            opset13.matmul(part, _constant(weights.data[cut]), False, False)
            for part, cut in zip(parts, cuts, strict=True)
        ]
        product.output(0).replace(reduce(opset13.add, summands).output(0))
    graph.validate_nodes_and_infer_types()


def add_as_computed(graph: openvino.Model) -> None:
    """Have a sum of products read them in the precision that they were computed in.

    What follows the last product on any way through the graph is float32 in OpenVINO, and so is
    what is added to the states that go around each layer. It writes every piece of ``split`` to
    memory once more for that; a sum that reads bf16 is the same, and a pass took 0.95 of the time
    (nomic-shaped, two cores with AMX). For every graph that was read: it is not kept in a file.
    """
    for node in graph.get_ops():
        if node.get_type_name() == "Add" and _is_computed(node):
            # OpenVINO 2026.4 knows it by this name. Python's True would get there as a number.
            node.get_rt_info()["enforceBF16evenForGraphTail"] = "YES"


def _products(graph: openvino.Model) -> Iterator[tuple[openvino.Node, Any]]:
    """Yield each node that has ``_weights``, and these."""
    for node in graph.get_ordered_ops():
        if (weights := _weights(node)) is not None:
            yield node, weights


def _weights(node: openvino.Node) -> Any | None:
    """Return the constant matrix that ``node`` multiplies rows with; None for any other node."""
    if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
        return None
    weights = node.input_value(1).get_node()
    constant = weights.get_type_name() == "Constant" and weights.data.ndim == 2
    return weights if constant else None


def _is_computed(node: openvino.Node) -> bool:
    """Return whether ``node`` is a product with a constant matrix, or a sum of such."""
    inputs = [value.get_node() for value in node.input_values()]
    if node.get_type_name() == "Add":
        return all(_is_computed(summand) for summand in inputs)
    # On the disk a matrix is float16, and converted where it is read.
    return node.get_type_name() == "MatMul" and inputs[1].get_type_name() in ("Constant", "Convert")


def _cuts(width: int) -> list[slice]:
    """Return the fewest equal pieces of ``width``; none if it is narrow, or has none of a size in
    ``_PIECES``."""
    if width > _NARROW:
        for size in _PIECES:
            if width % size == 0:
                return [slice(start, start + size) for start in range(0, width, size)]
    return []


def _columns(output: Any, cut: slice) -> Any | None:
    """Return the columns ``cut`` of ``output``; None where they cannot be had by themselves."""
    node = output.get_node()
    kind, inputs = node.get_type_name(), node.input_values()
    if kind == "Constant":
        return _constant(node.data[..., cut]) if node.data.shape[-1:] > (1,) else node
    weights = _weights(node)
    # A matrix of a single column is seen by all columns of the other side.
    if weights is not None and weights.data.shape[1] >= cut.stop:
        return opset13.matmul(inputs[0], _constant(weights.data[:, cut]), False, False)
    parts = [_columns(value, cut) for value in inputs] if kind in _BY_COLUMN else [None]
    if None in parts:
        return None
    return _BY_COLUMN[kind](*parts, **node.get_attributes())


def _constant(part: NDArray[np.float32]) -> openvino.Node:
    return opset13.constant(np.ascontiguousarray(part))
