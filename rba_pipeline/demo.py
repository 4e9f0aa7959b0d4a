"""The demo: every partition materialised, everything counted twice, three searches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from rba_pipeline.core.errors import RbaError
from rba_pipeline.core.windows import Window
from rba_pipeline.materialise import PartitionResult, materialise, partitions_to_materialise
from rba_pipeline.neighbours import Neighbours
from rba_pipeline.partitions import partitions_by, today, window_of
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.results import print_hits, print_quality
from rba_pipeline.search import evaluate, known_items, search
from rba_pipeline.settings import SAMPLE_CORPUS, Settings

SAMPLE_QUERIES = (
    "paying the bridge toll with digital tokens",
    "what happens to worn polymer banknotes",
    "why did the fast payments network fail",
)
CORPUS_QUERIES = (
    "cash rate decision June 2013",
    "floods in Queensland and coal exports",
    "how the drought lowers rural production",
)

_ROW = "{:<10} {:>11} {:>7} {:>9} {:>7} {:>8}"
_COLUMNS = (
    ("documents", "documents"),
    ("chunks", "chunks"),
    ("embeddings", "embedded"),
    ("embeddings", "reused"),
    ("vectors", "vectors"),
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of all runs of one demo; seconds are wall time."""

    documents: int = 0
    chunks: int = 0
    vectors: int = 0
    embedded: int = 0
    reused: int = 0
    texts_quarantined: int = 0
    chunks_quarantined: int = 0
    tokens: int = 0
    requests: int = 0
    embedding_open_s: float = 0.0
    runs_s: float = 0.0


def run_demo(settings: Settings, neighbours: Neighbours, queries: Sequence[str]) -> None:
    """Materialise, account for every file and chunk, and search; database and service are up.

    Raises:
        RbaError: A run failed, or two counts that must be equal are not.
    """
    for name in neighbours.vector_store.migrate():
        click.echo(f"schema             {name}")
    busy_s = neighbours.embedding.client.busy_s()
    keys, found = partitions_to_materialise(settings, neighbours.source, neighbours.vector_store)
    click.echo(f"corpus             {settings.corpus} from {settings.source}")
    click.echo(f"files              {found.files:,}, {found.parsed:,} of them parsed now")
    results = _materialise(settings, keys)
    totals = _totals(results)
    quarantined = len(neighbours.source.catalogue(today()).quarantine())
    _print_totals(totals, quarantined, neighbours.embedding.client.busy_s() - busy_s)
    _account(settings, neighbours, keys, totals)
    _let_search_read_it(neighbours)
    for query in queries or _queries_for(settings):
        hits = search(
            query,
            embedding=neighbours.embedding,
            vector_store=neighbours.vector_store,
            k=3,
            filters=Filters(),
        )
        print_hits(query, hits)
    _evaluate(settings, neighbours)


def _materialise(settings: Settings, keys: list[str]) -> list[PartitionResult]:
    click.echo("partition    documents  chunks  embedded  reused  vectors")
    results = []
    for result in materialise(settings, keys):
        results.append(result)
        if result.failure and "DagsterExecutionInterruptedError" in result.failure:
            raise KeyboardInterrupt
        if result.failure:
            raise RbaError(f"partition {result.key}: {result.failure}")
        figures = [_figure(result, *column) for column in _COLUMNS]
        click.echo(_ROW.format(result.key, *figures))
    return results


def _figure(result: PartitionResult, asset: str, name: str) -> int:
    return int(result.metadata[asset][name])


def _totals(results: list[PartitionResult]) -> Totals:
    def total(asset: str, name: str) -> int:
        return sum(_figure(result, asset, name) for result in results)

    return Totals(
        documents=total("documents", "documents"),
        chunks=total("chunks", "chunks"),
        vectors=total("vectors", "vectors"),
        embedded=total("embeddings", "embedded"),
        reused=total("embeddings", "reused"),
        texts_quarantined=total("embeddings", "quarantined"),
        chunks_quarantined=total("vectors", "quarantined_chunks"),
        tokens=total("embeddings", "tokens"),
        requests=total("embeddings", "requests"),
        embedding_open_s=sum(result.embedding_open_s for result in results),
        runs_s=results[-1].ended - results[0].started if results else 0.0,
    )


