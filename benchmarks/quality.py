"""What faster numbers cost: bf16 and int8 against fp32, on real passages and known-item queries."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.command_line import add_out, positive
from benchmarks.passages import Passage, read_passages, read_queries
from benchmarks.quality_report import (
    LEAST_COSINE,
    MEAN_COSINE,
    Comparison,
    Extent,
    search_cells,
)
from benchmarks.reports import exit_code, goals_table, progress, table, write_json
from embedding_service.backend.base import Backend, InputType, Vectors
from embedding_service.backends import load_backend
from embedding_service.errors import StartupError
from embedding_service.settings import read_settings
from rba_pipeline.core.vectors import Quality, quality, rank_of
from rba_pipeline.search import PASSAGES_PER_RANKING, KnownItem

_PADDED_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Embedded:
    """The same passages and queries in one precision; float32, unit rows."""

    precision: str
    space: str
    passages: Vectors
    queries: Vectors


def embed(backend: Backend, texts: Sequence[str], input_type: InputType) -> Vectors:
    """Return one unit vector per text, cut to the model's limit; shape ``(n, dimensions)``."""
    ids = [backend.shorten(found) for found in backend.tokenise(texts, input_type)]
    vectors = np.zeros((len(ids), backend.space.dimensions), dtype=np.float32)
    waiting = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    while waiting:
        rows = max(1, _PADDED_TOKENS // len(ids[waiting[-1]]))
        batch, waiting = waiting[-rows:], waiting[:-rows]
        vectors[batch] = backend.encode([ids[i] for i in batch])
    return vectors


def ranked(embedded: Embedded, passages: Sequence[Passage], items: Sequence[KnownItem]) -> Quality:
    """Return how well documents are ranked, each by its best passage, among those of their kind.

    As ``rba-pipeline evaluate --series`` does it; n ≥ 1 queries.
    """
    paths = np.array([passage.path for passage in passages])
    series = np.array([passage.series for passage in passages])
    scores = embedded.queries @ embedded.passages.T
    ranks = []
    for item, row in zip(items, scores, strict=True):
        kind = series[paths == item.relevant_path]
        of_kind = np.flatnonzero(np.isin(series, kind))
        best = of_kind[np.argsort(-row[of_kind], kind="stable")][:PASSAGES_PER_RANKING]
        ranks.append(rank_of(item.relevant_path, paths[best].tolist()))
    return quality(ranks)


def compare(
    other: Embedded, exact: Embedded, compared: Sequence[int], search: Quality | None
) -> Comparison:
    """Return ``other`` against ``exact`` on the passages ``compared``, n ≥ 1."""
    one, two = other.passages[compared], exact.passages[compared]
    cosines = np.einsum("nd,nd->n", one.astype(np.float64), two.astype(np.float64))
    same_space = other.space == exact.space
    least, mean = float(cosines.min()), float(cosines.mean())
    return Comparison(other.precision, same_space, least, mean, search)


def measure(asked: argparse.Namespace) -> tuple[Extent, list[Comparison]]:
    """Return what fp32 was measured on, and each precision against it.

    Raises:
        StartupError: The model, or a precision, cannot be served here.
    """
    exact = _backend(asked.model, "fp32")
    passages = read_passages(asked.corpus, exact)
    items = [] if asked.without_search else read_queries(asked.corpus)
    compared = np.linspace(0, len(passages) - 1, min(asked.passages, len(passages)), dtype=int)
    if not items:
        passages, compared = [passages[i] for i in compared], np.arange(len(compared))
    in_fp32 = _embedded(exact, passages, items)
    comparisons = []
    for precision in asked.precisions:
        found = _embedded(_backend(asked.model, precision), passages, items)
        search = ranked(found, passages, items) if items else None
        comparisons.append(compare(found, in_fp32, compared.tolist(), search))
    search = ranked(in_fp32, passages, items) if items else None
    return Extent(len(compared), len(items), search), comparisons


def _backend(model: str, precision: str) -> Backend:
    return load_backend(read_settings(model=model, runtime="openvino", precision=precision))


def _embedded(
    backend: Backend, passages: Sequence[Passage], items: Sequence[KnownItem]
) -> Embedded:
    progress(f"{backend.precision}: {len(passages)} passages, {len(items)} queries …")
    return Embedded(
        backend.precision,
        backend.space.id,
        passages=embed(backend, [passage.text for passage in passages], "document"),
        queries=embed(backend, [item.query for item in items], "query"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every bound is reached, 1 if not, 2 if something cannot be served here."""
    asked = _parser().parse_args(arguments)
    try:
        extent, comparisons = measure(asked)
    except StartupError as error:
        progress(str(error))
        return 2
    exact = extent.search
    goals = extent.goals()
    goals += [goal for comparison in comparisons for goal in comparison.goals(exact)]
    rows = [["fp32", "1", "1", *search_cells(exact)], *(row.cells() for row in comparisons)]
    print(table(["", "least cosine", "mean cosine", "found at 10", "MRR"], rows))
    print(f"\n{goals_table(goals)}")
    figures = {"model": asked.model, "extent": extent, "comparisons": comparisons}
    write_json(asked.out, "quality", figures, goals)
    progress(f"figures: {asked.out}")
    return exit_code(goals)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    known = sorted({*LEAST_COSINE, *MEAN_COSINE})
    parser.add_argument("--corpus", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="packaged name or folder")
    parser.add_argument("--precisions", nargs="+", choices=known, default=known, help="to compare")
    parser.add_argument(
        "--passages", type=positive, default=1000, help="compared by cosine; default 1000"
    )
    parser.add_argument(
        "--without-search", action="store_true", help="embed only the compared passages"
    )
    add_out(parser, "quality")
    return parser


if __name__ == "__main__":
    sys.exit(main())
