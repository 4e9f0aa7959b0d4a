"""The table of ``benchmarks.engine``: who is how far from whom, and what that says."""

from collections.abc import Sequence

from benchmarks.reports import Goal, Spread, goals_table, table
from benchmarks.roofline import Roofline

_HTTP_SHARE, _PEAK_SHARE, _PADDING_SHARE = 0.95, 0.85, 0.05
_WITH_A_PEAK_TO_REACH = ("fp32", "bf16")
# Of one core: more than this, and the other side was not measured alone.
_IDLE_CORES = 0.05
_BOUND_BY_THE_MODEL = 0.9
_HEADINGS = (
    "precision", "HTTP tokens/s", "loop tokens/s", "HTTP/loop", "padding", "model busy",
    "peak GFLOP/s", "loop/peak", "without attention",
)  # fmt: skip
_NOTE = (
    "loop/peak: two operations for each weight of a layer's matrices and token, and attention's\n"
    "two products over each text's own length. The peak is the faster of torch and OpenVINO on\n"
    "each matrix of the model. Padding: share of the HTTP load's operations, so counted, that no\n"
    "text needed. Model busy: share of the HTTP load's seconds."
)


def text(rooflines: Sequence[Roofline]) -> str:
    """Return the table, what it says about the goals, and what it warns of."""
    parts = [table(_HEADINGS, [_row(roofline) for roofline in rooflines]), _NOTE]
    parts.append("\n".join(_bound(roofline) for roofline in rooflines))
    parts.append(goals_table(goals(rooflines)))
    return "\n\n".join(parts + invalid(rooflines)) + "\n"


def goals(rooflines: Sequence[Roofline]) -> list[Goal]:
    """Return what was promised of the precisions that were measured; shares, of a CPU only."""
    found = []
    for roofline in rooflines:
        name = roofline.precision
        if roofline.device == "cpu":
            found += _shares(roofline)
        padding = max(r.padding_share for r in roofline.rounds)
        found.append(Goal(f"{name}: padding", padding, _PADDING_SHARE, at_most=True))
    return found


def _shares(roofline: Roofline) -> list[Goal]:
    name, http = roofline.precision, roofline.http_share().middle
    found = [Goal(f"{name}: HTTP service, share of the bare loop", http, _HTTP_SHARE)]
    if name in _WITH_A_PEAK_TO_REACH:
        peak = roofline.peak_share(attention=True).middle
        found.append(Goal(f"{name}: bare loop, share of the matrix peak", peak, _PEAK_SHARE))
    return found


def _row(roofline: Roofline) -> list[str]:
    rounds = roofline.rounds
    peak = roofline.peak()
    return [
        roofline.precision,
        str(roofline.tokens_per_s([r.http_s for r in rounds])),
        str(roofline.tokens_per_s([r.loop_s for r in rounds])),
        str(roofline.http_share()),
        f"{max(r.padding_share for r in rounds):.1%}",
        str(Spread.of([r.busy_share for r in rounds])),
        str(Spread(peak.middle / 1e9, peak.least / 1e9, peak.most / 1e9)),
        str(roofline.peak_share(attention=True)),
        str(roofline.peak_share(attention=False)),
    ]


def _bound(roofline: Roofline) -> str:
    """Return the sentence that says where a faster service would have to come from."""
    name = roofline.precision
    busy = Spread.of([r.busy_share for r in roofline.rounds]).middle
    if busy < _BOUND_BY_THE_MODEL:
        return (
            f"{name} over HTTP is bounded by what surrounds the model (tokenising, JSON, HTTP, "
            f"clients): the model had work {busy:.0%} of the time"
        )
    http = roofline.http_share().middle
    if http < _HTTP_SHARE:
        return (
            f"{name} over HTTP is bounded by cores that are shared: the model had work {busy:.0%} "
            f"of the time, but its passes take {busy / http:.2f} times as long beside tokenising, "
            "JSON, HTTP and the clients"
        )
    peak = roofline.peak_share(attention=True).middle
    return (
        f"{name} over HTTP is bounded by the model, which had work {busy:.0%} of the time and "
        f"does {peak:.0%} of what bare matrices do"
    )


def invalid(rooflines: Sequence[Roofline]) -> list[str]:
    """Return why the figures are worth nothing; nothing where they are worth something."""
    busy = {
        roofline.precision: max(r.idle_cores for r in roofline.rounds) for roofline in rooflines
    }
    return [
        f"INVALID: while the {precision} loop ran, the idle server used {cores:.2f} cores"
        for precision, cores in busy.items()
        if cores > _IDLE_CORES
    ]
