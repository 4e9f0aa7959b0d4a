"""When partitions are run by the clock; all off until somebody switches them on."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from rba_pipeline.backfills import LAUNCHED_BY, UNWATCHED, under_way
from rba_pipeline.jobs import publish_partition
from rba_pipeline.partitions import TIME_ZONE, key_of

NIGHTLY, MONTHLY = "nightly", "monthly_backfill"
# For so many days of a new partition, the one before it runs as well: what is filed late.
LATE_DAYS = 7


def nightly(
    partitions: dg.TimeWindowPartitionsDefinition, run_config: Mapping[str, Any]
) -> dg.ScheduleDefinition:
    """Return the schedule of the partition that holds today.

    Args:
        run_config: Of its runs.
    """

    @dg.schedule(
        name=NIGHTLY,
        job=publish_partition,
        cron_schedule="0 2 * * *",
        execution_timezone=TIME_ZONE,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Every night at 2:00 in Sydney: the partition that holds today, and for the "
        f"first {LATE_DAYS} days of a partition the one before. An unchanged one embeds nothing.",
    )
    def every_night(
        context: dg.ScheduleEvaluationContext,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(ZoneInfo(TIME_ZONE)).date()
        keys = keys_of_night(partitions, day)
        busy = under_way(context.instance)
        if not [key for key in keys if key not in busy]:
            return dg.SkipReason(_why_not(keys))
        return [
            dg.RunRequest(
                run_key=key,
                partition_key=key,
                run_config=run_config,
                tags={**UNWATCHED, LAUNCHED_BY: NIGHTLY},
            )
            for key in keys
            if key not in busy
        ]

    return every_night


def monthly_backfill(
    backfill_stale: dg.JobDefinition, run_config: Mapping[str, Any]
) -> dg.ScheduleDefinition:
    """Return the schedule of the job that backfills stale partitions.

    Args:
        run_config: Of the job itself.
    """
    return dg.ScheduleDefinition(
        name=MONTHLY,
        job=backfill_stale,
        cron_schedule="0 3 1 * *",
        execution_timezone=TIME_ZONE,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        run_config=dict(run_config),
        tags={**UNWATCHED, LAUNCHED_BY: MONTHLY},
        description="On the first of every month at 3:00 in Sydney: a backfill of all partitions "
        "that are missing or stale, if there are any.",
    )


def keys_of_night(partitions: dg.TimeWindowPartitionsDefinition, day: date) -> list[str]:
    """Return the partitions to run on ``day``, the earlier one first; none before the first."""
    days = (day - timedelta(days=LATE_DAYS), day)
    first_day = partitions.start.date()
    return list(dict.fromkeys(key_of(partitions, each) for each in days if each >= first_day))


def _why_not(keys: list[str]) -> str:
    if not keys:
        return "the first partition lies in the future: RBA_FIRST_YEAR"
    return f"{' and '.join(keys)}: a run waits or has not ended yet"
