"""What is asked for again, when, and what a cursor may be."""

import pytest

from rba_pipeline.core.pending import Asked, LastRun, read, to_run, written

NOW = 1_000_000
KEY = "2011-01-01"
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def asked(*, digest: str = "d1", tries: int = 1, after: str = "", ago_s: int = 0) -> Asked:
    return Asked(digest, tries, after, NOW - ago_s)


def failed(ago_s: int = 0) -> LastRun:
    return LastRun("run-1", True, NOW - ago_s)


def succeeded(ago_s: int = 0) -> LastRun:
    return LastRun("run-1", False, NOW - ago_s)


SUCCEEDED = succeeded(DAY_S)


@pytest.mark.parametrize(
    ("before", "last", "expected"),
    [
        pytest.param(None, None, asked(), id="never-asked-never-run"),
        pytest.param(None, SUCCEEDED, asked(after="run-1"), id="never-asked-but-run"),
        pytest.param(None, failed(), asked(after="run-1"), id="failed-without-being-asked"),
        pytest.param(asked(digest="d0"), failed(), asked(after="run-1"), id="changed-since"),
        pytest.param(asked(ago_s=DAY_S), succeeded(23 * HOUR_S), None, id="done-and-differs"),
        pytest.param(
            asked(ago_s=DAY_S), succeeded(DAY_S), asked(tries=2, after="run-1"),
            id="done-a-day-ago-and-still-differs",
        ),
        pytest.param(asked(digest="d0"), succeeded(), asked(after="run-1"), id="changed-by-a-run"),
        pytest.param(asked(ago_s=DAY_S), failed(14 * MINUTE_S), None, id="failed-just-now"),
        pytest.param(
            asked(ago_s=DAY_S), failed(15 * MINUTE_S), asked(tries=2, after="run-1"), id="failed"
        ),
        pytest.param(asked(tries=2, ago_s=DAY_S), failed(59 * MINUTE_S), None, id="twice-just-now"),
        pytest.param(
            asked(tries=2, ago_s=DAY_S), failed(HOUR_S), asked(tries=3, after="run-1"), id="twice"
        ),
        pytest.param(asked(tries=9, ago_s=2 * DAY_S), failed(23 * HOUR_S), None, id="often"),
        pytest.param(
            asked(tries=9, ago_s=2 * DAY_S), failed(DAY_S), asked(tries=10, after="run-1"),
            id="often-and-a-day-ago",
        ),
        pytest.param(asked(ago_s=14 * MINUTE_S), None, None, id="its-run-may-still-come"),
        pytest.param(asked(ago_s=15 * MINUTE_S), None, asked(tries=2), id="no-run-came-of-it"),
        pytest.param(
            asked(after="run-1", ago_s=15 * MINUTE_S), SUCCEEDED, asked(tries=2, after="run-1"),
            id="no-run-came-of-it-after-an-old-one",
        ),
    ],
)  # fmt: skip
def test_a_changed_partition_is_asked_for_when_a_run_can_help(
    before: Asked | None, last: LastRun | None, expected: Asked | None
) -> None:
    found = to_run(
        {KEY: "d1"}, {KEY: before} if before else {}, {KEY: last} if last else {}, NOW + 0.5
    )

    assert found == ({KEY: expected} if expected else {})


def test_the_newest_partitions_come_first_and_others_are_not_asked_for() -> None:
    found = to_run({"1999-01-01": "a", "2020-01-01": "b"}, {"2001-01-01": asked()}, {}, NOW)

    assert list(found) == ["2020-01-01", "1999-01-01"]


def test_a_cursor_says_what_was_written() -> None:
    both = {KEY: asked(after="run-1"), "2012-01-01": asked(tries=3)}

    assert read(written(both)) == both
    assert read(written({})) == read(None) == read("") == {}


def test_the_cursor_of_a_whole_corpus_by_month_is_small() -> None:
    row = asked(digest="0123456789abcdef", after="b7b6c7f0-0b7a-4a4e-8d7c-0123456789ab")

    assert len(written({f"{place:010}": row for place in range(432)})) < 50_000


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param("2024-01-01", id="another-sensor"),
        pytest.param("[]", id="a-list"),
        pytest.param('{"version": 0, "asked": {}}', id="another-version"),
        pytest.param('{"version": 1}', id="nothing-asked"),
        pytest.param('{"version": 1, "asked": {"2011-01-01": ["d1"]}}', id="too-few-values"),
        pytest.param('{"version": 1, "asked": {"2011-01-01": ["d1", 0, "", 1]}}', id="no-try"),
        pytest.param('{"version": 1, "asked": {"2011-01-01": ["d1", "1", "", 1]}}', id="a-text"),
    ],
)
def test_what_is_no_cursor_of_ours_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError):
        read(cursor)
