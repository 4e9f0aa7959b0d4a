"""Where a pass of a model spends its time: OpenVINO's own count, by kind of operation.

Says what bounds the loop of ``benchmarks.engine``: the multiplications with the model's weights
(FullyConnected, or LLMMLP), attention (Subgraph, or ScaledDotProductAttention), or what lies
between them.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command_line
from benchmarks.reports import progress, table, write_json
from benchmarks.roofline import Shape
from benchmarks.sides import Model

# OpenVINO takes together what it can: with AMX the three matrices behind attention in bf16.
_WEIGHTS = ("FullyConnected", "FullyConnectedQuantizedLegacy", "LLMMLP")
_ATTENTION = ("Subgraph", "ScaledDotProductAttention")


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds of one pass by kind of operation; of each kind the least of all passes."""

    model: str
    precision: str
    texts: int
    tokens: int
    """Of each text."""
    seconds: Mapping[str, float]
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
    asked = _parser().parse_args(arguments)
    found = []
    for model in command_line.models(asked):
        for precision in asked.precisions:
            found.append(profiled(model, precision, asked))
            size = f"{found[-1].texts} x {found[-1].tokens} tokens"
            print(f"{model.name} in {precision}, {size}\n")
            print(table(["operation", "ms", "share", "GFLOP/s"], found[-1].rows()), end="\n\n")
    write_json(asked.out, "operations", {"profiles": found}, goals=[])
    progress(f"figures: {asked.out}")
    return 0


def profiled(model: Model, precision: str, asked: argparse.Namespace) -> Profile:
    """Return the profile of one batch of ``asked.texts`` texts of ``asked.tokens`` tokens.

    They are of fewer tokens where the model takes no more.
    """
    from embedding_service.backend.models import find_model
    from embedding_service.backend.openvino import OpenVinoBackend
    from embedding_service.backend.order import Order
    from embedding_service.backend.preparation import prepared_model
    from embedding_service.cores import usable_cores

    folder, threads = find_model(model.served_as, None), usable_cores()
    order = Order(folder, precision, threads, None)  # type: ignore[arg-type]
    path, prepared = prepared_model(order, (asked.cache / "prepared").resolve())
    backend = OpenVinoBackend(folder, path, prepared, threads=threads, max_tokens=None)
    (ids,) = backend.tokenise([model.texts(1)[0] * 8], "raw")
    batch = [ids[: min(asked.tokens, backend.max_tokens)]] * asked.texts
    shape = Shape.read(model.folder)
    lengths = [len(text) for text in batch]
    return Profile(
        model=model.name,
        precision=precision,
        texts=len(batch),
        tokens=lengths[0],
        seconds=_seconds(path, precision, threads, backend.passed(batch), passes=asked.rounds),
        weights_flops=shape.matrix_flops(sum(lengths)),
        attention_flops=shape.attention_flops(lengths),
    )


def _seconds(
    folder: Path, precision: str, threads: int, given: Mapping[str, object], *, passes: int
) -> dict[str, float]:
    import openvino

    from embedding_service.backend.openvino import properties

    counting = properties(precision, threads) | {"PERF_COUNT": True}  # type: ignore[arg-type]
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", counting)
    request = compiled.create_infer_request()
    # The first pass also prepares for the shape.
    request.infer(dict(given))
    least: dict[str, float] = {}
    for _ in range(passes):
        request.infer(dict(given))
        spent: defaultdict[str, float] = defaultdict(float)
        for operation in request.get_profiling_info():
            spent[operation.node_type] += operation.real_time.total_seconds()
        least = {kind: min(s, least.get(kind, s)) for kind, s in spent.items()}
    return least


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("operations", __doc__)
    command_line.add_rounds(parser)
    command_line.add_models(parser)
    command_line.add_precisions(parser, "fp32,bf16,int8")
    parser.add_argument(
        "--texts", type=command_line.positive, default=3, metavar="N", help="of a pass; default 3"
    )
    parser.add_argument(
        "--tokens", type=command_line.positive, default=600, metavar="N", help="default 600"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
