"""Pictures are well-formed, stay within their frame, and show both lines."""

from xml.etree import ElementTree

import pytest

from rba_pipeline.core.plots import pace_plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        pytest.param([(0.0, 8, 2)], 4.0, id="one-setting"),
        pytest.param([(0.0, 8, 2), (1.0, 8, 4), (2.5, 4, 1)], 4.0, id="several"),
        pytest.param([(0.0, 1, 1)], 0.0, id="no-time-passed"),
        pytest.param([(0.0, 8, 2), (9.0, 16, 2)], 4.0, id="a-step-after-the-end"),
    ],
)
def test_both_lines_go_from_the_left_end_of_the_frame_to_the_right(
    steps: list[tuple[float, int, int]], seconds: float
) -> None:
    picture = ElementTree.fromstring(pace_plot(steps, seconds))

    _, frame = picture.findall(f"{SVG}rect")
    left, top = float(frame.get("x", "")), float(frame.get("y", ""))
    right, bottom = left + float(frame.get("width", "")), top + float(frame.get("height", ""))
    lines = picture.findall(f"{SVG}polyline")
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
        assert (points[0][0], points[-1][0]) == (left, right)
        assert all(left <= x <= right and top <= y <= bottom for x, y in points)


def test_a_step_is_drawn_at_its_time_and_height() -> None:
    picture = ElementTree.fromstring(pace_plot([(0.0, 8, 2), (2.0, 16, 2)], 4.0))

    batch, _ = picture.findall(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in batch.get("points", "").split()]
    middle = (points[0][0] + points[-1][0]) / 2
    corner = [y for x, y in points if x == middle]
    _, frame = picture.findall(f"{SVG}rect")
    bottom = float(frame.get("y", "")) + float(frame.get("height", ""))
    # Twice as high after it.
    assert len(corner) == 2
    assert bottom - corner[1] == pytest.approx(2 * (bottom - corner[0]), abs=0.2)


def test_two_even_lines_do_not_cover_each_other_and_begin_at_the_left() -> None:
    picture = ElementTree.fromstring(pace_plot([(0.4, 4, 3)], 2.0))

    batch, parallel = (line.get("points", "").split() for line in picture.iter(f"{SVG}polyline"))
    assert batch[0].split(",")[0] == parallel[0].split(",")[0] == "36.0"
    assert batch[0].split(",")[1] != parallel[0].split(",")[1]
