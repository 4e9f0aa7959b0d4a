"""The demo as a new user runs it: its own database, the real service, the default model.

Only its prepared model may be there already, of another test.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rba_pipeline.settings import SAMPLE_CORPUS
from rba_pipeline_tests.installation import ROOT

pytestmark = [pytest.mark.postgres, pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have an empty project folder; what the demo made outside of it is removed as well."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, folder)
    yield folder
    data = folder / ".state" / "postgres"
    if data.is_symlink():
        shutil.rmtree(data.resolve())


@pytest.fixture(scope="module")
def first(project: Path) -> str:
    """Run the demo on the sample corpus, and return what it printed."""
    return run(project, "demo")


def run(project: Path, *words: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("rba-pipeline"), *words],
        cwd=project,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "RBA_PROJECT": str(project), "HOME": "/"}
        | {"EMBEDDING_CACHE_DIR": os.environ["EMBEDDING_CACHE_DIR"]},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def figure(name: str, output: str) -> int:
    """Return the number behind ``name`` in the summary."""
    found = re.search(rf"^{name} +([\d,]+)", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1].replace(",", ""))


def test_every_file_is_accounted_for_and_every_chunk_has_a_vector(first: str) -> None:
    assert "15 files = 14 published + 1 quarantined" in first
    assert figure("documents", first) == 14
    assert figure("chunks", first) == figure("vectors", first) > 14


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("bridge toll", "Pilot of Toll Tokens"),
        ("polymer banknotes", "Old Polymer Banknotes"),
        ("payments network", "Outage of the Fast Payments Network"),
    ],
)
def test_the_first_hit_answers_the_search(first: str, query: str, title: str) -> None:
    asked = re.search(rf'search ".*{query}.*"\n +1\. [\d.]+ +(.*)', first)

    assert asked is not None
    assert asked[1].startswith(title)


@pytest.mark.long
def test_a_second_demo_parses_and_embeds_nothing(project: Path, first: str) -> None:
    again = run(project, "demo", "--source", str(SAMPLE_CORPUS))

    assert "15, 0 of them parsed now" in again
    assert f"0 embedded in 0 requests, {figure('chunks', first)} reused" in again
    assert figure("vectors", again) == figure("vectors", first)


def test_the_demo_stops_what_it_started(project: Path, first: str) -> None:
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if str(project) in " ".join(process.info["cmdline"] or [])
    ]

    assert left == []


def test_a_search_finds_the_passage_with_its_source(project: Path, first: str) -> None:
    found = run(
        project, "search", "worn notes are recycled", "--series", "media-release", "-k", "1"
    )

    assert "Old Polymer Banknotes" in found
    assert "2020-08-19" in found
    assert "mr-20-07.html" in found


def test_the_quarantine_lists_the_undated_file(project: Path, first: str) -> None:
    listed = run(project, "quarantine")

    assert re.search(r"on-the-office-clock\.txt\tundated", listed)
