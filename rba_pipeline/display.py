"""What a command that waits shows: a line per change, and the last line for how far it is."""

import shutil
from collections.abc import Mapping

import click

from rba_pipeline.core.backfill_progress import Progress


class Display:
    """A line per change; on a terminal, how far it is stays in the last line."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._shown = ""
        self._stages: Mapping[str, object] = {}

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._clear()
        click.echo(line)

    def show(self, progress: Progress) -> None:
        """Show how far it is; off a terminal, only if a partition went on."""
        if self._is_terminal:
            self._clear()
            # What is longer than a line could not be taken back.
            self._shown = str(progress)[: shutil.get_terminal_size().columns - 1]
            click.echo(self._shown, nl=False)
        elif progress.stages != self._stages:
            click.echo(str(progress))
        self._stages = progress.stages

    def close(self) -> None:
        """End the last line."""
        if self._shown:
            click.echo()
            self._shown = ""

    def _clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False)
            self._shown = ""
