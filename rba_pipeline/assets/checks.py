"""How what the assets promise becomes checks in Dagster, made within the step that they are about.

A check in a step of its own would start another process for each run, and a check after the
publication could only report what search reads already. Those that fail stop the step before
anything is built on what they found.
"""

import warnings
from collections.abc import Iterable, Iterator

import dagster as dg

from rba_pipeline.core.errors import HoleInPartition, RbaError, VectorsDrifted
from rba_pipeline.core.promises import (
    CHECKS,
    CORPUS_ADDS_UP,
    ONE_VECTOR_PER_CHUNK,
    SENTINEL,
    ChecksFailed,
    Verdict,
)

# An error that says that a promise is not kept, in place of a verdict.
_SAID_BY_ERROR = {VectorsDrifted: SENTINEL, HoleInPartition: ONE_VECTOR_PER_CHUNK}


def check_specs(
    asset: str, partitions: dg.TimeWindowPartitionsDefinition
) -> list[dg.AssetCheckSpec]:
    """Return what Dagster shows of the checks on ``asset``: of each partition, but for the one over
    all of them.
    """
    with warnings.catch_warnings():
        # Checks by partition are new to Dagster, whose version is pinned.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check.name,
                asset=asset,
                description=check.description,
                # It only ever warns: what waits elsewhere is no reason to stop here.
                blocking=check is not CORPUS_ADDS_UP,
                partitions_def=None if check is CORPUS_ADDS_UP else partitions,
            )
            for check in CHECKS[asset]
        ]


def check_results(verdicts: Iterable[Verdict]) -> list[dg.AssetCheckResult]:
    """Return the verdicts as Dagster keeps them."""
    return [
        dg.AssetCheckResult(
            check_name=verdict.check,
            passed=verdict.passed,
            description=verdict.said,
            metadata=dict(verdict.figures),
            severity=dg.AssetCheckSeverity.WARN
            if verdict.is_warning
            else dg.AssetCheckSeverity.ERROR,
        )
        for verdict in verdicts
    ]


def results_of_failure(asset: str, error: RbaError) -> Iterator[dg.AssetCheckResult]:
    """Yield the checks of ``asset`` that ``error`` is the result of; none for most errors."""
    if isinstance(error, ChecksFailed):
        yield from check_results(error.verdicts)
    check = _SAID_BY_ERROR.get(type(error))
    if check is not None and check in CHECKS[asset]:
        yield from check_results([Verdict(check.name, passed=False, said=str(error))])
