"""The command ``rba-pipeline``: thin over the functions that the assets use."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from rba_pipeline import results, second_chances, stack
from rba_pipeline import search as searching
from rba_pipeline import tune as tuning
from rba_pipeline.backfill_commands import backfill
from rba_pipeline.command_options import ProgressLine, named_keys, only_option, partitions_options
from rba_pipeline.core import plan_tables
from rba_pipeline.core.errors import RbaError
from rba_pipeline.core.standings import State
from rba_pipeline.demo import run_demo
from rba_pipeline.doctor.examination import examine
from rba_pipeline.doctor.findings import Level
from rba_pipeline.dry_run import plan_partitions
from rba_pipeline.neighbours import Neighbours, neighbours
from rba_pipeline.resources.tuned_file import require_place, write_tuned
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.settings import SAMPLE_CORPUS, Settings

DAY = click.DateTime(["%Y-%m-%d"])


class Commands(click.Group):
    """Ends with one line, not a traceback, where the pipeline fails on purpose."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except RbaError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; what was embedded so far is kept", err=True)
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """RBA publications become searchable vectors: documents → chunks → embeddings → vectors."""


main.add_command(backfill)


@main.command()
@click.option("--source", help="Folder or fsspec URL of publications; default: the sample corpus.")
@click.option("--query", "queries", multiple=True, help="Search for this instead; repeatable.")
def demo(source: str | None, queries: tuple[str, ...]) -> None:
    """Materialise every partition that needs it, then count, search and stop what was started."""
    stack.load_environment()
    if source is None:
        # The sample is a corpus of its own, whatever the environment says of another one.
        os.environ.pop("RBA_CORPUS", None)
        source = str(SAMPLE_CORPUS)
    os.environ["RBA_SOURCE"] = source if "://" in source else str(Path(source).absolute())
    model = os.environ.get("EMBEDDING_MODEL")
    with stack.stopping_on_signals(), stack.database(), stack.service(model) as service:
        click.echo(
            f"embedding service  {service.url}{' (already running)' if service.attached else ''}"
        )
        settings = Settings.read(os.environ)
        with neighbours(settings) as found:
            run_demo(settings, found, queries)


@main.command()
@click.option("--source", help="Folder or fsspec URL of publications to serve from now on.")
def up(source: str | None) -> None:
    """Run database, embedding service, web interface and daemon until Ctrl-C."""
    stack.up(source)


@main.command()
def migrate() -> None:
    """Bring the database's schema to the version that this code works with."""
    with _opened() as found:
        applied = found.vector_store.migrate()
    for name in applied:
        click.echo(name)
    click.echo(f"{len(applied)} steps applied, the schema is up to date")


def _corpus_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--corpus", help="Default: RBA_CORPUS, or the source folder's name.")(
        command
    )


