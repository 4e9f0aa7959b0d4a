"""Which partition a document belongs to: the time window that holds its filing date."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.windows import Window

# Where the bank publishes: its days begin hours before those of UTC.
TIME_ZONE = "Australia/Sydney"
# The key is the window's start date at every grain, so that a key means the same day everywhere.
CRON_BY_GRAIN = {"year": "0 0 1 1 *", "quarter": "0 0 1 1,4,7,10 *", "month": "0 0 1 * *"}


def partitions_by(grain: str, first_year: int) -> dg.TimeWindowPartitionsDefinition:
    """Return the time windows shared by all four assets, the current one included.

    Args:
        grain: ``year``, ``quarter`` or ``month``.
        first_year: The first window starts on the first of January of this year.

    Raises:
        BadSetting: Another grain, or a year before 1900 or after 2100.
    """
    if grain not in CRON_BY_GRAIN:
        raise BadSetting(f"RBA_GRAIN={grain!r}: allowed are {', '.join(CRON_BY_GRAIN)}")
    if not 1900 <= first_year <= 2100:
        raise BadSetting(f"RBA_FIRST_YEAR={first_year}: allowed is 1900 to 2100")
    return dg.TimeWindowPartitionsDefinition(
        start=f"{first_year}-01-01",
        fmt="%Y-%m-%d",
        cron_schedule=CRON_BY_GRAIN[grain],
        timezone=TIME_ZONE,
        # Without it, the current year becomes a partition only when it is over.
        end_offset=1,
    )


def today() -> date:
    """Return the bank's date: every day up to it lies in a partition."""
    return datetime.now(UTC).astimezone(ZoneInfo(TIME_ZONE)).date()


def window_of(partitions: dg.TimeWindowPartitionsDefinition, key: str) -> Window:
    """Return the dates that the partition ``key`` covers."""
    span = partitions.time_window_for_partition_key(key)
    return Window(span.start.date(), span.end.date())


def key_of(partitions: dg.TimeWindowPartitionsDefinition, day: date) -> str:
    """Return the key of the partition that holds ``day``, which is not before the first window."""
    grain = next(grain for grain, cron in CRON_BY_GRAIN.items() if cron == partitions.cron_schedule)
    months = {"year": 12, "quarter": 3, "month": 1}[grain]
    first_month = (day.month - 1) // months * months + 1
    return date(day.year, first_month, 1).isoformat()
