"""Ranges of partitions, as Dagster writes them."""

import pytest

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.ranges import keys_in

KEYS = ["2011-01-01", "2012-01-01", "2013-01-01"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("2012-01-01", ["2012-01-01"], id="one"),
        pytest.param("2011-01-01...2012-01-01", KEYS[:2], id="both-ends-included"),
        pytest.param(" 2011-01-01 ... 2013-01-01 ", KEYS, id="spaces"),
        pytest.param("2013-01-01...2013-01-01", KEYS[2:], id="from-one-to-itself"),
    ],
)
def test_a_range_names_its_keys_in_order(text: str, expected: list[str]) -> None:
    assert keys_in(text, KEYS) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2010-01-01", "'2010-01-01' is no partition; allowed are 2011-01-01 to 2013-01-01"),
        ("2011-01-01...", "'' is no partition"),
        ("2011-01-01..2012-01-01", "is no partition"),
        ("2013-01-01...2011-01-01", "write 2011-01-01...2013-01-01"),
    ],
    ids=["unknown", "no-end", "two-dots", "backwards"],
)
def test_any_other_range_is_refused_with_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        keys_in(text, KEYS)
