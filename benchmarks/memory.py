"""Peak memory under far too much work: 8 requests at once, each of 32 texts of 8,192 tokens.

The service may use 1.5 GB more than it does when idle, and half of the texts may wait. Refused
requests come again after the time that they were told. Meanwhile somebody asks short queries, one
after the other. The default model is a tiny nomic-shaped one; another is made by
``python -m benchmarks.nomic_shaped_model``.
"""

import argparse
import dataclasses
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median

import requests

from benchmarks import command_line
from benchmarks.load_generator import LoadFigures, Setting, send_all
from benchmarks.memory_report import ALLOWED_BYTES, Figures
from benchmarks.nomic_shaped_model import make_model
from benchmarks.reports import exit_code, goals_table, mib, progress, table, write_json
from benchmarks.server_processes import Command, ServerProcess
from benchmarks.texts import make_texts, whole_words

_TOKENS = 8192
_SETTING = Setting(batch_size=32, parallel=8)
# Room for half of what is sent at once; the usual limit is all of it, to the token.
_ROOM_TOKENS = _TOKENS * _SETTING.batch_size * _SETTING.parallel // 2
_QUERY = Setting(batch_size=1, parallel=1)
_QUERY_TOKENS = 16
_SAMPLES_EVERY_S = 0.1
# Between two queries, so that they meet passes at any moment and do not all go between two.
_PAUSE_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if every goal is met, else 1."""
    parser = command_line.parser("memory", __doc__)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="default: a tiny one")
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
    model = asked.model or _tiny(asked.cache)
    words = whole_words(model)
    served = Command("embedding_service", environment=_settings(model, asked))
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
        return _under_load(server, texts, query, idle, median(a.seconds for a in alone))


def _under_load(
    server: ServerProcess,
    texts: Sequence[str],
    query: Sequence[str],
    idle: int,
    alone_s: float,
) -> Figures:
    over = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        load = pool.submit(send_all, server.url, texts, _SETTING)
        load.add_done_callback(lambda _: over.set())
        samples = pool.submit(_sampled, server, over)
        query_s = pool.submit(_queries, server.url, query, over)
        return Figures(
            idle=idle,
            peak=_peak_at_the_end(server, load),
            samples=samples.result(),
            load=load.result(),
            alone_s=alone_s,
            query_s=query_s.result(),
            longest_pass_s=_longest_pass_s(server),
        )


def _peak_at_the_end(server: ServerProcess, load: "Future[LoadFigures]") -> int:
    load.result()
    return server.peak_rss()


def _longest_pass_s(server: ServerProcess) -> float:
    stats = requests.get(f"{server.url}/health", timeout=60).json()["stats"]
    return float(stats["longest_batch_s"])


def _queries(url: str, query: Sequence[str], over: threading.Event) -> list[float]:
    taken = []
    while not over.is_set():
        taken.append(send_all(url, query, _QUERY, input_type="query").seconds)
        over.wait(_PAUSE_S)
    return taken


def _sampled(server: ServerProcess, over: threading.Event) -> list[tuple[float, int]]:
    began = time.perf_counter()
    samples = [(0.0, server.rss())]
    while not over.wait(_SAMPLES_EVERY_S):
        samples.append((time.perf_counter() - began, server.rss()))
    return samples


def _settings(model: Path, asked: argparse.Namespace) -> dict[str, str]:
    return {
        "EMBEDDING_MODEL": str(model.resolve()),
        "EMBEDDING_DEVICE": "cpu",
        "EMBEDDING_PRECISION": asked.precision,
        "EMBEDDING_MAX_SEQ_LENGTH": str(_TOKENS),
        "EMBEDDING_MAX_QUEUE_TOKENS": str(_ROOM_TOKENS),
        "EMBEDDING_CACHE_DIR": str((asked.cache / "prepared").resolve()),
    }


def _tiny(cache: Path) -> Path:
    folder = cache / "nomic-shaped-tiny"
    if not folder.is_dir():
        unfinished = cache / "nomic-shaped-tiny.unfinished"
        make_model(unfinished, layers=2, width=128)
        unfinished.rename(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
