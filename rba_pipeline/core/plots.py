"""Small pictures for a run's metadata, as SVG."""

from collections.abc import Sequence

_WIDTH, _HEIGHT = 480, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 36, 18, 18
_BATCH, _PARALLEL, _FRAME = "#1f77b4", "#d62728", "#767676"
# Where the highest values lie, as shares of the height: two even lines stay apart.
_BATCH_PEAK, _PARALLEL_PEAK = 0.9, 0.6


def pace_plot(steps: Sequence[tuple[float, int, int]], seconds: float) -> str:
    """Return a step plot of batch size (left scale) and requests in flight (right scale) over time.

    Args:
        steps: Since when, in seconds, which batch size and how many requests; ``n`` ≥ 1, in order
            of time.
        seconds: The end of the time axis.
    """
    end_s = max(seconds, steps[-1][0], 1e-3)
    largest = max(batch for _, batch, _ in steps)
    most = max(parallel for _, _, parallel in steps)
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def line(values: Sequence[int], peak: float, colour: str) -> str:
        # What was in force first was so from the beginning, whenever it was put to use.
        points = [(float(_LEFT), values[0])]
        for (at_s, _, _), before, value in zip(steps[1:], values, values[1:], strict=False):
            x = _LEFT + inner_width * at_s / end_s
            points += [(x, before), (x, value)]
        points.append((_LEFT + inner_width, values[-1]))
        path = " ".join(f"{x:.1f},{height(peak * y / max(values)):.1f}" for x, y in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'

    def height(share: float) -> float:
        return _TOP + inner_height * (1 - share)

    def label(x: int, y: float, text: str, colour: str, anchor: str) -> str:
        return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{text}</text>'

    bottom, right = _TOP + inner_height, _LEFT + inner_width
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="10">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{inner_width}" height="{inner_height}" '
        f'fill="none" stroke="{_FRAME}"/>',
        line([batch for _, batch, _ in steps], _BATCH_PEAK, _BATCH),
        line([parallel for _, _, parallel in steps], _PARALLEL_PEAK, _PARALLEL),
        label(_LEFT, _TOP - 6, "texts per request", _BATCH, "start"),
        label(right, _TOP - 6, "requests in flight", _PARALLEL, "end"),
        label(_LEFT - 4, height(_BATCH_PEAK) + 4, str(largest), _BATCH, "end"),
        label(right + 4, height(_PARALLEL_PEAK) + 4, str(most), _PARALLEL, "start"),
        label(_LEFT - 4, bottom, "0", _BATCH, "end"),
        label(right + 4, bottom, "0", _PARALLEL, "start"),
        label(_LEFT, bottom + 13, "0 s", _FRAME, "start"),
        label(right, bottom + 13, f"{end_s:.1f} s", _FRAME, "end"),
        "</svg>",
    ]
    return "".join(parts)
