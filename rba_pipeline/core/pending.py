"""Which changed partitions are to be run now, given what was asked for before and how it went."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

VERSION = 1
# After the first run that failed, after the second …; from then on once a day.
RETRY_AFTER_S = (900, 3_600, 14_400, 86_400)


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that was asked for.

    Attributes:
        digest: Of the documents that the partition should have, and of those that it has.
        tries: How many runs were asked for with this digest, this one included; at least 1.
        after: Id of the partition's last run before it; empty if there was none.
        at: When, in Unix seconds.
    """

    digest: str
    tries: int
    after: str
    at: int


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run of a partition, which has ended at ``ended_at`` (Unix seconds)."""

    run_id: str
    failed: bool
    ended_at: float


def to_run(
    changed: Mapping[str, str],
    asked: Mapping[str, Asked],
    last: Mapping[str, LastRun],
    now: float,
) -> dict[str, Asked]:
    """Return what to ask for now, by partition, the newest partition first.

    A partition is asked for at once for each state of source and database. If the run failed, or
    none came of it, it is asked for again, after a longer time each time. If it succeeded or was
    cancelled and nothing has changed, another one helps only if something else happens: a document
    that moved away stays in its old partition until the new one has run. So it is once a day.

    Args:
        changed: Partitions that differ from the source, with the digest of both; none that waits
            for a run or has one.
        asked: What was asked for before; whatever is missing in it costs a needless run at most.
        last: The last run of each partition that had one.
        now: Unix seconds.
    """
    found = {}
    for key in sorted(changed, reverse=True):
        before, run = asked.get(key), last.get(key)
        after = run.run_id if run else ""
        tries = 0
        if before is not None and before.digest == changed[key]:
            tries = before.tries
            has_run = after != before.after and run is not None and not run.failed
            pause_s = max(RETRY_AFTER_S[: None if has_run else tries])
            since = max(before.at, run.ended_at if run else 0)
            if now < since + pause_s:
                continue
        found[key] = Asked(changed[key], tries + 1, after, int(now))
    return found


def written(asked: Mapping[str, Asked]) -> str:
    """Return ``asked`` as a sensor's cursor."""
    rows = {key: list(asdict(each).values()) for key, each in sorted(asked.items())}
    return json.dumps({"version": VERSION, "asked": rows}, separators=(",", ":"))


def read(cursor: str | None) -> dict[str, Asked]:
    """Return what ``written`` wrote; nothing for no cursor.

    Raises:
        ValueError: Another version wrote it, or nobody did.
    """
    if not cursor:
        return {}
    try:
        found = json.loads(cursor)
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']}, expected {VERSION}")
        asked = {key: Asked(*row) for key, row in found["asked"].items()}
        if not all(_is_whole(each) for each in asked.values()):
            raise ValueError("a value of another type")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"another shape: {error!r}") from None
    return asked


def _is_whole(asked: Asked) -> bool:
    texts, counts = (asked.digest, asked.after), (asked.tries, asked.at)
    return (
        all(isinstance(each, str) for each in texts)
        and all(type(each) is int for each in counts)
        and asked.tries >= 1
    )
