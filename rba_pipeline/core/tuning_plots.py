"""What tuning found, as a picture and as lines for a terminal."""

from collections.abc import Sequence

from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tuning import Measurement, in_flight, sound_rates

_BAR_HEIGHT, _LABEL, _WIDTH, _RIGHT = 18, 64, 480, 130
_CHOSEN, _OTHER, _FAILED, _INK = "#1f77b4", "#aec7e8", "#d62728", "#333"
_CELLS = 40


def name_of(bounds: Bounds) -> str:
    """Return a setting as people write it: texts per request × requests in flight."""
    return f"{bounds.batch_size} × {bounds.parallel_batches}"


def rates_chart(past: Sequence[Measurement], chosen: Bounds) -> list[str]:
    """Return a bar of median chunks per second for each setting, from least to most in flight."""
    rows = _rows(past)
    most = max((rate for _, rate in rows if rate is not None), default=1.0)
    width = max(len(name_of(bounds)) for bounds, _ in rows)
    lines = []
    for bounds, rate in rows:
        mark = "  ← use this" if bounds == chosen else ""
        told = "refused" if rate is None else f"{rate:.1f} chunks/s"
        bar = "█" * max(1, round(_CELLS * rate / most)) if rate is not None else "×"
        lines.append(f"{name_of(bounds):>{width}}  {bar:<{_CELLS}}  {told}{mark}")
    return lines


def rates_plot(past: Sequence[Measurement], chosen: Bounds) -> str:
    """Return the same as SVG."""
    rows = _rows(past)
    most = max((rate for _, rate in rows if rate is not None), default=1.0)
    height = _BAR_HEIGHT * len(rows) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for place, (bounds, rate) in enumerate(rows):
        top = 4 + _BAR_HEIGHT * place
        room = _WIDTH - _LABEL - _RIGHT
        length = 2.0 if rate is None else max(2.0, room * rate / most)
        colour = _FAILED if rate is None else _CHOSEN if bounds == chosen else _OTHER
        told = "refused" if rate is None else f"{rate:.1f} chunks/s"
        parts += [
            f'<text x="{_LABEL - 6}" y="{top + 12}" text-anchor="end" fill="{_INK}">'
            f"{name_of(bounds)}</text>",
            f'<rect x="{_LABEL}" y="{top + 2}" width="{length:.1f}" height="{_BAR_HEIGHT - 4}" '
            f'fill="{colour}"/>',
            f'<text x="{_LABEL + length + 6:.1f}" y="{top + 12}" fill="{_INK}">{told}</text>',
        ]
    return "".join([*parts, "</svg>"])


def _rows(past: Sequence[Measurement]) -> list[tuple[Bounds, float | None]]:
    """Return every setting with its median rate; ``None`` where something was refused or failed."""
    rates = sound_rates(past)
    tried = sorted(
        {each.bounds for each in past},
        key=lambda bounds: (in_flight(bounds), bounds.batch_size),
    )
    return [(bounds, rates.get(bounds)) for bounds in tried]
