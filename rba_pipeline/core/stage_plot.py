"""Where time went, as bars of stages in SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType

from rba_pipeline.core.stages import ABOUT, Stage

_WIDTH, _LEFT, _RIGHT = 640, 84, 64
_BAR, _GAP, _TOP = 24, 10, 10
_COLUMNS, _LEGEND_LINE = 3, 18
# Levels by hue, stages by lightness: orange the client, blue HTTP, green the model, purple the
# record, red the database, grey other runs. Neighbours also differ in lightness, for eyes and
# printers without hue.
_COLOURS: Mapping[Stage, str] = MappingProxyType(
    {
        Stage.PREPARING: "#fde3b8",
        Stage.LISTING: "#f7c56b",
        Stage.PARSING: "#e69500",
        Stage.CUTTING: "#7a4a00",
        Stage.DECODING: "#f4a582",
        Stage.HTTP: "#2b83ba",
        Stage.WAITING: "#7fbf9b",
        Stage.QUEUEING: "#a6dba0",
        Stage.COMPUTING: "#1b7837",
        Stage.HELD: "#d9ef8b",
        Stage.READING: "#762a83",
        Stage.CHECKING: "#e7d4e8",
        Stage.WRITING: "#9970ab",
        Stage.STAGING: "#e0574f",
        Stage.APPLYING: "#99000d",
        Stage.DATABASE: "#fcc5c0",
        Stage.LOCKING: "#969696",
    }
)
_INK = "#333"


def stage_plot(bars: Sequence[tuple[str, Mapping[Stage, float]]], *, to_scale: bool) -> str:
    """Return one horizontal bar for each of ``bars``, its stages side by side, and a legend.

    Args:
        bars: Name and seconds by stage; ``n`` ≥ 1, from top to bottom.
        to_scale: Draw all bars against the longest one; else each in its full width.
    """
    totals = [sum(seconds.values()) for _, seconds in bars]
    used = [stage for stage in ABOUT if any(each.get(stage, 0.0) > 0 for _, each in bars)]
    legend_top = _TOP + len(bars) * (_BAR + _GAP)
    height = legend_top + -(-len(used) // _COLUMNS) * _LEGEND_LINE + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for row, ((name, seconds), total) in enumerate(zip(bars, totals, strict=True)):
        whole = max(totals) if to_scale else total
        parts += _bar(name, seconds, top=_TOP + row * (_BAR + _GAP), whole=whole)
    for place, stage in enumerate(used):
        row, column = divmod(place, _COLUMNS)
        parts += _legend(stage, column, legend_top + row * _LEGEND_LINE)
    return "".join([*parts, "</svg>"])


def _bar(name: str, seconds: Mapping[Stage, float], *, top: int, whole: float) -> list[str]:
    middle = top + _BAR / 2 + 4
    parts = [_text(_LEFT - 8, middle, name, anchor="end")]
    x = float(_LEFT)
    for stage in ABOUT:
        width = (_WIDTH - _LEFT - _RIGHT) * seconds.get(stage, 0.0) / (whole or 1.0)
        if width >= 0.05:
            parts.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" '
                f'fill="{_COLOURS[stage]}"><title>{escape(ABOUT[stage].label)}: '
                f"{seconds[stage]:.2f} s</title></rect>"
            )
        x += width
    total = sum(seconds.values())
    return [*parts, _text(x + 6, middle, f"{total:.1f} s" if total < 1000 else f"{total:.0f} s")]


def _legend(stage: Stage, column: int, top: int) -> list[str]:
    x = 12 + column * (_WIDTH - 12) // _COLUMNS
    return [
        f'<rect x="{x}" y="{top}" width="12" height="12" fill="{_COLOURS[stage]}"/>',
        _text(x + 18, top + 10, ABOUT[stage].label),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}" text-anchor="{anchor}">{escape(text)}</text>'
    )
