"""Case O13: documents and chunks are made again while the steps after them read the old ones."""

import threading
from collections.abc import Callable

import dagster as dg
import psycopg
import pytest

from rba_pipeline.definitions import build_defs
from rba_pipeline.jobs import PUBLISH
from rba_pipeline_tests.faults.conftest import BATCH, PARALLEL, PARTITION, add_documents
from rba_pipeline_tests.faults.database_proxy import DatabaseProxy, Fate
from rba_pipeline_tests.faults.invariants import check_invariants, check_message
from rba_pipeline_tests.faults.runs import start
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService

pytestmark = [pytest.mark.postgres, pytest.mark.case("O13")]

LONG = pytest.mark.long
UPSTREAM = [dg.AssetKey("documents"), dg.AssetKey("chunks")]


def edit(project: Installation) -> None:
    """Give document A other words, and some more of them."""
    add_documents(project, paragraphs=40, names=["A"], word="edited")


def remove(project: Installation) -> None:
    """Take document B away; no text is new."""
    (project.source / "B.html").unlink()


def upstream_again(project: Installation) -> None:
    """Make documents and chunks as another run would that has just begun."""
    job = build_defs(project.settings, retry_policy=None).resolve_job_def(PUBLISH)
    with dg.DagsterInstance.get() as instance:
        assert job.execute_in_process(
            partition_key=PARTITION, instance=instance, asset_selection=UPSTREAM
        ).success


def chunks_by_document(project: Installation) -> dict[str, int]:
    """Return how many chunks of each published document are searchable."""
    with psycopg.connect(project.environment["RBA_DATABASE_URL"]) as connection:
        return dict(
            connection.execute(
                "SELECT path, count(chunk_id) FROM documents LEFT JOIN vectors "
                "USING (corpus, document_id) GROUP BY path"
            ).fetchall()
        )


def ends_well(project: Installation, oracle: OracleService, output: str, *, fails: str) -> None:
    """Assert that the run failed, saying ``fails``, or (empty) published one version whole."""
    published = chunks_by_document(project)
    results = project.run(PARTITION)

    check_message(output)
    assert fails in output
    assert published == ({} if fails else chunks_by_document(project))
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=2 * BATCH * PARALLEL)


@pytest.mark.parametrize(
    ("before_the_texts", "change", "fails"),
    [
        pytest.param(True, edit, "RecordMissing: 32 texts", id="before-the-texts-edited"),
        pytest.param(
            False, edit, "one_vector_per_text: of 72 texts, 40", id="amid-the-texts-edited",
            marks=LONG,
        ),
        pytest.param(False, remove, "", id="amid-the-texts-removed", marks=LONG),
    ],
)  # fmt: skip
def test_while_embeddings_are_made(
    project: Installation,
    oracle: OracleService,
    before_the_texts: bool,
    change: Callable[[Installation], None],
    fails: str,
) -> None:
    reached, over = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        reached.set()
        over.wait(RUN_S)

    if before_the_texts:
        oracle.canary_script = hold
    else:
        oracle.script = lambda number, texts: hold() if number == 1 else None
    process = start(project)
    assert reached.wait(RUN_S)
    change(project)
    upstream_again(project)
    over.set()
    output, _ = process.communicate(timeout=RUN_S)

    ends_well(project, oracle, output, fails=fails)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(b"staged_documents", id="before-the-documents", marks=LONG),
        pytest.param(b"staged_chunks", id="between-documents-and-chunks", marks=LONG),
    ],
)
def test_while_vectors_are_published(
    project: Installation, oracle: OracleService, table: bytes
) -> None:
    reached, over = threading.Event(), threading.Event()

    def hold(kind: bytes, content: bytes) -> Fate:
        if kind in (b"Q", b"P") and b"COPY " + table in content:
            reached.set()
            over.wait(RUN_S)
        return Fate.PASSES

    direct = project.environment["RBA_DATABASE_URL"]
    with DatabaseProxy(direct) as proxy:
        proxy.watch = hold
        project.environment["RBA_DATABASE_URL"] = proxy.url
        process = start(project)
        assert reached.wait(RUN_S)
        project.environment["RBA_DATABASE_URL"] = direct
        remove(project)
        upstream_again(project)
        over.set()
        output, _ = process.communicate(timeout=RUN_S)

    ends_well(
        project, oracle, output, fails="RecordMissing: the documents of this partition changed"
    )
