"""What several commands ask for in the same way."""

import sys
from collections.abc import Callable

import click

from rba_pipeline.core.ranges import keys_in
from rba_pipeline.definitions import Settings
from rba_pipeline.partitions import partitions_by


def partitions_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--partitions`` and ``--all``; see ``named_keys``."""
    command = click.option("--all", "everything", is_flag=True, help="All partitions.")(command)
    return click.option(
        "--partitions", "range_text", metavar="KEY[...KEY]", help="Only these, both ends included."
    )(command)


def named_keys(range_text: str | None, settings: Settings) -> list[str] | None:
    """Return the partitions that a range names; ``None`` for all, if there is no range.

    Raises:
        BadSetting: An end of it is no partition, or it runs backwards.
    """
    if range_text is None:
        return None
    partitions = partitions_by(settings.grain, settings.first_year)
    return keys_in(range_text, partitions.get_partition_keys())


def say_progress(what: str, done: int, total: int) -> None:
    """Say on a terminal how far the work is."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        click.echo(f"\r{done:,} of {total:,} {what}{end}", nl=False, err=True)
