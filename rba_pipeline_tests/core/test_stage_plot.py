"""Bars are well-formed, within the picture, as long as their time, and in colours of their own."""

from xml.etree import ElementTree

import pytest

from rba_pipeline.core.stage_plot import stage_plot
from rba_pipeline.core.stages import ABOUT, Stage

SVG = "{http://www.w3.org/2000/svg}"
BAR = "24"


def drawn(svg: str) -> list[tuple[float, float, float, str]]:
    """Return x, y, width and colour of each piece of a bar."""
    return [
        (*(float(rect.get(name, "")) for name in ("x", "y", "width")), rect.get("fill", ""))
        for rect in ElementTree.fromstring(svg).findall(f"{SVG}rect")
        if rect.get("height") == BAR
    ]


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).findall(f"{SVG}text")]


def test_bars_to_scale_are_as_long_as_their_time() -> None:
    long, short = {Stage.PARSING: 1.0, Stage.COMPUTING: 3.0}, {Stage.APPLYING: 2.0}

    svg = stage_plot([("embeddings", long), ("vectors", short)], to_scale=True)

    (x1, y1, w1, _), (x2, y2, w2, _), (x3, y3, w3, _) = drawn(svg)
    assert y1 == y2 < y3
    assert x1 == x3
    assert x2 == pytest.approx(x1 + w1, abs=0.1)
    assert w2 == pytest.approx(3 * w1, abs=0.2)
    assert w3 == pytest.approx(2 * w1, abs=0.2)


def test_bars_without_a_scale_are_equally_long() -> None:
    bars = [("wall time", {Stage.HTTP: 1.0}), ("requests", {Stage.HTTP: 2.0, Stage.COMPUTING: 6.0})]

    svg = stage_plot(bars, to_scale=False)

    (_, _, whole, _), (_, _, http, _), (_, _, computing, _) = drawn(svg)
    assert http + computing == pytest.approx(whole, abs=0.2)
    assert {"1.0 s", "8.0 s"} <= set(texts(svg))


def test_all_stages_at_once_stay_in_the_picture_each_with_its_colour_and_name() -> None:
    svg = stage_plot([("embeddings", dict.fromkeys(Stage, 1.0))], to_scale=True)

    root = ElementTree.fromstring(svg)
    pieces = drawn(svg)
    assert len({colour for *_, colour in pieces}) == len(pieces) == len(Stage)
    assert {about.label for about in ABOUT.values()} <= set(texts(svg))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for rect in root.findall(f"{SVG}rect"):
        assert float(rect.get("x", "0")) + float(rect.get("width", "")) <= width
        assert float(rect.get("y", "0")) + float(rect.get("height", "")) <= height


@pytest.mark.parametrize("seconds", [{}, {Stage.HTTP: 0.0}], ids=["nothing", "no-time"])
def test_a_bar_without_time_has_a_name_and_no_piece(seconds: dict[Stage, float]) -> None:
    svg = stage_plot([("documents", seconds)], to_scale=True)

    assert drawn(svg) == []
    assert texts(svg) == ["documents", "0.0 s"]
