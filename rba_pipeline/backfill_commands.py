"""The command ``rba-pipeline backfill``: a real Dagster backfill, launched and followed."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import click
import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus

from rba_pipeline import backfilling, stack
from rba_pipeline.backfilling import ONLY, Choice
from rba_pipeline.command_options import ProgressLine, named_keys, only_option, partitions_options
from rba_pipeline.core import plan_tables
from rba_pipeline.core.presets import RANGES, Preset
from rba_pipeline.dagster_instance import dagster_instance
from rba_pipeline.definitions import build_defs, check_run_config
from rba_pipeline.display import Display
from rba_pipeline.dry_run import planner_of
from rba_pipeline.following import Follower, backfill_named, follow
from rba_pipeline.local_service import addresses_file
from rba_pipeline.neighbours import neighbours
from rba_pipeline.planning import Planner
from rba_pipeline.settings import Settings


def _number(text: str) -> int | str:
    """Return a whole number; anything else is left to Dagster, whose message every way has."""
    try:
        return int(text)
    except ValueError:
        return text


def _range(name: str) -> str:
    low, high, unit = RANGES[name]
    return f"{low} to {high} {unit}; default: EMBEDDING_{name.upper()}, or from the preset."


@click.group(invoke_without_command=True)
@partitions_options
@click.option("--preset", metavar=f"[{'|'.join(Preset)}]", help="Default: EMBEDDING_PRESET.")
@click.option("--batch-size", type=_number, metavar="NUMBER", help=_range("batch_size"))
@click.option("--parallel-batches", type=_number, metavar="NUMBER", help=_range("parallel_batches"))
@only_option(*ONLY)
@click.option("--dry-run", is_flag=True, help="Show what the runs would do, and launch nothing.")
@click.option("--detach", is_flag=True, help="Launch, and do not wait.")
@click.pass_context
def backfill(
    context: click.Context,
    range_text: str | None,
    everything: bool,
    preset: str | None,
    batch_size: int | str | None,
    parallel_batches: int | str | None,
    only: Sequence[str],
    dry_run: bool,
    detach: bool,
) -> None:
    """Run many partitions as one Dagster backfill, and follow it.

    Dagster's daemon makes the runs (make up has one), as many at a time, and as many of them
    embedding, as dagster.yaml lets in; the backfill is in the web interface under Backfills.
    Partitions of which a run is under way are left out. Ctrl-C ends the following, not the
    backfill.

    Ends with 0 if every partition is green or there is nothing to do, with 1 if one failed or was
    cancelled, with 130 after Ctrl-C.
    """
    if context.invoked_subcommand is not None:
        return
    if (range_text is None) == (not everything):
        raise click.UsageError("name the partitions with --partitions KEY...KEY, or say --all")
    run_config = backfilling.embedding_config(
        preset=preset, batch_size=batch_size, parallel_batches=parallel_batches
    )
    stack.load_environment()
    settings = Settings.read(os.environ)
    # Before anything is asked or started for it.
    keys = named_keys(range_text, settings)
    check_run_config(build_defs(settings), run_config)
    with _instance() as instance:
        if not dry_run:
            backfilling.require_daemon(instance)
        with _planner(settings, instance, starting=dry_run) as planner:
            choice = _chosen(planner, keys, only)
            if choice.keys and dry_run:
                _show_plan(planner, choice, run_config)
        if choice.keys and not dry_run:
            name = backfilling.launch(instance, choice.keys, run_config)
            click.echo(f"backfill {name} of {len(choice.keys)} partitions{_page(name)}")
            if not detach:
                _follow(instance, name)


@backfill.command("follow")
@click.argument("name", metavar="BACKFILL")
def follow_backfill(name: str) -> None:
    """Follow the backfill with this id until it has ended; exit status as `backfill`."""
    with _instance() as instance:
        _follow(instance, name)


@backfill.command("cancel")
@click.argument("name", metavar="BACKFILL")
def cancel_backfill(name: str) -> None:
    """Cancel the backfill with this id: no more runs begin, those under way end."""
    with _instance() as instance:
        found = backfill_named(instance, name)
        if found.status is not BulkActionStatus.REQUESTED:
            click.echo(f"backfill {name} is {found.status.value.lower()}: nothing to cancel")
            return
        # Also without a daemon: one that starts makes no more runs then.
        instance.update_backfill(found._replace(status=BulkActionStatus.CANCELING))
        backfilling.require_daemon(instance, "it is cancelled as soon as one runs")
    click.echo(f"backfill {name} is being cancelled; what was embedded so far is kept")


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    """Have Dagster's instance for the block, with the database that it is kept in."""
    stack.load_environment()
    with stack.stopping_on_signals(), stack.database(), dagster_instance() as instance:
        yield instance