def _print_totals(totals: Totals, files_quarantined: int, busy_s: float) -> None:
    rate = totals.embedded / totals.embedding_open_s if totals.embedding_open_s else 0.0
    click.echo(f"documents          {totals.documents:,}")
    click.echo(f"chunks             {totals.chunks:,}")
    click.echo(f"vectors            {totals.vectors:,}")
    click.echo(
        f"quarantined        {files_quarantined:,} files, {totals.texts_quarantined:,} texts"
    )
    click.echo(
        f"texts              {totals.embedded:,} embedded in {totals.requests:,} requests, "
        f"{totals.reused:,} reused"
    )
    click.echo(f"speed              {rate:.1f} chunks/s, {totals.tokens:,} tokens")
    click.echo(
        f"time               {totals.runs_s:.1f} s from the first run's start to the last one's "
        "end; "
        f"embeddings steps open {totals.embedding_open_s:.1f} s, engine busy {busy_s:.1f} s"
        + (f" (ratio {totals.embedding_open_s / busy_s:.2f})" if busy_s > 0 else "")
    )


def _account(settings: Settings, neighbours: Neighbours, keys: list[str], totals: Totals) -> None:
    """Count again where the rows are, and compare.

    Raises:
        RbaError: A file, a chunk or a row is missing or too many.
    """
    catalogue = neighbours.source.catalogue(today())
    quarantine = catalogue.quarantine()
    chunks = longest = 0
    info = neighbours.embedding.handshake()
    chunking_id = neighbours.chunking.settings(info).chunking_id
    for window in _windows(settings, keys):
        for batch in neighbours.records.chunk_batches(window, chunking_id):
            chunks += batch.num_rows
            longest = max([longest, *batch.column("tokens").to_pylist()])
    documents, rows = neighbours.vector_store.count(info.space.id)
    files = len(catalogue.entries)
    click.echo(
        f"accounted for      {files} files = {documents} published + {len(quarantine)} quarantined"
    )
    for name, reason in [(item.path, item.reason) for item in quarantine[:5]]:
        click.echo(f"  quarantined      {name}: {reason}")
    click.echo(
        f"chunks             {chunks:,} in Parquet, {rows:,} rows in Postgres, "
        f"{totals.chunks:,} in Dagster's metadata; the longest has {longest} tokens, "
        f"the model takes {info.max_tokens}"
    )
    counts = {chunks, rows + totals.chunks_quarantined, totals.chunks}
    if files != documents + len(quarantine) or len(counts) > 1 or longest > info.max_tokens:
        raise RbaError("these figures do not agree; this is a bug in rba_pipeline")


def _let_search_read_it(neighbours: Neighbours) -> None:
    """Activate the space of this demo's model: another one may have been in use before."""
    space, active = neighbours.embedding.handshake().space, neighbours.vector_store.active_space()
    if active is not None and active.id != space.id:
        neighbours.vector_store.activate(space.id)
        click.echo(
            f"search             reads the space of {space.model} now, not of {active.model}"
        )


def _windows(settings: Settings, keys: list[str]) -> list[Window]:
    partitions = partitions_by(settings.grain, settings.first_year)
    return [window_of(partitions, key) for key in keys]


def _queries_for(settings: Settings) -> Sequence[str]:
    return SAMPLE_QUERIES if Path(settings.source) == SAMPLE_CORPUS else CORPUS_QUERIES


def _evaluate(settings: Settings, neighbours: Neighbours) -> None:
    """Evaluate every file of known items that the corpus brings along."""
    if "://" in settings.source:
        return
    for file in sorted(Path(settings.source, "eval").glob("*.jsonl")):
        for filters in (Filters(), Filters(series="board-minutes")):
            found = evaluate(
                known_items(file),
                embedding=neighbours.embedding,
                vector_store=neighbours.vector_store,
                filters=filters,
            )
            print_quality(file.name, filters, found)
