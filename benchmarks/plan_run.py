"""A plan and the runs that it is about, on an empty, a half-filled and an unchanged store.

A process of its own: the environment says where corpus, store, databases and service are, as for
the pipeline itself.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.reports import progress
from rba_pipeline.core.plans import Plan, totals
from rba_pipeline.core.run_costs import Way
from rba_pipeline.definitions import Settings
from rba_pipeline.dry_run import plan_partitions
from rba_pipeline.materialise import PartitionResult, materialise, partitions_to_materialise
from rba_pipeline.neighbours import neighbours


def main(arguments: Sequence[str]) -> int:
    """Take as many partitions as the argument says, 0 for all; print figures as JSON."""
    settings = Settings.read(os.environ)
    with neighbours(settings) as found:
        found.vector_store.migrate()
        keys, _ = partitions_to_materialise(settings, found.source, found.vector_store)
    wanted = int(arguments[0]) or len(keys)
    chosen = [keys[place * len(keys) // wanted] for place in range(min(wanted, len(keys)))]
    steps = {"empty": chosen[::2], "half-filled": chosen, "unchanged": chosen}
    print(json.dumps({name: compared(settings, name, some) for name, some in steps.items()}))
    return 0


def compared(settings: Settings, name: str, keys: list[str]) -> dict[str, Any]:
    """Plan these partitions, run them, and return predicted and real seconds.

    Raises:
        RuntimeError: A run failed, or did something else than was planned.
    """
    began_s = time.monotonic()
    with neighbours(settings) as found:
        plan = plan_partitions(settings, found, keys, way=Way.ONE_PROCESS)
    planning_s = time.monotonic() - began_s
    predicted_s = totals(plan.partitions, plan.costs).seconds or 0.0
    results = list(materialise(settings, keys))
    real_s = results[-1].ended - results[0].started
    _check(plan, results)
    costs = plan.costs
    run_s = costs.run_s + costs.between_s
    progress(
        f"{name}: predicted {predicted_s:.1f} s, real {real_s:.1f} s, planned in "
        f"{planning_s:.1f} s; {run_s:.2f} s for a run ({costs.run_from}), "
        f"{costs.rate or 0:,.0f} tokens/s ({costs.rate_from})"
    )
    return {
        "predicted_s": predicted_s,
        "real_s": real_s,
        "planning_s": planning_s,
        "embedded": sum(each.work.embed for each in plan.partitions),
        "tokens": sum(each.work.tokens for each in plan.partitions),
    }


def _check(plan: Plan, results: Sequence[PartitionResult]) -> None:
    for each, result in zip(plan.partitions, results, strict=True):
        if result.failure:
            raise RuntimeError(f"{result.key}: {result.failure}")
        made, published = result.metadata["embeddings"], result.metadata["vectors"]
        said = (each.work.embed, each.work.reuse, each.work.add, each.work.delete)
        done = (made["embedded"], made["reused"], published["inserted"], published["deleted"])
        if said != done:
            raise RuntimeError(f"{each.key}: planned were {said}, done was {done}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
