"""The bars of a tuning, on a terminal and as a picture."""

from xml.etree import ElementTree

from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tuning import Measurement
from rba_pipeline.core.tuning_plots import rates_chart, rates_plot

PAST = [
    Measurement(Bounds(4, 2), 10.0, 5),
    Measurement(Bounds(16, 4), 40.0, 5),
    Measurement(Bounds(8, 2), 20.0, 5),
    Measurement(Bounds(8, 2), 22.0, 5),
    Measurement(Bounds(32, 4), 0.0, 5, refusals=2),
]


def test_a_bar_for_each_setting_from_least_to_most_in_flight_and_a_mark_at_the_one_to_use() -> None:
    lines = rates_chart(PAST, Bounds(16, 4))

    assert [line.split("  ")[0].strip() for line in lines] == ["4 × 2", "8 × 2", "16 × 4", "32 × 4"]
    assert [line.count("█") for line in lines] == [10, 21, 40, 0]
    assert "21.0 chunks/s" in lines[1]
    assert lines[2].endswith("← use this")
    assert "refused" in lines[3]


def test_the_picture_is_well_formed_and_has_a_bar_and_two_words_for_each_setting() -> None:
    tree = ElementTree.fromstring(rates_plot(PAST, Bounds(16, 4)))

    names = [child.tag.rpartition("}")[2] for child in tree]
    assert names.count("rect") == 5
    assert [child.text for child in tree if child.text][-1] == "refused"
    bars = [float(child.get("width", 0)) for child in tree if child.tag.endswith("rect")][1:]
    assert max(bars) == bars[2]
