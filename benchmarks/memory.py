"""Peak memory under far too much work: 8 requests at once, each of 32 texts of 8,192 tokens.

The service may use 1.5 GB more than it does when idle, and half of the texts may wait. All texts
of a request would go in one pass, for which 3.6 GB were seen: what bounds passes is the memory.
Refused requests come again after the time that they were told. Meanwhile somebody asks short
queries, one after the other. The default model is a tiny nomic-shaped one (2 layers, 128 wide).
"""

import argparse
import dataclasses
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import requests

from benchmarks import command_line
from benchmarks.load_generator import LoadFigures, Setting, send_all
from benchmarks.memory_report import ALLOWED_BYTES, Figures, Sample
from benchmarks.nomic_shaped_model import make_model
from benchmarks.reports import exit_code, goals_table, mib, progress, table, write_json
from benchmarks.server_processes import Command, ServerProcess
from benchmarks.texts import make_texts, whole_words

_TINY = "tiny"
_TOKENS = 8192
_SETTING = Setting(batch_size=32, parallel=8)
# Room for half of what is sent at once; the usual limit is all of it, to the token.
_ROOM_TOKENS = _TOKENS * _SETTING.batch_size * _SETTING.parallel // 2
# So many that a pass may hold all texts of a request, by their attention as well.
_PASS_TOKENS = 2**20
_QUERY = Setting(batch_size=1, parallel=1)
_QUERY_TOKENS = 16
_SAMPLES_EVERY_S = 0.1
# Between two queries, so that they meet passes at any moment and do not all go between two.
_PAUSE_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if every goal is met, else 1."""
    parser = command_line.parser("memory", __doc__)
    parser.add_argument(
        "--model", default=_TINY, metavar="NAME", help=f"{_TINY}, nomic, a folder; default {_TINY}"
    )
    parser.add_argument("--precision", type=command_line.precision, default="fp32")
    parser.add_argument(
        "--requests", type=command_line.positive, default=8, metavar="N", help="of 32; default 8"
    )
    asked = parser.parse_args(arguments)
    asked.cache.mkdir(parents=True, exist_ok=True)
    figures = measured(asked)
    print(table(["", ""], figures.rows()))
    print(f"\n{goals_table(figures.goals())}")
    write_json(asked.out, "memory", {"figures": figures}, figures.goals())
    progress(f"figures: {asked.out}")
    return exit_code(figures.goals())


def measured(asked: argparse.Namespace) -> Figures:
    """Start the service without and with its limit, and lean on the second one."""
    folder = _folder(asked.model, asked.cache)
    words = whole_words(folder)
    served = Command("embedding_service", environment=_settings(folder, asked))
    with ServerProcess(served) as server:
        idle = server.rss()
    progress(f"idle: {mib(idle)} MiB")
    limit = {"EMBEDDING_MAX_MEMORY": str(idle + ALLOWED_BYTES)}
    limited = dataclasses.replace(served, environment={**served.environment, **limit})
    texts = make_texts([_TOKENS] * _SETTING.batch_size * asked.requests, words)
    query = make_texts([_QUERY_TOKENS], words)
    with ServerProcess(limited) as server:
        # Once before: the first long text is led up to, with shorter pieces of it.
        send_all(server.url, texts[:1], _QUERY)
        one_s = send_all(server.url, texts[:1], _QUERY).seconds
        progress(f"one text: {one_s:.2f} s; all of them: about {one_s * len(texts):.0f} s")
        alone = [send_all(server.url, query, _QUERY, input_type="query") for _ in range(9)]
        seen = _under_load(server, texts, query)
    return Figures(
        model=asked.model,
        precision=asked.precision,
        idle=idle,
        alone_s=median(each.seconds for each in alone),
        **seen,
    )


def _under_load(
    server: ServerProcess, texts: Sequence[str], query: Sequence[str]
) -> dict[str, Any]:
    """Return what ``Figures`` holds of the load itself."""
    over = threading.Event()
    began = time.perf_counter()
    before = _sample(server, began)
    with ThreadPoolExecutor(3) as pool:
        load = pool.submit(send_all, server.url, texts, _SETTING)
        load.add_done_callback(lambda _: over.set())
        meanwhile = pool.submit(_sampled, server, began, over)
        queries = pool.submit(_queries, server.url, query, over)
    return {
        "load": load.result(),
        "queries": queries.result(),
        "samples": [before, *meanwhile.result(), _sample(server, began)],
        "peak": server.peak_rss(),
    }


def _queries(url: str, query: Sequence[str], over: threading.Event) -> list[LoadFigures]:
    taken = []
    while not over.is_set():
        taken.append(send_all(url, query, _QUERY, input_type="query"))
        over.wait(_PAUSE_S)
    return taken


def _sampled(server: ServerProcess, began: float, over: threading.Event) -> list[Sample]:
    samples = []
    while not over.wait(_SAMPLES_EVERY_S):
        samples.append(_sample(server, began))
    return samples


def _sample(server: ServerProcess, began: float) -> Sample:
    stats = requests.get(f"{server.url}/health", timeout=60).json()["stats"]
    at_s = time.perf_counter() - began
    return Sample(at_s, server.rss(), batches=stats["batches"], busy_s=stats["busy_s"])


def _settings(model: Path, asked: argparse.Namespace) -> dict[str, str]:
    return {
        "EMBEDDING_MODEL": str(model.resolve()),
        "EMBEDDING_DEVICE": "cpu",
        "EMBEDDING_PRECISION": asked.precision,
        "EMBEDDING_MAX_SEQ_LENGTH": str(_TOKENS),
        "EMBEDDING_MAX_QUEUE_TOKENS": str(_ROOM_TOKENS),
        "EMBEDDING_MAX_BATCH_TOKENS": str(_PASS_TOKENS),
        "EMBEDDING_CACHE_DIR": str((asked.cache / "prepared").resolve()),
    }


def _folder(model: str, cache: Path) -> Path:
    if model != _TINY:
        return command_line.model(model, cache).folder
    folder = cache / "nomic-shaped-tiny"
    if not folder.is_dir():
        unfinished = cache / "nomic-shaped-tiny.unfinished"
        make_model(unfinished, layers=2, width=128)
        unfinished.rename(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
