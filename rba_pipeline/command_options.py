"""What several commands ask for in the same way."""

import sys
import time
from collections.abc import Callable

import click

from rba_pipeline.core.ranges import keys_in
from rba_pipeline.partitions import partitions_by
from rba_pipeline.settings import Settings

_LOG_EVERY_S = 10.0
_ONLY = {
    "missing": "nothing of them is searchable",
    "stale": "source, chunking or space changed since they were published, their record is lost "
    "(record), or a text in quarantine is to be sent again (retry)",
    "failed": "their last run failed or was cancelled",
}


def partitions_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--partitions`` and ``--all``; see ``named_keys``."""
    command = click.option("--all", "everything", is_flag=True, help="All partitions.")(command)
    return click.option(
        "--partitions", "range_text", metavar="KEY[...KEY]", help="Only these, both ends included."
    )(command)


def only_option(*choices: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds ``--only``, repeatable: partitions to which one of ``choices`` applies."""
    told = "; ".join(f"{each}: {_ONLY[each]}" for each in choices if each in _ONLY)
    return click.option(
        "--only",
        type=click.Choice(choices),
        multiple=True,
        default=["all"],
        show_default=True,
        help=f"{told}. Repeatable: --only missing --only stale is all that is not current.",
    )


def named_keys(range_text: str | None, settings: Settings) -> list[str] | None:
    """Return the partitions that a range names; ``None`` for all, if there is no range.

    Raises:
        BadSetting: An end of it is no partition, or it runs backwards.
    """
    if range_text is None:
        return None
    partitions = partitions_by(settings.grain, settings.first_year)
    return keys_in(range_text, partitions.get_partition_keys())


class ProgressLine:
    """Says on stderr how far the work is: on a terminal always, in a log every ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_s = clock()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` are done, if it is time to."""
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            click.echo(f"\r{done:,} of {total:,} {what}{end}", nl=False, err=True)
        elif self._clock() >= self._said_s + _LOG_EVERY_S:
            click.echo(f"{done:,} of {total:,} {what}", err=True)
            self._said_s = self._clock()
