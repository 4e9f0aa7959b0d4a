"""One installation for a test: its own corpus, store and databases, and real Dagster runs over
them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

from rba_pipeline.core.windows import Window
from rba_pipeline.materialise import PartitionResult, materialise, partitions_to_materialise
from rba_pipeline.neighbours import neighbours
from rba_pipeline.partitions import partitions_by, window_of
from rba_pipeline.settings import SAMPLE_CORPUS, Settings
from rba_pipeline_tests.oracle_service import KEY, OracleService

ROOT = Path(__file__).resolve().parents[1]
RUN_S = 100
DAGSTER = str(Path(sys.executable).with_name("dagster"))


@dataclass
class Installation:
    """A corpus folder, its record and its database, named by an environment as in ``.env``."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.folder / "publications"

    @property
    def settings(self) -> Settings:
        return Settings.read(self.environment)

    def add(self, name: str, *, title: str, day: str, paragraphs: list[str]) -> Path:
        """Write a media release that is filed on ``day`` (like ``4 June 2013``)."""
        body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<html><head><title>{title}</title></head><body><div id="content">'
            f'<h1><span class="rss-mr-title">{title}</span></h1><div class="box-article-info">'
            f'<p><strong>Date</strong> <span class="value">{day}</span></p></div>{body}'
            "</div></body></html>"
        )
        return path

    def add_sample(self) -> None:
        """Bring in the sample corpus."""
        shutil.copytree(SAMPLE_CORPUS, self.source, dirs_exist_ok=True)

    def run_all(self) -> list[PartitionResult]:
        """Materialise every partition that needs it; a failure is in the results."""
        with self.neighbours() as found:
            found.vector_store.migrate()
            keys, _ = partitions_to_materialise(self.settings, found.source, found.vector_store)
        return self.run(*keys)

    def run(self, *keys: str, config: Mapping[str, Any] | None = None) -> list[PartitionResult]:
        """Materialise these partitions, with a run config on top of the environment."""
        return list(materialise(self.settings, list(keys), config or {}))

    def neighbours(self) -> Any:
        """Open the resources, outside of Dagster."""
        return neighbours(self.settings)

    def launch(self, key: str, config: dict[str, Any] | None = None) -> "subprocess.Popen[str]":
        """Start ``dagster asset materialize`` for one partition, in a process group of its own."""
        words = ["asset", "materialize", "--select", "*", "--partition", key,
                 "-m", "rba_pipeline.definitions"]  # fmt: skip
        if config is not None:
            run_config = {"resources": {"embedding": {"config": config}}}
            words += ["--config-json", json.dumps(run_config)]
        return self.start_dagster(*words)

    def start_dagster(self, *words: str) -> "subprocess.Popen[str]":
        """Start the command ``dagster``, in a process group of its own."""
        return subprocess.Popen(
            [DAGSTER, *words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def rows(self) -> dict[str, tuple[Any, ...]]:
        """Return the searchable rows by chunk id: corpus, document, chunking, hash, text, date."""
        with psycopg.connect(self.environment["RBA_DATABASE_URL"]) as connection:
            found = connection.execute(
                "SELECT chunk_id, corpus, v.space, document_id, chunking_id, ordinal, "
                "text_hash, text, "
                "published_on FROM vectors v JOIN documents USING (corpus, document_id)"
            )
            return {row[0]: row[1:] for row in found}

    def vectors(self) -> dict[str, np.ndarray]:
        """Return the vectors by chunk id."""
        with psycopg.connect(self.environment["RBA_DATABASE_URL"]) as connection:
            register_vector(connection)
            found = connection.execute("SELECT chunk_id, embedding FROM vectors")
            return {row[0]: row[1].to_numpy() for row in found}

    def window(self, key: str) -> Window:
        """Return the dates of one partition."""
        return window_of(partitions_by(self.settings.grain, self.settings.first_year), key)


def installation_in(
    folder: Path, database_url: str, oracle: OracleService, environment: pytest.MonkeyPatch
) -> Installation:
    """Return an installation with an empty corpus and store in ``folder``, where Dagster's home is
    already; ``environment`` gets its variables.
    """
    made = Installation(folder)
    made.source.mkdir()
    made.environment |= {
        "DAGSTER_HOME": str(folder / "dagster"),
        "RBA_SOURCE": str(made.source),
        "RBA_CORPUS": "publications",
        "RBA_STORE": str(folder / "store"),
        "RBA_DATABASE_URL": database_url,
        "EMBEDDING_API_URL": oracle.url,
        "EMBEDDING_API_KEY": KEY,
        "PYTHONPATH": str(ROOT),
    }
    for name, value in made.environment.items():
        environment.setenv(name, value)
    return made


def failures(results: list[PartitionResult]) -> list[str]:
    """Return why runs failed; empty when all are green."""
    return [result.failure for result in results if result.failure]


def total(results: list[PartitionResult], asset: str, name: str) -> int:
    """Return the sum of one figure of the runs' metadata."""
    return sum(int(result.metadata[asset][name]) for result in results)
