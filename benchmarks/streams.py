"""Streams and threads: all cores for one pass at a time, as it is served, or passes side by side.

A stream makes one pass at a time with its threads. For one stream of one thread, one of all cores,
and one of a single thread for each core: the tokens per second of many passes, as many of them at
once as there are streams, and the seconds of a query that comes when nothing else is computed.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import command_line
from benchmarks.reports import Spread, progress, table, write_json
from benchmarks.roofline import sorted_batches
from benchmarks.sides import Model
from benchmarks.texts import make_texts, whole_words
from embedding_service.backend.base import Precision

# As the service forms its passes on a CPU.
_MAX_TEXTS, _MAX_PADDED_TOKENS = 32, 2048
_QUERY_TOKENS, _QUERIES = 16, 15


@dataclass(frozen=True, slots=True)
class Layout:
    """How many passes are made at once, and by how many threads each."""

    streams: int
    threads: int

    def __str__(self) -> str:
        return f"{self.streams} x {self.threads}"


@dataclass(frozen=True, slots=True)
class Measured:
    """One layout in all rounds, on the same texts."""

    layout: Layout
    tokens: int
    bulk_s: Sequence[float]
    query_s: Sequence[float]

    def row(self, served: "Measured") -> list[str]:
        """Return the line of the table; ``served`` is what it is held against."""
        rate = Spread.of([self.tokens / s for s in self.bulk_s])
        query = Spread.of([s * 1e3 for s in self.query_s])
        ratio = Spread.of_ratios(served.bulk_s, self.bulk_s)
        slower = Spread.of_ratios(self.query_s, served.query_s)
        return [str(self.layout), str(rate), str(ratio), str(query), str(slower)]


def layouts(cores: int) -> list[Layout]:
    """Return what is measured on ``cores``, what is served first; on one core that is all."""
    found = [Layout(1, cores), Layout(1, 1), Layout(cores, 1)]
    return list(dict.fromkeys(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table for each model and precision; return 0."""
    parser = command_line.parser("streams", __doc__)
    command_line.add_rounds(parser)
    command_line.add_models(parser)
    command_line.add_texts(parser)
    command_line.add_precisions(parser, "fp32,bf16,int8")
    asked = parser.parse_args(arguments)
    found: dict[str, dict[str, list[Measured]]] = {}
    for model in command_line.models(asked):
        found[model.name] = {}
        for precision in asked.precisions:
            each = found[model.name][precision] = measured(model, precision, asked)
            print(f"{model.name} in {precision}\n")
            headings = ["streams x threads", "tokens/s", "to served", "query ms", "to served"]
            print(table(headings, [one.row(each[0]) for one in each]), end="\n\n", flush=True)
    write_json(asked.out, "streams", {"layouts": found}, goals=[])
    progress(f"figures: {asked.out}")
    return 0


def measured(model: Model, precision: Precision, asked: argparse.Namespace) -> list[Measured]:
    """Return all layouts, what is served first; they take turns in every round."""
    from benchmarks.openvino_pass import prepared_in
    from embedding_service.backend.models import find_model

    cache = (asked.cache / "prepared").resolve()
    backend, graph = prepared_in(cache, find_model(model.served_as, None), precision)
    ids = backend.tokenise(model.texts(asked.texts or model.usual_texts), "raw")
    lengths = [len(text) for text in ids]
    batches = sorted_batches(lengths, max_texts=_MAX_TEXTS, max_padded_tokens=_MAX_PADDED_TOKENS)
    bulk = [backend.passed([ids[at] for at in batch]) for batch in batches]
    short = make_texts([_QUERY_TOKENS], whole_words(model.folder))
    query = backend.passed(backend.tokenise(short, "raw"))
    running = [_Running(graph, precision, layout) for layout in layouts(backend.cores)]

    def turn() -> list[tuple[float, float]]:
        return [(each.bulk_s(bulk), each.query_s(query)) for each in running]

    # The first pass of a size also prepares for it.
    turn()
    rounds = [turn() for _ in range(asked.rounds)]
    return [
        Measured(each.layout, sum(lengths), *zip(*taken, strict=True))
        for each, taken in zip(running, zip(*rounds, strict=True), strict=True)
    ]


class _Running:
    """A model compiled for one layout."""

    def __init__(self, graph: Path, precision: Precision, layout: Layout) -> None:
        import openvino

        from embedding_service.backend.openvino import compiled, properties

        self.layout = layout
        cores = layout.streams * layout.threads
        chosen = properties(precision, cores) | {"NUM_STREAMS": layout.streams}
        self._queue = openvino.AsyncInferQueue(compiled(graph, chosen), layout.streams)

    def bulk_s(self, passes: Sequence[Mapping[str, Any]]) -> float:
        """Return the seconds of all ``passes``, as many at once as there are streams."""
        began = time.perf_counter()
        for given in passes:
            self._queue.start_async(dict(given))
        self._queue.wait_all()
        return time.perf_counter() - began

    def query_s(self, query: Mapping[str, Any]) -> float:
        """Return the median seconds of one pass when there is no other."""
        return median(self.bulk_s([query]) for _ in range(_QUERIES))


if __name__ == "__main__":
    sys.exit(main())
