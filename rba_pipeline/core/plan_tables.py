"""A plan as people and programs read it: aligned lines, Markdown, JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rba_pipeline.core.plans import PartitionPlan, Plan, Totals, totals
from rba_pipeline.core.run_costs import RunCosts

# Groups of columns, each by name and alignment: with room for ten million chunks.
_GROUPS = (
    ("", (("partition", "<10"), ("state", "<7"))),
    ("documents", (("new", ">6"), ("changed", ">7"), ("gone", ">6"))),
    ("texts", (("embed", ">9"), ("reuse", ">9"), ("held", ">6"))),
    ("chunks", (("delete", ">9"),)),
    ("", (("tokens", ">13"), ("minutes", ">7"))),
)
_COLUMNS = tuple(column for _, columns in _GROUPS for column in columns)


def as_text(plan: Plan) -> str:
    """Return lines of at most 100 columns: one per partition that needs a run, their sum, the
    others in one line, and what the minutes were computed from.
    """
    lines = [
        _groups(),
        _line([name for name, _ in _COLUMNS]),
        *(_line(_cells(each, plan.costs)) for each in plan.needed),
    ]
    lines += [_line(cells) for cells in _sums(plan)]
    return "\n".join([*(line.rstrip() for line in lines), "", *_origins(plan)])


def as_markdown(plan: Plan) -> str:
    """Return the same as a table that Dagster's UI shows."""
    names = [f"{group} {name}".strip() for group, columns in _GROUPS for name, _ in columns]
    marks = [":--" if align.startswith("<") else "--:" for _, align in _COLUMNS]
    cells = [_cells(each, plan.costs) for each in plan.needed]
    rows = [names, marks, *cells, *_sums(plan)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*table, "", *(f"- {line}" for line in _origins(plan))])


def as_json(plan: Plan) -> dict[str, Any]:
    """Return everything: seconds are wall time, of each partition's run by itself, and of the runs
    as they are launched together; ``None`` where they are not known.
    """
    return {
        "partitions": [
            {
                "partition": each.key,
                "state": each.standing.state.value,
                "reasons": list(each.standing.reasons),
                "documents": each.standing.documents,
                "new": each.standing.new,
                "changed": each.standing.changed,
                "gone": each.standing.gone,
                **{name: value for name, value in asdict(each.work).items() if name != "cut_s"},
                "seconds": each.seconds,
            }
            for each in plan.partitions
        ],
        "needed": asdict(totals(plan.needed, plan.costs)),
        "unneeded": asdict(totals(plan.unneeded, plan.costs)),
        "parsed_files": plan.parsed,
        "costs": {**asdict(plan.costs), "way": plan.costs.way.value},
    }


def _cells(each: PartitionPlan, costs: RunCosts) -> list[str]:
    return [each.key, each.standing.state.value, *_figures(totals([each], costs))]


def _sums(plan: Plan) -> list[list[str]]:
    needed, others = (totals(each, plan.costs) for each in (plan.needed, plan.unneeded))
    named = [(f"{needed.partitions} needed", needed), (f"{others.partitions} current", others)]
    return [[name, "", *_figures(found)] for name, found in named]


def _figures(found: Totals) -> list[str]:
    counts = (
        found.new, found.changed, found.gone, found.embed, found.reuse, found.held, found.delete,
        found.tokens,
    )  # fmt: skip
    return [*(f"{count:,}" for count in counts), _minutes(found.seconds)]


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds / 60:,.2f}" if seconds < 600 else f"{seconds / 60:,.0f}"


def _origins(plan: Plan) -> list[str]:
    costs = plan.costs
    speed = f"{costs.rate:,.0f} tokens/s" if costs.rate else "unknown"
    return [
        f"minutes  of each run by itself; together: {costs.beside}",
        f"run      {costs.run_s:.1f} s, {costs.way.value} ({costs.run_from})",
        f"speed    {speed} ({costs.rate_from})",
    ]


def _groups() -> str:
    """Return the line of headings above that of the columns."""
    widths = [sum(int(align[1:]) + 1 for _, align in columns) - 1 for _, columns in _GROUPS]
    named = zip(_GROUPS, widths, strict=True)
    return " ".join(f"{group:>{width}}" for (group, _), width in named)


def _line(cells: Sequence[str]) -> str:
    return " ".join(f"{cell:{align}}" for cell, (_, align) in zip(cells, _COLUMNS, strict=True))