@main.command()
@click.argument("query")
@_corpus_option
@click.option("--series", help="Only this kind of publication, e.g. board-minutes or speech.")
@click.option("--from", "first_day", type=DAY, help="Filed on this day or later.")
@click.option("--to", "last_day", type=DAY, help="Filed on this day or earlier.")
@click.option("-k", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many.")
def search(
    query: str,
    corpus: str | None,
    series: str | None,
    first_day: datetime | None,
    last_day: datetime | None,
    k: int,
) -> None:
    """Show the passages closest to QUERY: title, date, section, score, passage, address."""

    if not query.strip():
        raise click.BadParameter("the query is empty", param_hint="QUERY")
    filters = Filters(
        series,
        first_day.date() if first_day else None,
        last_day.date() if last_day else None,
    )
    with _opened(corpus, serving=True) as found:
        hits = searching.search(
            query, embedding=found.embedding, vector_store=found.vector_store, k=k, filters=filters
        )
    results.print_hits(query, hits)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_corpus_option
@click.option("--series", help="Rank only documents of this kind.")
def evaluate(file: Path, corpus: str | None, series: str | None) -> None:
    """Print recall@1, recall@10 and MRR over the known-item queries of FILE (JSON Lines)."""

    filters = Filters(series=series)
    items = searching.known_items(file)
    with _opened(corpus, serving=True) as found:
        quality = searching.evaluate(
            items, embedding=found.embedding, vector_store=found.vector_store, filters=filters
        )
    results.print_quality(file.name, filters, quality)


@main.command()
@partitions_options
@only_option("missing", "stale", "all")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@_corpus_option
def plan(
    range_text: str | None,
    everything: bool,
    only: Sequence[str],
    as_json: bool,
    corpus: str | None,
) -> None:
    """Show what runs of the partitions would do right now, and how many minutes they would take.

    Nothing is embedded or published: new files are parsed, documents that changed are cut in
    memory, all else is looked up. The counts are those that runs started now would report, one
    after the other in order of their keys: a text that two partitions of a calendar year share is
    embedded by the first and reused by the second.

    \b
    documents  new, changed and gone in each partition, compared with what search has; one whose
               date moved is gone in one partition and new in another
    texts      distinct ones: to embed, with a vector already, held in quarantine
    chunks     that search would lose, those of changed documents among them

    Minutes are wall time, with every step in a process of its own: of each partition by itself,
    and in the sums of all together as a backfill launches them, so many side by side, and so many
    of them embedding, as dagster.yaml lets in. They follow from the tokens to embed and the speed
    of earlier runs; where there are none, from the service's own figures; where it has not worked
    yet, or works at quite another speed than in earlier runs, some texts are embedded for a few
    seconds, and their vectors thrown away. What a run costs besides is the median of earlier ones,
    less what they waited for, and what others beside them took. The next run of a partition
    reports how far they were off, in the metadata of `vectors`: predicted_minutes, real_minutes
    and prediction_error.
    """
    if range_text is not None and everything:
        raise click.UsageError("name the partitions, or say --all")
    stack.load_environment()
    # Before anything is started for it.
    keys = named_keys(range_text, Settings.read(os.environ))
    states = tuple(State) if "all" in only else tuple(State(each) for each in only)
    with _opened(corpus, serving=True) as found:
        settings = Settings.read(os.environ)
        made = plan_partitions(settings, found, keys, ProgressLine(), states=states)
    if as_json:
        click.echo(json.dumps(plan_tables.as_json(made), indent=2))
    else:
        click.echo(plan_tables.as_text(made))


@main.group(invoke_without_command=True)
@_corpus_option
@click.pass_context
def quarantine(context: click.Context, corpus: str | None) -> None:
    """List the files, texts and chunks that are not searchable, and why.

    \b
    document  a file that cannot become one; its line says what to change
    text      without a vector; `retry` and `forget` are for these alone
    chunk     refused by the database; tried again whenever its partition is published
    """
    context.obj = corpus
    if context.invoked_subcommand is not None:
        return
    with _opened(corpus) as found:
        entries = found.vector_store.quarantine()
    for entry in entries:
        place = f"{entry.window_start} to {entry.window_end}: " if entry.kind == "text" else ""
        runs = f"\truns in vain: {entry.attempts}" if entry.kind == "text" else ""
        click.echo(f"{entry.kind}\t{entry.name}\t{entry.reason}\t{place}{entry.detail}{runs}")
    click.echo(f"{len(entries)} in quarantine", err=True)


def _names(command: Callable[..., None]) -> Callable[..., None]:
    named = click.argument("names", nargs=-1, metavar="[NAME]...")(command)
    return click.option("--all", "everything", is_flag=True, help="All texts in quarantine.")(named)


@quarantine.command()
@_names
@_corpus_option
@click.pass_obj
def retry(group: str | None, names: tuple[str, ...], everything: bool, corpus: str | None) -> None:
    """Send the texts NAME again when their partitions run next."""
    with _opened(corpus or group) as found:
        windows = second_chances.retry(
            found.embedding_store, found.vector_store, _asked_for(names, everything)
        )
    for window in windows:
        click.echo(f"materialise partition {window.partition('_')[0]} to send them again")


@quarantine.command()
@_names
@_corpus_option
@click.pass_obj
def forget(group: str | None, names: tuple[str, ...], everything: bool, corpus: str | None) -> None:
    """Take the texts NAME off the list, and never send them again; retry NAME takes it back."""
    with _opened(corpus or group) as found:
        windows = second_chances.forget(
            found.embedding_store, found.vector_store, _asked_for(names, everything)
        )
    click.echo(f"forgotten in {len(windows)} partitions; they stay out of search")


def _asked_for(names: tuple[str, ...], everything: bool) -> tuple[str, ...] | None:
    """Return the names, or ``None`` for all of them; refuse both and neither."""
    if bool(names) == everything:
        raise click.UsageError("name the texts, as `quarantine` lists them, or say --all")
    return None if everything else names


@main.command()
def doctor() -> None:
    """Look at configuration, service, database, Dagster, record and source; change nothing.

    One line for each: ok, warning, or FAILED, and what to do. Ends with 1 if anything FAILED.
    """
    stack.seen_environment()
    findings = []
    for finding in examine(stack.project_root(), os.environ):
        results.print_finding(finding)
        findings.append(finding.level)
    if Level.FAILED in findings:
        sys.exit(1)


@main.command("tune")
@_corpus_option
@click.option(
    "--texts",
    type=click.IntRange(1, 100_000),
    default=512,
    show_default=True,
    help="Different texts that are sent, again and again.",
)
@click.option(
    "--seconds-per-setting",
    "seconds",
    type=click.FloatRange(0.1, 600),
    default=5.0,
    show_default=True,
    help="How long each setting is measured.",
)
@click.option("--out", help="Write here; default: RBA_TUNED_PRESET, or tuned.json in RBA_STORE.")
@click.option("--dry-run", is_flag=True, help="Measure, and write nothing.")
def tune_setting(
    corpus: str | None, texts: int, seconds: float, out: str | None, dry_run: bool
) -> None:
    """Find the fastest batch size and parallelism, and keep them as preset 'tuned'.

    Chunks of the corpus, or of the sample corpus if there are none yet, go through the embedding
    service at one setting after the other, from small ones upwards, until more is not faster,
    something is refused, or the machine is full. No vector is stored. The file is replaced at the
    end, so that an interruption leaves the earlier one.
    """
    plan = tuning.Plan(texts, seconds)
    with _opened(corpus, serving=True) as found:
        place = out or found.embedding.tuned_file
        if not dry_run:
            require_place(place)
        sampled = tuning.sample_texts(found.records, found.chunking, str(SAMPLE_CORPUS), texts)
        tuned = tuning.tune(found.embedding, sampled, plan, click.echo)
        if not dry_run:
            write_tuned(place, tuned.preset)
    results.print_tuning(tuned, None if dry_run else place)


@main.group()
def spaces() -> None:
    """The embedding spaces of a corpus: which there are, and which one search reads."""


@spaces.command("list")
@_corpus_option
def list_spaces(corpus: str | None) -> None:
    """List the spaces with their model, dimensions and searchable chunks."""
    with _opened(corpus) as found:
        for held in found.vector_store.spaces():
            mark = "active" if held.is_active else ""
            about = f"{held.space.id}  {held.space.model}  {held.space.dimensions} dimensions"
            click.echo(f"{about}  {held.rows} chunks  {mark}{_index_mark(held.is_indexed)}")


@spaces.command()
@click.argument("space")
@_corpus_option
def activate(space: str, corpus: str | None) -> None:
    """Let search read SPACE from now on."""
    with _opened(corpus) as found:
        found.vector_store.activate(space)


@spaces.command("index")
@click.option("--drop", is_flag=True, help="Remove it instead: search is exact again.")
@_corpus_option
def index_space(drop: bool, corpus: str | None) -> None:
    """Build the approximate index over the active space, for a corpus of very many passages."""
    with _opened(corpus) as found:
        if drop:
            found.vector_store.drop_index()
            click.echo("search is exact")
        elif found.vector_store.build_index():
            click.echo("the index is built, search uses it")
        else:
            click.echo("the index was whole already")


@spaces.command()
@_corpus_option
def prune(corpus: str | None) -> None:
    """Delete the vectors of all spaces but the active one; the record in Parquet stays."""
    with _opened(corpus) as found:
        click.echo(f"{found.vector_store.prune()} rows deleted")


def _index_mark(is_indexed: bool | None) -> str:
    if is_indexed is None:
        return ""
    if is_indexed:
        return "  indexed"
    return "  index unfinished, search is exact: run 'rba-pipeline spaces index'"


@contextmanager
def _opened(corpus: str | None = None, *, serving: bool = False) -> Iterator[Neighbours]:
    """Hold the neighbours for the block, with the database and, if ``serving``, the service
    running.
    """
    stack.load_environment()
    if corpus:
        os.environ["RBA_CORPUS"] = corpus
    with ExitStack() as running:
        running.enter_context(stack.stopping_on_signals())
        running.enter_context(stack.database())
        if serving:
            running.enter_context(stack.service(os.environ.get("EMBEDDING_MODEL")))
        yield running.enter_context(neighbours(Settings.read(os.environ)))


if __name__ == "__main__":
    main(prog_name="rba-pipeline")
