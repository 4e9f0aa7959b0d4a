"""What ``rba-pipeline backfill`` refuses, chooses and shows, where no daemon executes anything."""

import sys
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import serializable_error_info_from_exc_info

from rba_pipeline.backfills import start_backfill, under_way
from rba_pipeline.core.backfill_progress import Progress, Stage
from rba_pipeline.core.errors import RbaError
from rba_pipeline.definitions import build_defs
from rba_pipeline.display import Display
from rba_pipeline.following import GIVE_UP_S, SILENT_S, Follower, follow
from rba_pipeline.run_outcomes import failure_of
from rba_pipeline.settings import Settings
from rba_pipeline_tests.command_line import called
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply

pytestmark = pytest.mark.postgres

KEYS = ["2011-01-01", "2012-01-01", "2013-01-01"]
NOW_S = 1_000_000.0


@pytest.fixture
def project(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """Have one document in each of three partitions, within reach of the command."""
    for key in KEYS:
        installation.add(
            f"{key}.html", title=key, day=f"5 May {key[:4]}", paragraphs=[f"Rain fell in {key}."]
        )
    with installation.neighbours() as found:
        found.vector_store.migrate()
    for name in ("RBA_DATABASE_URL", "EMBEDDING_API_URL"):
        address = installation.environment[name].replace("127.0.0.1", "localhost")
        monkeypatch.setenv(name, address)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://nobody@localhost:9/none")
    monkeypatch.setenv("RBA_PROJECT", str(installation.folder))
    return installation


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as opened:
        yield opened


def a_daemon_lives(instance: dg.DagsterInstance, at_s: float) -> None:
    for kind in ("BACKFILL", "QUEUED_RUN_COORDINATOR"):
        instance.add_daemon_heartbeat(DaemonHeartbeat(at_s, kind, None, None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--batch-size", "0"],
            "Invalid embedding settings: batch_size=0: allowed is a whole number from 1 to 2048",
            id="zero",
        ),
        pytest.param(["--parallel-batches", "-1"], "parallel_batches=-1: allowed", id="negative"),
        pytest.param(["--batch-size", "1000000000"], "batch_size=1000000000: allowed", id="huge"),
        pytest.param(
            ["--batch-size", "many"],
            "batch_size='many': allowed is a whole number from 1 to 2048 (texts per request)",
            id="wrong-type",
        ),
        pytest.param(["--preset", "big"], "cpu-prod, gpu, tuned) got big", id="no-such-preset"),
        pytest.param(["--partitions", "1066-01-01"], "is no partition; allowed are", id="no-key"),
        pytest.param(
            ["--partitions", "2013-01-01...2011-01-01"], "it runs backwards", id="backwards"
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_line_before_anything_is_asked(
    project: Installation,
    instance: dg.DagsterInstance,
    oracle: OracleService,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("RBA_DATABASE_URL", "postgresql://u@localhost:9/x")
    where = [] if "--partitions" in arguments else ["--all"]

    asked = called("backfill", *where, *arguments)

    assert asked.exit_code == 1
    assert message in asked.output
    assert len(asked.output.splitlines()) == 1
    assert instance.get_backfills() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "say --all", id="nothing-named"),
        pytest.param(["--all", "--partitions", "2011-01-01"], "say --all", id="both"),
        pytest.param(["--all", "--only", "some"], "'missing', 'stale', 'failed', 'all'", id="only"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(
    project: Installation, arguments: list[str], message: str
) -> None:
    asked = called("backfill", *arguments)

    assert asked.exit_code == 2
    assert message in asked.output


@pytest.mark.parametrize(
    ("ago_s", "message"),
    [
        pytest.param(None, "no Dagster daemon has run here", id="never"),
        pytest.param(600, "the last was heard of 10 min ago", id="not-any-more"),
    ],
)
def test_without_a_daemon_nothing_is_launched(
    project: Installation, instance: dg.DagsterInstance, ago_s: float | None, message: str
) -> None:
    if ago_s is not None:
        a_daemon_lives(instance, time.time() - ago_s)

    asked = called("backfill", "--all")

    assert asked.exit_code == 1
    assert message in asked.output
    assert "start one: make up, or dagster-daemon run" in asked.output
    assert instance.get_backfills() == []


def test_without_the_service_nothing_is_launched(
    project: Installation, instance: dg.DagsterInstance, oracle: OracleService
) -> None:
    a_daemon_lives(instance, time.time())
    oracle.crash()

    asked = called("backfill", "--all")

    assert asked.exit_code == 1
    assert asked.output.startswith("ServiceUnavailable: ")
    assert instance.get_backfills() == []


@pytest.mark.parametrize("command", [["backfill", "--all"], ["plan"], ["backfill", "follow", "a"]])
def test_a_storage_of_dagster_that_is_away_is_named_in_one_line(
    project: Installation, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://nobody:secret@localhost:9/none")
    home = project.folder / "dagster" / "dagster.yaml"
    home.write_text("storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}")

    asked = called(*command)

    assert asked.exit_code == 1
    [line] = asked.output.splitlines()
    assert line.startswith("DatabaseUnavailable: Dagster's storage cannot be reached, ")
    assert "localhost" in line
    assert line.endswith(": start that server, or correct DAGSTER_POSTGRES_URL")
    assert "secret" not in line


def test_a_backfill_is_asked_for_with_its_values_and_no_partition_twice(
    project: Installation, instance: dg.DagsterInstance
) -> None:
    a_daemon_lives(instance, time.time())
    first = called(
        "backfill", "--partitions", "2011-01-01...2012-01-01", "--preset", "cpu-prod",
        "--batch-size", "6", "--detach",
    )  # fmt: skip
    again = called("backfill", "--all", "--detach")
    never = called("backfill", "--all", "--detach")

    [second, asked] = instance.get_backfills()
    assert [each.exit_code for each in (first, again, never)] == [0, 0, 0], first.output
    assert asked.partition_names == KEYS[:2]
    assert asked.run_config == {
        "resources": {"embedding": {"config": {"preset": "cpu-prod", "batch_size": 6}}}
    }
    assert asked.tags["rba/launched_by"] == "rba-pipeline backfill"
    assert asked.title == (
        "rba-pipeline backfill: 2 partitions of 2011-01-01...2012-01-01, preset=cpu-prod, "
        "batch_size=6"
    )
    assert first.output == f"backfill {asked.backfill_id} of 2 partitions\n"
    assert (second.partition_names, second.run_config) == (KEYS[2:], {})
    assert "a run of them is under way: 2011-01-01, 2012-01-01\n" in again.output
    assert never.output.splitlines() == [
        f"left out, because a run of them is under way: {', '.join(KEYS)}",
        "nothing to do: all of them have a run under way",
    ]


def test_only_takes_the_partitions_that_stand_so(
    project: Installation, instance: dg.DagsterInstance, oracle: OracleService
) -> None:
    a_daemon_lives(instance, time.time())
    assert failures(project.run(*KEYS[:2])) == []
    project.add("2011-01-01.html", title="New", day="5 May 2011", paragraphs=["Rain fell."])
    oracle.script = lambda number, texts: Reply.error(401, "not_allowed")
    assert failures(project.run(KEYS[2])) != []

    both = "--only stale --only failed"
    shown = {
        only: called("backfill", "--all", "--dry-run", *only.split()).output
        for only in (
            "--only stale",
            "--only missing",
            "--only failed",
            "--only stale --only failed",
        )
    }
    of_current = called("backfill", "--partitions", KEYS[1], "--only", "stale", "--dry-run")

    assert "2011-01-01  stale (source)\n" in shown["--only stale"]
    assert "missing, not stale: 1 partitions" in shown["--only stale"]
    assert "2013-01-01  missing\n" in shown["--only missing"]
    assert "2013-01-01  missing, the last run failed\n" in shown["--only failed"]
    assert "these 1 partitions" in shown["--only failed"]
    assert "these 2 partitions" in shown[both]
    assert of_current.exit_code == 0
    assert of_current.output == "nothing to do: no partition is stale\n"
    assert instance.get_backfills() == []


def test_a_current_partition_whose_run_was_cancelled_is_shown_as_such(
    project: Installation, instance: dg.DagsterInstance
) -> None:
    assert failures(project.run(KEYS[0])) == []
    a_run(instance, "", KEYS[0], DagsterRunStatus.CANCELED)

    shown = called("backfill", "--all", "--dry-run", "--only", "failed").output

    assert "2011-01-01  current, the last run was cancelled\n" in shown
    assert "\n0 needed " in shown
    assert "\na backfill would run these 1 partitions " in shown
    assert shown.endswith("\n1 of them are current: nothing would change in those\n")


def test_a_dry_run_shows_the_plan_and_launches_nothing(
    project: Installation, instance: dg.DagsterInstance, oracle: OracleService
) -> None:
    asked = called("backfill", "--all", "--preset", "gpu", "--dry-run")

    assert asked.exit_code == 0, asked.output
    assert "2012-01-01  missing\n" in asked.output
    assert "minutes" in asked.output
    assert (
        'these 3 partitions with the run config {"resources": {"embedding": {"config": '
        '{"preset": "gpu"}}}}; nothing was launched\n'
        "the minutes do not depend on this run config: they follow from the speed above\n"
    ) in asked.output
    assert instance.get_backfills() == []
    assert list(instance.get_runs()) == []


# What is under way


def of_assets(instance: dg.DagsterInstance, *keys: str) -> str:
    """Launch a backfill of all assets as the web interface does, and return its id."""
    backfill = PartitionBackfill.from_asset_partitions(
        "of-assets",
        asset_graph=build_defs(Settings.read({})).resolve_asset_graph(),
        partition_names=keys,
        asset_selection=[
            dg.AssetKey(name) for name in ("documents", "chunks", "embeddings", "vectors")
        ],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def test_a_backfill_of_the_web_interface_is_under_way_until_each_run_has_ended() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        name = of_assets(instance, *KEYS[:2])
        asked = under_way(instance)
        a_run(instance, name, KEYS[0], DagsterRunStatus.SUCCESS)
        a_run(instance, name, KEYS[1], DagsterRunStatus.STARTED)
        begun = under_way(instance)

    assert asked == set(KEYS[:2])
    assert begun == {KEYS[1]}


def test_a_killed_run_is_under_way_until_it_is_launched_again() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        killed = a_run(instance, "", KEYS[0], DagsterRunStatus.FAILURE, will_retry="true")
        a_run(instance, "", KEYS[1], DagsterRunStatus.FAILURE, will_retry="false")
        waiting = under_way(instance)
        again = a_run(instance, "", KEYS[0], DagsterRunStatus.SUCCESS)
        instance.add_run_tags(killed.run_id, {"dagster/auto_retry_run_id": again.run_id})
        ended = under_way(instance)

    assert (waiting, ended) == ({KEYS[0]}, set())


# Following


@dg.job(name="publish_partition")
def nothing() -> None: ...


def a_run(
    instance: dg.DagsterInstance, backfill: str, key: str, status: DagsterRunStatus, **tags: str
) -> dg.DagsterRun:
    named = {"dagster/backfill": backfill} if backfill else {}
    return instance.create_run_for_job(
        nothing,
        status=status,
        tags={**named, "dagster/partition": key, **{f"dagster/{n}": v for n, v in tags.items()}},
    )


def end(instance: dg.DagsterInstance, backfill: str, status: BulkActionStatus) -> None:
    found = instance.get_backfill(backfill)
    assert found is not None
    instance.update_backfill(found.with_status(status))


def quietly_followed(follower: Follower) -> int:
    return follow(follower, lambda line: None, lambda progress: None)


@pytest.fixture
def backfill() -> Iterator[tuple[dg.DagsterInstance, str]]:
    """Have a backfill of three partitions, and a daemon."""
    with dg.DagsterInstance.ephemeral() as instance:
        a_daemon_lives(instance, time.time())
        yield instance, start_backfill(instance, KEYS, {}, {}, "of three")


def test_each_failure_is_told_once_and_the_end_is_red(
    backfill: tuple[dg.DagsterInstance, str],
) -> None:
    instance, name = backfill
    follower = Follower(instance, name)
    now_s = time.time()
    first = [*follower.look(now_s)], str(follower.progress)
    a_run(instance, name, KEYS[0], DagsterRunStatus.SUCCESS)
    a_run(instance, name, KEYS[1], DagsterRunStatus.STARTED)
    lost = a_run(instance, name, KEYS[2], DagsterRunStatus.STARTED)
    instance.report_run_failed(lost, "its process is gone")

    then = [*follower.look(now_s + 20)], str(follower.progress)
    again = [*follower.look(now_s + 20)]
    instance.report_run_canceling(running := _run_of(instance, KEYS[1]))
    instance.report_run_canceled(running)
    end(instance, name, BulkActionStatus.COMPLETED_FAILED)
    status = quietly_followed(follower)

    assert first == ([], "0 of 3 partitions done, 3 left")
    assert then[0] == ["2013-01-01 failed: its process is gone"]
    assert then[1].startswith("1 of 3 partitions done, 1 running, 1 failed, about ")
    assert again == []
    assert (status, str(follower.progress)) == (1, "1 of 3 partitions done, 1 failed, 1 cancelled")


def _run_of(instance: dg.DagsterInstance, key: str) -> dg.DagsterRun:
    [run] = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}))
    return run


def test_a_killed_run_that_is_launched_again_counts_as_running_until_it_ends(
    backfill: tuple[dg.DagsterInstance, str],
) -> None:
    instance, name = backfill
    follower = Follower(instance, name)
    for key in KEYS[:2]:
        a_run(instance, name, key, DagsterRunStatus.SUCCESS)
    killed = a_run(instance, name, KEYS[2], DagsterRunStatus.FAILURE, will_retry="true")

    before = [*follower.look(time.time())], follower.has_ended, str(follower.progress)
    again = a_run(instance, "", KEYS[2], DagsterRunStatus.NOT_STARTED)
    instance.add_run_tags(killed.run_id, {"dagster/auto_retry_run_id": again.run_id})
    end(instance, name, BulkActionStatus.COMPLETED_FAILED)
    in_the_queue = [*follower.look(time.time())], follower.has_ended
    instance.handle_new_event(_success(again))
    status = quietly_followed(follower)

    assert before[:2] == ([], False)
    assert "2 of 3 partitions done, 1 running" in before[2]
    assert in_the_queue == ([], False)
    assert status == 0


def test_a_run_that_was_killed_as_the_last_of_its_backfill_is_not_waited_for(
    backfill: tuple[dg.DagsterInstance, str],
) -> None:
    instance, name = backfill
    follower = Follower(instance, name)
    for key in KEYS[:2]:
        a_run(instance, name, key, DagsterRunStatus.SUCCESS)
    a_run(instance, name, KEYS[2], DagsterRunStatus.FAILURE, will_retry="true")
    waiting = [*follower.look(time.time())], under_way(instance)
    end(instance, name, BulkActionStatus.COMPLETED_FAILED)

    [told] = follower.look(time.time())

    assert waiting == ([], {KEYS[2]})
    assert told.startswith(f"{KEYS[2]} failed: ")
    assert "backfill --all --only failed" in told
    assert (follower.has_ended, follower.is_green) == (True, False)
    assert under_way(instance) == set()


def test_a_killed_run_of_a_cancelled_backfill_is_not_waited_for(
    backfill: tuple[dg.DagsterInstance, str],
) -> None:
    instance, name = backfill
    a_run(instance, name, KEYS[0], DagsterRunStatus.FAILURE, will_retry="true")
    end(instance, name, BulkActionStatus.CANCELED)

    assert quietly_followed(Follower(instance, name)) == 1


def test_a_failure_is_told_when_it_is_decided_that_the_run_is_not_launched_again() -> None:
    settings = {"run_retries": {"enabled": True}}
    with dg.DagsterInstance.ephemeral(settings=settings) as instance:
        a_daemon_lives(instance, time.time())
        name = start_backfill(instance, KEYS, {}, {}, "of three")
        follower = Follower(instance, name)
        run = a_run(instance, name, KEYS[2], DagsterRunStatus.FAILURE)
        undecided = [*follower.look(time.time())]
        instance.add_run_tags(run.run_id, {"dagster/will_retry": "false"})
        decided = [*follower.look(time.time())]

    assert undecided == []
    assert [line.partition(":")[0] for line in decided] == ["2013-01-01 failed"]


def test_of_a_run_whose_process_died_it_is_said_what_killed_it() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = a_run(instance, "", KEYS[0], DagsterRunStatus.STARTED)
        instance.report_engine_event("Its process was terminated by signal 9.", run)
        instance.report_run_failed(run)
        told = failure_of(instance, run)

    assert told == "Its process was terminated by signal 9."


def _success(run: dg.DagsterRun) -> dg.EventLogEntry:
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
    return dg.EventLogEntry(
        error_info=None, level=20, user_message="", run_id=run.run_id, timestamp=time.time(),
        dagster_event=event,
    )  # fmt: skip


def test_a_daemon_that_dies_is_named_once_and_so_is_its_return(
    backfill: tuple[dg.DagsterInstance, str],
) -> None:
    instance, name = backfill
    follower = Follower(instance, name)
    later_s = time.time() + SILENT_S + 45

    told = [*follower.look(later_s), *follower.look(later_s + 1)]
    a_daemon_lives(instance, later_s)
    back = [*follower.look(later_s + 2)]

    assert len(told) == 1
    assert "no daemon was heard of for 2 min: nothing new begins until you start one" in told[0]
    assert back == ["the daemon is back"]


def test_a_daemon_that_stays_away_ends_the_following_with_what_to_do(
    backfill: tuple[dg.DagsterInstance, str],
) -> None:
    instance, name = backfill
    follower = Follower(instance, name)
    silent_from_s = time.time() + SILENT_S + 10
    list(follower.look(silent_from_s))

    patient = list(follower.look(silent_from_s + GIVE_UP_S - 1))
    with pytest.raises(RbaError, match=f"start one: .*backfill follow {name}` follows it again"):
        list(follower.look(silent_from_s + GIVE_UP_S + 1))

    assert patient == []


@pytest.mark.parametrize(
    ("second", "ended_as", "status", "shown"),
    [
        pytest.param(
            DagsterRunStatus.FAILURE, BulkActionStatus.COMPLETED_FAILED, 1,
            "1 of 2 partitions done, 1 failed", id="failed",
        ),
        pytest.param(
            DagsterRunStatus.SUCCESS, BulkActionStatus.COMPLETED_SUCCESS, 0,
            "2 of 2 partitions done", id="green",
        ),
        pytest.param(
            DagsterRunStatus.SUCCESS, BulkActionStatus.COMPLETED_FAILED, 1,
            "2 of 2 partitions done", id="dagster-says-it-failed",
        ),
        pytest.param(
            None, BulkActionStatus.FAILED, 1, "1 of 2 partitions done, 1 left", id="not-even-begun"
        ),
    ],
)  # fmt: skip
def test_a_backfill_of_the_web_interface_is_followed_to_its_end(
    second: DagsterRunStatus | None, ended_as: BulkActionStatus, status: int, shown: str
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        name = of_assets(instance, *KEYS[:2])
        a_run(instance, name, KEYS[0], DagsterRunStatus.SUCCESS)
        if second is not None:
            a_run(instance, name, KEYS[1], second)
        end(instance, name, ended_as)
        follower = Follower(instance, name)
        found = quietly_followed(follower)

    assert (found, str(follower.progress).partition(", about")[0]) == (status, shown)


def test_a_backfill_that_could_not_begin_says_why(
    backfill: tuple[dg.DagsterInstance, str],
) -> None:
    instance, name = backfill
    found = instance.get_backfill(name)
    assert found is not None
    try:
        raise dg.DagsterInvariantViolationError("no such job")
    except dg.DagsterInvariantViolationError:
        error = serializable_error_info_from_exc_info(sys.exc_info())
    instance.update_backfill(found.with_error(error).with_status(BulkActionStatus.FAILED))
    said: list[str] = []

    status = follow(Follower(instance, name), said.append, lambda progress: None)

    assert (status, said) == (1, ["the backfill failed: no such job"])


def test_an_unknown_backfill_is_refused_and_an_ended_one_is_not_cancelled(
    project: Installation, instance: dg.DagsterInstance
) -> None:
    name = start_backfill(instance, KEYS, {}, {}, "of three")
    a_daemon_lives(instance, time.time())

    unknown = called("backfill", "follow", "unknown")
    cancelled = [called("backfill", "cancel", name) for _ in range(2)]

    assert unknown.exit_code == 1
    assert f"no backfill is called 'unknown'; the newest are: {name}" in unknown.output
    assert [each.exit_code for each in cancelled] == [0, 0]
    assert "is being cancelled" in cancelled[0].output
    assert "is canceling: nothing to cancel" in cancelled[1].output


def test_a_cancellation_without_a_daemon_is_kept_and_says_what_it_needs(
    project: Installation, instance: dg.DagsterInstance
) -> None:
    name = start_backfill(instance, KEYS, {}, {}, "of three")

    cancelled = called("backfill", "cancel", name)

    assert cancelled.exit_code == 1
    assert "no Dagster daemon has run here, it is cancelled as soon as one" in cancelled.output
    found = instance.get_backfill(name)
    assert found is not None
    assert found.status is BulkActionStatus.CANCELING


def test_the_last_line_on_a_terminal_ends_whatever_the_partitions_became(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = Display(is_terminal=True)

    display.show(Progress({KEYS[0]: Stage.LEFT}, 0, 1.0))
    display.show(Progress({KEYS[0]: Stage.DONE, KEYS[1]: Stage.LEFT}, 0, 0.0))
    display.close()
    display.close()

    assert capsys.readouterr().out.endswith("1 of 2 partitions done, 1 left\n")
