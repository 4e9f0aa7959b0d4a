"""Where a pass of a model spends its time, by kind of operation, as its runtime counts it.

Says what bounds the loop of ``benchmarks.engine``: the multiplications with the model's weights,
attention, or what lies between them. On a CPU OpenVINO counts (FullyConnected is the weights,
Subgraph or ScaledDotProductAttention is attention), or torch; on CUDA torch does.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import command_line
from benchmarks.counted_pass import ATTENTION, PRODUCTS, Count, by_kind, on_torch
from benchmarks.reports import progress, table, write_json
from benchmarks.roofline import Shape
from benchmarks.sides import Model
from embedding_service.backend.base import Precision, TokenIds
from embedding_service.backend.runtimes import choose
from embedding_service.errors import SettingRefused

_WEIGHTS = ("FullyConnected", "FullyConnectedQuantizedLegacy", PRODUCTS)
_ATTENTION = ("Subgraph", "ScaledDotProductAttention", ATTENTION)
# A pass as large as the service makes them there.
_CUDA_TEXTS, _CPU_TEXTS = 54, 3
# Also where a CPU has no instructions for a precision, OpenVINO computes in it.
_ANY_CPU = frozenset({"BF16", "FP16"})


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds of one pass by kind of operation; of each operation the least of all passes."""

    model: str
    runtime: str
    device: str
    """``cpu``, or the card's name."""
    precision: str
    texts: int
    tokens: int
    """Of each text."""
    seconds: Mapping[str, float]
    operations: Mapping[str, float]
    """The same by the runtime's own names; OpenVINO's are the kinds."""
    weights_flops: int
    attention_flops: int

    def rows(self) -> list[list[str]]:
        """Return kind, milliseconds, share of the pass and GFLOP/s, the slowest kind first.

        Kinds that multiply with weights have the speed of all of them together.
        """
        whole = sum(self.seconds.values())
        ranked = sorted(self.seconds.items(), key=lambda item: -item[1])
        return [
            [kind, f"{s * 1e3:.1f}", f"{s / whole:.1%}", self._speed(kind)]
            for kind, s in ranked
            if s > 0
        ]

    def _speed(self, kind: str) -> str:
        for kinds, flops in ((_WEIGHTS, self.weights_flops), (_ATTENTION, self.attention_flops)):
            if kind in kinds:
                taken = sum(s for other, s in self.seconds.items() if other in kinds)
                return f"{flops / taken / 1e9:,.0f}"
        return "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table for each model and precision; return 0."""
    asked = _asked(arguments)
    found = []
    for model in command_line.models(asked):
        for precision in asked.precisions:
            found.append(profiled(model, precision, asked))
            size = f"{found[-1].texts} x {found[-1].tokens} tokens"
            print(f"{model.name} in {precision} on {found[-1].runtime}, {size}\n")
            print(table(["operation", "ms", "share", "GFLOP/s"], found[-1].rows()), end="\n\n")
    write_json(asked.out, "operations", {"profiles": found}, goals=[])
    progress(f"figures: {asked.out}")
    return 0


def profiled(model: Model, precision: Precision, asked: argparse.Namespace) -> Profile:
    """Return the profile of one batch of ``asked.texts`` texts of ``asked.tokens`` tokens.

    They are of fewer tokens where the model takes no more.
    """
    from embedding_service.backend.models import find_model

    folder = find_model(model.served_as, None)
    if asked.runtime == "torch":
        backend, count = on_torch(folder, precision, asked.device)
    else:
        from benchmarks.openvino_pass import on_openvino

        backend, count = on_openvino(folder, precision, (asked.cache / "prepared").resolve())
    (ids,) = backend.tokenise([model.texts(1)[0] * 8], "raw")
    batch = [ids[: min(asked.tokens, backend.max_tokens)]] * asked.texts
    shape = Shape.read(model.folder)
    lengths = [len(text) for text in batch]
    spent = _least(count, batch, passes=asked.rounds)
    return Profile(
        model=model.name,
        runtime=asked.runtime,
        device=_device_name(asked.device),
        precision=precision,
        texts=len(batch),
        tokens=lengths[0],
        seconds=by_kind(spent) if asked.runtime == "torch" else spent,
        operations=spent,
        weights_flops=shape.matrix_flops(sum(lengths)),
        attention_flops=shape.attention_flops(lengths),
    )


def _device_name(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name()


def _least(count: Count, batch: Sequence[TokenIds], *, passes: int) -> dict[str, float]:
    # The first pass also prepares for the shape, and what counts prepares itself.
    count(batch)
    least: dict[str, float] = {}
    for _ in range(passes):
        least = {name: min(s, least.get(name, s)) for name, s in count(batch).items()}
    return least


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments, with what they leave out as is usual on their device."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    on_cuda = asked.device == "cuda"
    asked.runtime = asked.runtime or ("torch" if on_cuda else "openvino")
    asked.precisions = asked.precisions or (["bf16"] if on_cuda else ["fp32", "bf16", "int8"])
    asked.texts = asked.texts or (_CUDA_TEXTS if on_cuda else _CPU_TEXTS)
    try:
        for precision in asked.precisions:
            choose(asked.runtime, precision, device=asked.device, openvino=_ANY_CPU)
    except SettingRefused as error:
        parser.error(str(error))
    if on_cuda and not command_line.has_cuda():
        parser.error("--device cuda: there is none on this machine")
    return asked


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("operations", __doc__)
    command_line.add_rounds(parser)
    command_line.add_device(parser)
    parser.add_argument(
        "--runtime", choices=("openvino", "torch"), help="default openvino, on CUDA torch"
    )
    command_line.add_models(parser)
    command_line.add_precisions(parser, None, said="fp32,bf16,int8, on CUDA bf16")
    parser.add_argument(
        "--texts",
        type=command_line.positive,
        metavar="N",
        help=f"of a pass; default {_CPU_TEXTS}, on CUDA {_CUDA_TEXTS}",
    )
    parser.add_argument(
        "--tokens", type=command_line.positive, default=600, metavar="N", help="default 600"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