@contextmanager
def _planner(
    settings: Settings, instance: dg.DagsterInstance, *, starting: bool
) -> Iterator[Planner]:
    """Have who judges partitions for the block; ``starting``: with a service, where none runs.

    Runs use the service that is named: to start another one for who only asks would hide that
    theirs is gone.
    """
    with ExitStack() as running:
        if starting:
            service = running.enter_context(stack.service(os.environ.get("EMBEDDING_MODEL")))
            settings = replace(settings, api_url=service.url)
        found = running.enter_context(neighbours(settings))
        yield planner_of(settings, found, instance)


def _chosen(planner: Planner, keys: Sequence[str] | None, only: Sequence[str]) -> Choice:
    """Return the partitions to run, and say what was left out of those asked for."""
    choice = backfilling.choose(planner.instance, lambda: planner.judge(keys, ProgressLine()), only)
    if choice.busy:
        click.echo(f"left out, because a run of them is under way: {', '.join(choice.busy)}")
    if choice.missing and "stale" in only:
        click.echo(
            f"left out, because they are missing, not stale: {len(choice.missing)} partitions; "
            "--only missing --only stale takes both"
        )
    if choice.busy and not choice.keys:
        click.echo("nothing to do: all of them have a run under way")
    elif not choice.keys:
        click.echo(f"nothing to do: no partition is {' or '.join(only)}" if "all" not in only
                   else "nothing to do: there is no partition with a document")  # fmt: skip
    return choice


def _show_plan(planner: Planner, choice: Choice, run_config: Mapping[str, Any]) -> None:
    made = planner.plan_of(choice.judged, choice.keys, ProgressLine())
    for key in choice.keys:
        click.echo(f"{key}  {choice.reasons[key]}")
    click.echo(f"\n{plan_tables.as_text(made)}")
    click.echo(
        f"a backfill would run these {len(choice.keys)} partitions with the run config "
        f"{json.dumps(run_config)}; nothing was launched"
    )
    if run_config:
        click.echo("the minutes do not depend on this run config: they follow from the speed above")
    if made.unneeded:
        click.echo(f"{len(made.unneeded)} of them are current: nothing would change in those")


def _follow(instance: dg.DagsterInstance, name: str) -> None:
    """Show how a backfill goes on until it has ended, and end this process with its status."""
    display = Display(is_terminal=sys.stdout.isatty())
    try:
        status = follow(Follower(instance, name), display.say, display.show)
    except KeyboardInterrupt:
        display.say(
            f"the backfill goes on; `rba-pipeline backfill follow {name}` follows it again, "
            f"`rba-pipeline backfill cancel {name}` cancels it"
        )
        sys.exit(130)
    finally:
        display.close()
    sys.exit(status)


def _page(name: str) -> str:
    """Return where the web interface of a running ``up`` shows the backfill."""
    try:
        told = json.loads(addresses_file(stack.project_root()).read_text())
        return f": {told['webserver']}/runs/b/{name}"
    except (OSError, ValueError, KeyError):
        return ""
