"""How results are shown on a terminal."""

import shutil
import textwrap
from collections.abc import Sequence

import click

from rba_pipeline.core.chunks import passage_of
from rba_pipeline.core.tuning_plots import name_of, rates_chart
from rba_pipeline.core.vectors import Hit, Quality
from rba_pipeline.doctor.findings import Finding
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.tune import Tuning


def print_hits(query: str, hits: Sequence[Hit], *, lines: int = 3) -> None:
    """Show title, date, section, score, passage and address of each hit, best first."""
    click.echo(f'\nsearch "{query}"')
    if not hits:
        click.echo("  nothing found: no document passes the filters")
    width = max(60, min(110, shutil.get_terminal_size().columns))
    for place, hit in enumerate(hits, start=1):
        where = f", page {hit.page}" if hit.page else ""
        section = f" — {hit.section}" if hit.section and hit.section != hit.title else ""
        click.echo(f"{place:>3}. {hit.score:.3f}  {hit.title}, {hit.published_on}{section}{where}")
        passage = " ".join(passage_of(hit.text).split())
        for line in textwrap.wrap(passage, width - 5, max_lines=lines, placeholder=" …"):
            click.echo(f"     {line}")
        click.echo(f"     {hit.url or hit.path}  [{hit.series}]")


def print_quality(name: str, filters: Filters, found: Quality) -> None:
    """Show the figures of one evaluation in one line."""
    among = f"within {filters.series}" if filters.series else "over all documents"
    click.echo(
        f"evaluation         {name}, {found.queries} queries {among}: "
        f"recall@1 {found.recall_at_1:.3f}, recall@10 {found.recall_at_10:.3f}, "
        f"MRR {found.mean_reciprocal_rank:.3f}"
    )


def print_finding(finding: Finding) -> None:
    """Show what was looked at, how it stands, and what to do."""
    click.echo(f"{finding.level:<8} {finding.about:<16} {finding.told}")


def print_tuning(found: Tuning, place: str | None) -> None:
    """Show a bar for each setting, the one to use, why no more were tried, and where it is kept."""
    preset = found.preset
    click.echo("")
    for line in rates_chart(found.past, preset.bounds):
        click.echo(line)
    click.echo(
        f"\nuse        {name_of(preset.bounds)}, {preset.rate:.1f} chunks/s\n"
        f"stopped    {preset.why}"
    )
    for note in found.notes:
        click.echo(f"note       {note}")
    if place is not None:
        click.echo(f"written    {place}: used by runs with preset tuned (EMBEDDING_PRESET=tuned)")
