"""Windows of filing dates: every day is in one, and key and window agree."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.partitions import CRON_BY_GRAIN, key_of, partitions_by, window_of

WINDOWS_OF_A_YEAR = {"year": 1, "quarter": 4, "month": 12}


@pytest.mark.parametrize("grain", CRON_BY_GRAIN)
@pytest.mark.parametrize("year", [1990, 2000, 2023])
def test_every_day_of_a_year_is_in_the_window_of_its_key(grain: str, year: int) -> None:
    partitions = partitions_by(grain, 1990)
    days = [date(year, 1, 1) + timedelta(days=number) for number in range(365)]
    days.append(date(year, 12, 31))

    keys = {day: key_of(partitions, day) for day in days}
    windows = {key: window_of(partitions, key) for key in set(keys.values())}

    assert len(windows) == WINDOWS_OF_A_YEAR[grain]
    for day, key in keys.items():
        assert windows[key].start <= day < windows[key].end
        assert windows[key].start.isoformat() == key
        assert windows[key].year == year


@pytest.mark.parametrize("grain", CRON_BY_GRAIN)
def test_the_windows_follow_each_other_without_gap_up_to_the_current_one(grain: str) -> None:
    partitions, today = partitions_by(grain, 1990), datetime.now(UTC).date()

    windows = [window_of(partitions, key) for key in partitions.get_partition_keys()]

    assert windows[0].start == date(1990, 1, 1)
    assert all(before.end == after.start for before, after in pairwise(windows))
    assert windows[-1].start <= today < windows[-1].end
    assert key_of(partitions, today) == windows[-1].start.isoformat()


@pytest.mark.parametrize("grain", CRON_BY_GRAIN)
def test_no_window_crosses_a_year(grain: str) -> None:
    partitions = partitions_by(grain, 2019)

    for key in partitions.get_partition_keys():
        window = window_of(partitions, key)
        assert (window.end - timedelta(days=1)).year == window.year


def test_windows_of_different_grain_that_start_on_one_day_have_different_names() -> None:
    names = {window_of(partitions_by(grain, 1990), "2013-01-01").name for grain in CRON_BY_GRAIN}

    assert len(names) == 3


@pytest.mark.parametrize("grain", ["", "week", "Year", "0 0 1 1 *"])
def test_another_grain_is_refused_with_those_allowed(grain: str) -> None:
    with pytest.raises(BadSetting, match=r"RBA_GRAIN=.*: allowed are year, quarter, month"):
        partitions_by(grain, 1990)


@pytest.mark.parametrize("year", [1899, 2101, 0, -5])
def test_another_first_year_is_refused_with_its_range(year: int) -> None:
    with pytest.raises(BadSetting, match=f"RBA_FIRST_YEAR={year}: allowed is 1900 to 2100"):
        partitions_by("year", year)
