"""The pace that a run finds by itself against fixed settings, over the passages of a corpus.

The pipeline's own client sends every passage through a real service: at each fixed setting, and
adaptive, with no preset. Sides take turns; every measurement has a fresh service process. What is
compared is passages per second from the first request to the last answer.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import command_line
from benchmarks.load_generator import Setting
from benchmarks.passages import read_passages
from benchmarks.reports import Goal, Spread, exit_code, goals_table, progress, table, write_json
from benchmarks.server_processes import ServerProcess
from benchmarks.sides import Model, command, settings_of
from embedding_service.backends import load_backend
from embedding_service.settings import read_settings
from rba_pipeline.core.embeddings import Text
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_stream import Traffic

ADAPTIVE = "adaptive"
SHARE_OF_BEST = 0.95
_USUAL_SETTINGS = "4x2,8x4,16x4,32x8"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if the pace found is good enough, else 1."""
    asked = _parser().parse_args(arguments)
    goals: list[Goal] = []
    figures: dict[str, Mapping[str, list[float]]] = {}
    for model in command_line.models(asked):
        texts = _texts(asked.corpus, model, asked)
        found = measured(model, texts, asked)
        figures[model.name] = found
        fixed = [name for name in found if name != ADAPTIVE]
        best = max(fixed, key=lambda name: Spread.of(found[name]).middle)
        rows = [
            [name, str(Spread.of(rates)), str(Spread.of_ratios(rates, found[best]))]
            for name, rates in found.items()
        ]
        print(table([model.name, "passages/s", f"× {best}, the best fixed"], rows), flush=True)
        ratio = Spread.of_ratios(found[ADAPTIVE], found[best]).middle
        goals.append(Goal(f"{model.name}: adaptive, of the best fixed", ratio, SHARE_OF_BEST))
    print(f"\n{goals_table(goals)}")
    write_json(asked.out, "pace", figures, goals)
    progress(f"figures: {asked.out}")
    return exit_code(goals)


def measured(
    model: Model, texts: Sequence[Text], asked: argparse.Namespace
) -> dict[str, list[float]]:
    """Return passages per second of each side, one value per round."""
    sides: list[tuple[str, Setting | None]] = [
        *((f"{each.batch_size}x{each.parallel}", each) for each in asked.settings),
        (ADAPTIVE, None),
    ]
    found: dict[str, list[float]] = {name: [] for name, _ in sides}
    for number in range(asked.rounds):
        # Whoever comes first in one round comes last in the next.
        for name, setting in sides[:: -1 if number % 2 else 1]:
            serving = command(asked.precision, model, device=asked.device, cache=asked.cache)
            with ServerProcess(serving) as server:
                rate, said = _rate(server.url, setting, texts)
            found[name].append(rate)
            progress(f"round {number + 1} of {asked.rounds}  {name}: {rate:.2f} passages/s{said}")
    return found


def _rate(url: str, setting: Setting | None, texts: Sequence[Text]) -> tuple[float, str]:
    if setting is None:
        resource = Embedding(api_url=url)
    else:
        resource = Embedding(
            api_url=url,
            batch_size=setting.batch_size,
            parallel_batches=setting.parallel,
            adaptive=False,
        )
    traffic = Traffic()
    with resource.open() as client:
        info = resource.handshake()
        parts = resource.embed_stream(
            texts,
            total=len(texts),
            info=info,
            canary=client.canary(info, None),
            traffic=traffic,
            on_progress=lambda so_far: None,
        )
        embedded = sum(len(part.text_hashes) for part in parts)
    if embedded != len(texts):
        raise RuntimeError(f"{len(texts)} passages were sent, {embedded} vectors came back")
    path = " ".join(
        f"{step.bounds.batch_size}x{step.bounds.parallel_batches}@{step.at_s:.0f}s"
        for step in traffic.path
    )
    return embedded / traffic.seconds, f"  {path}" if setting is None else ""


def _texts(corpus: Path, model: Model, asked: argparse.Namespace) -> list[Text]:
    settings = settings_of(asked.precision, model, asked.device, asked.cache)
    given = {name.removeprefix("EMBEDDING_").lower(): value for name, value in settings.items()}
    backend = load_backend(read_settings(**given))
    texts = [passage.text for passage in read_passages(corpus, backend)]
    if asked.texts:
        step = max(1, len(texts) // asked.texts)
        texts = texts[::step][: asked.texts]
    ids = backend.tokenise(texts, "document")
    progress(f"{model.name}: {len(texts)} passages, {sum(map(len, ids))} tokens")
    return [
        Text(str(place), text, len(found))
        for place, (text, found) in enumerate(zip(texts, ids, strict=True))
    ]


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("pace", __doc__)
    command_line.add_rounds(parser)
    command_line.add_device(parser)
    command_line.add_models(parser)
    command_line.add_texts(parser)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of publications")
    parser.add_argument("--precision", type=command_line.precision, default="bf16")
    parser.add_argument(
        "--settings",
        type=command_line.settings,
        default=_USUAL_SETTINGS,
        metavar="LIST",
        help=f"texts per request x requests in flight; default {_USUAL_SETTINGS}",
    )
    parser.set_defaults(model=["minilm"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
