"""The setting that `rba-pipeline tune` finds against the best of all settings, at a real service.

Tuning first, then every setting of 1 to 64 texts per request by 1 to 16 requests in flight in
powers of two, each measured as long; then the setting found and the best of all, in turns. What is
compared is passages per second, and the time that both searches took.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.reports import Goal, Spread, exit_code, goals_table, progress, table, write_json
from benchmarks.server_processes import ServerProcess
from benchmarks.sides import command
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tuned import rows
from rba_pipeline.core.tuning import SHARE_OF_GRID, Measurement, Terms, largest_for
from rba_pipeline.core.tuning_plots import name_of
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.setting_probe import SettingProbe
from rba_pipeline.settings import SAMPLE_CORPUS
from rba_pipeline.tune import Plan, Tuning, line_of, sample_texts, tune

SHARE_OF_BEST = 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if both goals are met, else 1."""
    asked = _parser().parse_args(arguments)
    goals: list[Goal] = []
    figures: dict[str, Any] = {}
    for model in command_line.models(asked):
        serving = command(asked.precision, model, device=asked.device, cache=asked.cache)
        with ServerProcess(serving) as server:
            found = _measured(server.url, asked)
        print(_report(model.name, found), flush=True)
        figures[model.name] = found
        ratio = Spread.of_ratios(found["chosen_rates"], found["best_rates"]).middle
        share = found["tune_s"] / found["grid_s"]
        goals += [
            Goal(f"{model.name}: found, of the best of all", ratio, SHARE_OF_BEST),
            Goal(f"{model.name}: time, of all settings", share, SHARE_OF_GRID, at_most=True),
        ]
    print(f"\n{goals_table(goals)}")
    write_json(asked.out, "tune", figures, goals)
    progress(f"figures: {asked.out}")
    return exit_code(goals)


def _measured(url: str, asked: argparse.Namespace) -> dict[str, Any]:
    embedding = Embedding(api_url=url)
    records = RecordStore(store=str(asked.cache / "store"), corpus="tune")
    sampled = sample_texts(records, Chunking(), str(asked.corpus), asked.texts)
    began_s = time.monotonic()
    largest = Bounds(asked.largest.batch_size, asked.largest.parallel)
    plan = Plan(asked.texts, asked.seconds, largest=largest)
    tuning = tune(embedding, sampled, plan, progress)
    tune_s = time.monotonic() - began_s

    with embedding.metered() as client:
        info = client.info()
        texts, _ = sampled(info, client.tokenizer)
        probe = SettingProbe(client, info, texts, client.canary(info, None), asked.seconds)
        terms = Terms(asked.seconds, embedding.timeout_s, largest_for(info.max_texts, largest))
        began_s = time.monotonic()
        grid = [_shown(probe.measure(bounds, 0.0)) for bounds in terms.grid()]
        grid_s = time.monotonic() - began_s
        chosen, best = tuning.preset.bounds, max(grid, key=_sound_rate).bounds
        sides: dict[Bounds, list[float]] = {chosen: [], best: []}
        for number in range(asked.rounds):
            # Whoever comes first in one round comes last in the next.
            for bounds in list(sides)[:: -1 if number % 2 else 1]:
                sides[bounds].append(_shown(probe.measure(bounds, 0.0)).rate)
    return _figures(tuning, grid, sides) | {"tune_s": tune_s, "grid_s": grid_s}


def _figures(
    tuning: Tuning, grid: Sequence[Measurement], sides: dict[Bounds, list[float]]
) -> dict[str, Any]:
    chosen, best = tuning.preset.bounds, max(grid, key=_sound_rate).bounds
    return {
        "chosen": name_of(chosen),
        "best": name_of(best),
        "why": tuning.preset.why,
        "chosen_rates": sides[chosen],
        "best_rates": sides[best],
        "tried": rows(tuning.past),
        "grid": rows(grid),
    }


def _report(model: str, found: dict[str, Any]) -> str:
    lines = [
        ["tune", found["chosen"], len(found["tried"]), f"{found['tune_s']:.0f}",
         str(Spread.of(found["chosen_rates"]))],
        ["all settings", found["best"], len(found["grid"]), f"{found['grid_s']:.0f}",
         str(Spread.of(found["best_rates"]))],
    ]  # fmt: skip
    return table([model, "best", "measurements", "seconds", "passages/s, in turns"], lines)


def _sound_rate(each: Measurement) -> float:
    return each.rate if each.is_sound else 0.0


def _shown(each: Measurement) -> Measurement:
    progress(line_of(each))
    return each


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("tune", __doc__)
    command_line.add_rounds(parser, usual=5)
    command_line.add_device(parser)
    command_line.add_models(parser)
    parser.add_argument(
        "--corpus", type=Path, default=SAMPLE_CORPUS, help="publications; default the sample corpus"
    )
    parser.add_argument("--precision", type=command_line.precision, default="bf16")
    parser.add_argument("--texts", type=command_line.positive, default=512, help="default 512")
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="for each setting; default 3"
    )
    parser.add_argument(
        "--largest", type=command_line.setting, default="64x16", help="setting; default 64x16"
    )
    parser.set_defaults(model=["minilm"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
