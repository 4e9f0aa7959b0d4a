"""The parts of ``make up`` over a folder of their own, of which single ones can be killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from benchmarks.reports import progress
from rba_pipeline import processes, stack
from rba_pipeline.local_service import start_service
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.settings import corpus_name
from rba_pipeline_tests.faults.live_dagster import LiveDagster
from rba_pipeline_tests.installation import ROOT
from rba_pipeline_tests.stack_project import clean_environment, free_ports
from rba_pipeline_tests.survival.account import Place

_STOP_S = 8


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that runs, and where."""

    folder: Path
    place: Place
    dagster: LiveDagster


@contextmanager
def running(folder: Path, corpus: Path, model: str | None) -> Iterator[Parts]:
    """Have everything running for the block, with nothing stored yet; this process' environment
    is that of the project, and stays so.

    Raises:
        RbaError: A part did not start; the message has the end of its log.
    """
    _settle_in(folder, corpus)
    with ExitStack() as stopping:
        stopping.enter_context(stack.stopping_on_signals())
        # The data may lie elsewhere: for root the folder is a link.
        postgres = EmbeddedPostgres(folder / ".state" / "postgres", port=0, password="")
        stopping.callback(postgres.remove)
        urls = stopping.enter_context(stack.database())
        progress("database: started")
        with VectorStore(database_url=urls.rba, corpus="").open() as vector_store:
            vector_store.migrate()
        starting = start_service(folder, model)
        stopping.callback(processes.stop, [starting.component], _STOP_S)
        address = starting.wait()
        os.environ["EMBEDDING_API_URL"] = address.url
        progress(f"embedding service: {address.url}")
        instance = stopping.enter_context(dg.DagsterInstance.get())
        dagster = LiveDagster(folder, instance)
        stopping.callback(dagster.stop)
        dagster.start()
        progress("code server, daemon, web interface: started")
        yield Parts(
            folder=folder,
            place=Place(
                source=corpus,
                store=Path(os.environ["RBA_STORE"]),
                corpus=corpus_name(str(corpus)),
                database_url=urls.rba,
                service_url=address.url,
                service_key=address.key,
            ),
            dagster=dagster,
        )


def _settle_in(folder: Path, corpus: Path) -> None:
    """Make a project in ``folder``, and this process one of its commands."""
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, folder)
    clean = clean_environment(folder, {"RBA_SOURCE": str(corpus)})
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]
    os.environ.update(clean)
    free_ports(folder)
    stack.load_environment()
