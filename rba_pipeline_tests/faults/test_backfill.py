"""The commands that need a daemon, as the pages say them, over Dagster's servers and real runs."""

import threading

import pytest
from dagster import DagsterRunStatus
from dagster._core.execution.backfill import BulkActionStatus

from rba_pipeline.run_outcomes import metadata_of
from rba_pipeline_tests.command_line import called
from rba_pipeline_tests.documented import of_a_daemon
from rba_pipeline_tests.faults.conftest import fill
from rba_pipeline_tests.faults.invariants import check_invariants
from rba_pipeline_tests.faults.live_dagster import LiveDagster, result_of
from rba_pipeline_tests.installation import RUN_S, Installation
from rba_pipeline_tests.oracle_service import OracleService

pytestmark = [pytest.mark.postgres, pytest.mark.long, pytest.mark.timeout(300)]

# All of them: with one more in the pages, this fails.
MEND, LAUNCH, CANCEL, FOLLOW, EXAMINE = of_a_daemon()


@pytest.fixture
def oracle(live_oracle: OracleService) -> OracleService:
    return live_oracle


@pytest.fixture
def project(live_project: Installation) -> Installation:
    return live_project


def test_a_backfill_runs_with_its_values_and_ends_green(
    live: LiveDagster, project: Installation, oracle: OracleService
) -> None:
    keys = fill(project, 3)

    asked = called(*LAUNCH, "--batch-size", "6")

    [backfill] = live.instance.get_backfills(limit=1)
    runs = live.runs(backfill.backfill_id)
    followed = called(*with_name(FOLLOW, backfill.backfill_id))
    examined = called(*EXAMINE)

    assert asked.exit_code == 0, asked.output
    assert f"backfill {backfill.backfill_id} of 3 partitions" in asked.output
    assert asked.output.splitlines()[-1].startswith("3 of 3 partitions done, ")
    assert followed.exit_code == 0, followed.output
    assert followed.output.splitlines()[-1].startswith("3 of 3 partitions done, ")
    assert examined.exit_code == 0, examined.output
    assert backfill.status is BulkActionStatus.COMPLETED_SUCCESS
    assert backfill.partition_names == keys
    effective = [
        metadata_of(live.instance, run)["embeddings"]["effective_configuration"] for run in runs
    ]
    assert {(each["preset"], each["batch_size"]) for each in effective} == {("cpu-prod", 6)}
    results = [result_of(live.instance, run) for run in runs]
    check_invariants(project, oracle, results, resent=0)


def test_a_backfill_is_cancelled_with_its_runs_and_another_one_mends_it(
    live: LiveDagster, project: Installation, oracle: OracleService
) -> None:
    keys = fill(project, 3)
    reached, gone = threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        reached.set()
        gone.wait(RUN_S)

    oracle.script = hold
    try:
        launched = called("backfill", "--all", "--detach")
        assert reached.wait(RUN_S), launched.output
        [begun] = live.instance.get_backfills(limit=1)
        cancelled = called(*with_name(CANCEL, begun.backfill_id))
        followed = called(*with_name(FOLLOW, begun.backfill_id))
    finally:
        gone.set()

    [ended] = live.instance.get_backfills(limit=1)
    assert (cancelled.exit_code, followed.exit_code) == (0, 1), cancelled.output + followed.output
    assert ended.status is BulkActionStatus.CANCELED
    assert {run.status for run in live.runs(ended.backfill_id)} == {DagsterRunStatus.CANCELED}
    assert project.rows() == {}

    in_vain = sum(map(len, oracle.sent))
    mended = called(*MEND)

    [again] = live.instance.get_backfills(limit=1)
    assert mended.exit_code == 0, mended.output
    assert again.partition_names == keys
    results = [result_of(live.instance, run) for run in live.runs(again.backfill_id)]
    check_invariants(project, oracle, results, resent=in_vain)


def with_name(words: list[str], name: str) -> list[str]:
    """Return the words with the name of a backfill."""
    return [name if word == "ID" else word for word in words]
