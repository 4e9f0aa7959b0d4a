"""The command ``rba-pipeline backfill`` over code server, daemon and real runs."""

import pytest
from dagster._core.execution.backfill import BulkActionStatus

from rba_pipeline.run_outcomes import metadata_of
from rba_pipeline_tests.command_line import called
from rba_pipeline_tests.faults.conftest import fill
from rba_pipeline_tests.faults.invariants import check_invariants
from rba_pipeline_tests.faults.live_dagster import LiveDagster, result_of
from rba_pipeline_tests.installation import Installation
from rba_pipeline_tests.oracle_service import OracleService

pytestmark = [pytest.mark.postgres, pytest.mark.long, pytest.mark.timeout(300)]


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

    asked = called("backfill", "--all", "--preset", "gpu", "--batch-size", "6")

    [backfill] = live.instance.get_backfills(limit=1)
    runs = live.runs(backfill.backfill_id)
    assert asked.exit_code == 0, asked.output
    assert f"backfill {backfill.backfill_id} of 3 partitions" in asked.output
    assert asked.output.splitlines()[-1].startswith("3 of 3 partitions done, ")
    assert backfill.status is BulkActionStatus.COMPLETED_SUCCESS
    assert backfill.partition_names == keys
    effective = [
        metadata_of(live.instance, run)["embeddings"]["effective_configuration"] for run in runs
    ]
    assert {(each["preset"], each["batch_size"]) for each in effective} == {("gpu", 6)}
    results = [result_of(live.instance, run) for run in runs]
    check_invariants(project, oracle, results, resent=0)
