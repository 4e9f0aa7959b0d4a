"""What users must be able to trust, shown over real runs, a real database and real HTTP."""

import json
import os
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import dagster as dg
import numpy as np
import psycopg
import pytest
import requests
from psycopg import sql

from rba_pipeline import processes
from rba_pipeline.definitions import build_defs
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.resources.ports import LOOPBACK, free_port, somebody_listens
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline_tests.documented import named
from rba_pipeline_tests.installation import (
    DAGSTER,
    ROOT,
    RUN_S,
    Installation,
    failures,
    installation_in,
    total,
)
from rba_pipeline_tests.oracle_service import OracleService, Reply, oracle_vector

pytestmark = pytest.mark.postgres

SUBJECTS = ("tolls", "banknotes", "credit", "exports", "housing", "wages", "shipping", "wheat")

ASSETS = ("documents", "chunks", "embeddings", "vectors")

LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }
"""


def paragraphs(seed: int, count: int) -> list[str]:
    """Return distinct paragraphs of some thirty words."""
    return [
        " ".join(
            f"{SUBJECTS[(seed + place + word) % 8]} figure {seed}-{place}-{word}"
            for word in range(10)
        )
        + "."
        for place in range(count)
    ]


def add_three_years(installation: Installation) -> None:
    for year in (2011, 2012, 2013):
        for month, name in ((3, "March"), (9, "September")):
            installation.add(
                f"{year}/mr-{month}.html",
                title=f"Statement of {name} {year}",
                day=f"5 {name} {year}",
                paragraphs=paragraphs(year * 100 + month, 8),
            )


@pytest.fixture(scope="session")
def three_years(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, fresh_dagster_home: Path
) -> Installation:
    """Have six documents of three years published, to be copied."""
    folder = tmp_path_factory.mktemp("three-years")
    shutil.copytree(fresh_dagster_home, folder / "dagster")
    execute(postgres, sql.SQL("CREATE DATABASE three_years"))
    with OracleService() as oracle, pytest.MonkeyPatch.context() as environment:
        made = installation_in(folder, postgres.url("three_years"), oracle, environment)
        add_three_years(made)
        assert failures(made.run_all()) == []
    return made


@pytest.fixture
def published(
    installation: Installation, three_years: Installation, postgres: EmbeddedPostgres
) -> Installation:
    """Have six documents of three years published, of which the oracle knows nothing."""
    for name in ("publications", "store", "dagster"):
        shutil.copytree(three_years.folder / name, installation.folder / name, dirs_exist_ok=True)
    with psycopg.connect(installation.environment["RBA_DATABASE_URL"]) as connection:
        own = sql.Identifier(connection.info.dbname)
    execute(
        postgres,
        sql.SQL("DROP DATABASE {}").format(own),
        sql.SQL("CREATE DATABASE {} TEMPLATE three_years").format(own),
    )
    return installation


def run_steps(installation: Installation, key: str, *assets: str) -> dg.ExecuteInProcessResult:
    """Materialise some assets of one partition; raise what makes one of them fail."""
    job = build_defs(installation.settings, retry_policy=None).resolve_job_def(PUBLISH)
    with dg.DagsterInstance.get() as instance:
        return job.execute_in_process(
            partition_key=key, instance=instance, asset_selection=[dg.AssetKey(of) for of in assets]
        )


def execute(postgres: EmbeddedPostgres, *statements: sql.Composable) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_every_chunk_has_the_vector_of_its_own_text(installation: Installation) -> None:
    add_three_years(installation)

    results = installation.run_all()

    rows, vectors = installation.rows(), installation.vectors()
    assert failures(results) == []
    assert [result.key for result in results] == ["2011-01-01", "2012-01-01", "2013-01-01"]
    assert total(results, "documents", "documents") == 6
    assert len(rows) == total(results, "chunks", "chunks") > 6
    assert len(rows) == total(results, "vectors", "vectors")
    for chunk_id, row in rows.items():
        np.testing.assert_allclose(vectors[chunk_id], oracle_vector(row[6]), atol=1e-6)


def test_an_unchanged_corpus_sends_no_text_and_parses_no_file(
    published: Installation, oracle: OracleService
) -> None:
    before = published.rows()
    oracle.sent.clear()

    results = published.run_all()

    assert oracle.sent == []
    assert total(results, "documents", "parsed_files") == 0
    assert total(results, "embeddings", "embedded") == 0
    assert total(results, "embeddings", "reused") == len({row[5] for row in before.values()})
    assert published.rows() == before


@pytest.mark.case("T11")
def test_an_edited_document_sends_only_its_changed_chunks(
    published: Installation, oracle: OracleService
) -> None:
    before = published.rows()
    oracle.sent.clear()
    changed = paragraphs(201203, 8)
    changed[-1] = "The last paragraph was written anew and names a lighthouse."
    published.add(
        "2012/mr-3.html", title="Statement of March 2012", day="5 March 2012", paragraphs=changed
    )

    results = published.run_all()

    after = published.rows()
    new = {row[6] for row in after.values()} - {row[6] for row in before.values()}
    assert failures(results) == []
    assert set(oracle.texts_sent) == new
    assert 0 < len(new) < 3
    assert any("lighthouse" in text for text in new)
    assert not any("figure 201203-7-9" in row[6] for row in after.values())


@pytest.mark.case("O12")
@pytest.mark.long
def test_changing_the_chunk_size_and_back_embeds_nothing_twice(
    published: Installation, oracle: OracleService
) -> None:
    before = published.rows()

    published.environment["RBA_CHUNK_TOKENS"] = "128"
    smaller = published.run_all()
    of_smaller = published.rows()
    del published.environment["RBA_CHUNK_TOKENS"]
    back = published.run_all()

    assert failures(smaller) == failures(back) == []
    assert len(of_smaller) > len(before)
    assert {row[3] for row in of_smaller.values()}.isdisjoint({row[3] for row in before.values()})
    assert published.rows() == before
    assert max(Counter(oracle.texts_sent).values()) == 1


@pytest.mark.long
def test_changing_the_grain_embeds_nothing_and_loses_nothing(
    published: Installation, oracle: OracleService
) -> None:
    before = published.rows()
    oracle.sent.clear()
    published.environment["RBA_GRAIN"] = "month"

    results = published.run_all()

    assert failures(results) == []
    assert [result.key for result in results][:2] == ["2011-03-01", "2011-09-01"]
    assert oracle.sent == []
    assert published.rows() == before


@pytest.mark.case("T12")
def test_a_deleted_document_leaves_the_search(published: Installation) -> None:
    (published.source / "2013" / "mr-3.html").unlink()
    (published.source / "2013" / "mr-9.html").unlink()

    results = published.run_all()

    assert failures(results) == []
    assert results[-1].key == "2013-01-01"
    assert {row[7].year for row in published.rows().values()} == {2011, 2012}


def test_a_document_whose_date_moves_is_in_one_partition_only(published: Installation) -> None:
    published.add(
        "2011/mr-3.html",
        title="Statement of March 2011",
        day="5 March 2012",
        paragraphs=paragraphs(201103, 8),
    )

    results = published.run_all()

    moved = [row for row in published.rows().values() if "figure 201103-0-0" in row[6]]
    assert failures(results) == []
    assert [row[7].year for row in moved] == [2012]


def test_a_moved_document_is_not_lost_before_its_new_partition_runs(
    published: Installation,
) -> None:
    before = published.rows()
    published.add(
        "2011/mr-3.html",
        title="Statement of March 2011",
        day="5 March 2012",
        paragraphs=paragraphs(201103, 8),
    )

    results = published.run("2011-01-01")

    assert failures(results) == []
    assert published.rows() == before


@pytest.mark.parametrize(
    ("of_new_partition", "year"),
    [
        pytest.param(ASSETS[:1], 2011, id="catalogued", marks=pytest.mark.long),
        pytest.param(ASSETS, 2012, id="published"),
    ],
)
def test_a_document_that_moves_before_its_vectors_are_published_is_left_to_its_new_partition(
    published: Installation, of_new_partition: tuple[str, ...], year: int
) -> None:
    run_steps(published, "2011-01-01", *ASSETS[:3])
    published.add(
        "2011/mr-3.html",
        title="Statement of March 2011",
        day="5 March 2012",
        paragraphs=paragraphs(201103, 8),
    )
    run_steps(published, "2012-01-01", *of_new_partition)
    before = published.rows()

    result = run_steps(published, "2011-01-01", "vectors")

    [made] = result.asset_materializations_for_node("vectors")
    moved = [row for row in before.values() if "figure 201103-" in row[6]]
    stayed = [row for row in before.values() if "figure 201109-" in row[6]]
    assert {row[7].year for row in moved} == {year}
    assert made.metadata["vectors"].value == len(stayed)
    assert published.rows() == before
    assert failures(published.run("2012-01-01")) == []
    assert {row[7].year for row in published.rows().values() if row[2] == moved[0][2]} == {2012}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("", "empty", id="empty", marks=pytest.mark.long),
        pytest.param(
            "<html><p>A text that names no day at all.</p></html>",
            "undated",
            id="undated",
            marks=pytest.mark.long,
        ),
        pytest.param("\x00\x01\x02" * 500, "undecodable", id="binary", marks=pytest.mark.long),
    ],
)
def test_a_published_document_survives_a_file_that_turns_bad(
    published: Installation, content: str, reason: str
) -> None:
    before = published.rows()
    (published.source / "2012" / "mr-3.html").write_text(content)

    results = published.run_all()
    again = published.run_all()

    with published.neighbours() as found:
        entries = [(entry.name, entry.reason) for entry in found.vector_store.quarantine()]
    assert failures(results) == failures(again) == []
    assert published.rows() == before
    assert entries == [("2012/mr-3.html", reason)]
    assert total(again, "documents", "parsed_files") == 0


def test_a_missing_source_folder_is_an_error_and_deletes_nothing(published: Installation) -> None:
    before = published.rows()
    published.source.rename(published.folder / "elsewhere")

    results = published.run("2012-01-01")

    assert "publications" in failures(results)[0]
    assert published.rows() == before


def test_a_partition_without_documents_is_green_with_zero_rows(installation: Installation) -> None:
    with installation.neighbours() as found:
        found.vector_store.migrate()
    installation.add("2011/a.html", title="A", day="5 May 2011", paragraphs=paragraphs(1, 1))

    results = installation.run("1995-01-01")

    assert failures(results) == []
    assert total(results, "vectors", "vectors") == total(results, "chunks", "chunks") == 0


@pytest.mark.long
def test_two_corpora_share_a_database_and_stay_apart(
    published: Installation, oracle: OracleService
) -> None:
    of_first = published.rows()
    published.environment |= {"RBA_CORPUS": "other"}

    assert failures(published.run_all()) == []
    of_both = published.rows()
    for path in published.source.rglob("*.html"):
        path.write_text(path.read_text().replace("tolls", "ferries"))
    assert failures(published.run_all()) == []

    assert {row[0] for row in of_both.values()} == {"publications", "other"}
    kept = {name: row for name, row in published.rows().items() if row[0] == "publications"}
    assert kept == of_first


def test_a_text_that_the_service_rejects_is_quarantined_and_its_neighbours_are_stored(
    installation: Installation, oracle: OracleService
) -> None:
    add_three_years(installation)

    def reject_march_2012(number: int, texts: list[str]) -> Reply | None:
        bad = [place for place, text in enumerate(texts) if "figure 201203-0-0" in text]
        return Reply.error(422, "text_invalid", bad[0]) if bad else None

    oracle.script = reject_march_2012
    results = installation.run_all()

    with installation.neighbours() as found:
        entries = found.vector_store.quarantine()
    assert failures(results) == []
    assert total(results, "embeddings", "quarantined") == 1
    assert [(entry.kind, entry.reason) for entry in entries] == [("text", "text_invalid")]
    assert len(installation.rows()) == total(results, "chunks", "chunks") - 1


@pytest.mark.case("C24")
def test_another_model_in_the_middle_of_a_run_stops_it_and_mixes_nothing(
    published: Installation, oracle: OracleService
) -> None:
    before = published.rows()
    published.environment |= {"RBA_CHUNK_TOKENS": "128", "EMBEDDING_BATCH_SIZE": "2"}

    def swap(number: int, texts: list[str]) -> None:
        if number == first + 2:
            oracle.model = "another"

    first, oracle.script = len(oracle.sent), swap
    results = published.run("2011-01-01")

    assert "WrongSpace" in failures(results)[0]
    assert oracle.space() in failures(results)[0]
    assert published.rows() == before


@pytest.mark.case("O12")
def test_an_old_space_serves_until_all_partitions_of_the_new_one_are_published(
    published: Installation, oracle: OracleService
) -> None:
    with published.neighbours() as found:
        old = found.vector_store.active_space()
        oracle.model = "another"

        assert failures(published.run("2011-01-01", "2012-01-01")) == []
        in_between = found.vector_store.active_space()
        last = published.run("2013-01-01")

        assert old is not None
        assert in_between == old
        assert failures(last) == []
        assert found.vector_store.active_space().id == oracle.space()
        assert last[0].metadata["vectors"]["search_switched_to_this_space"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param(
            {"EMBEDDING_API_URL": "http://127.0.0.1:9", "EMBEDDING_OUTAGE_SECONDS": "1"},
            "http://127.0.0.1:9",
            id="no-service",
        ),
        pytest.param({"EMBEDDING_API_KEY": "wrong"}, "check EMBEDDING_API_KEY", id="wrong-key"),
        pytest.param(
            {"RBA_DATABASE_URL": "postgresql://u:secret@127.0.0.1:9/x"},
            "127.0.0.1:9",
            id="no-database",
        ),
    ],
)
def test_a_neighbour_that_is_away_fails_the_run_with_its_address_and_loses_nothing(
    published: Installation,
    environment: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = published.rows()
    (published.source / "2012" / "mr-3.html").unlink()
    with monkeypatch.context() as away:
        for name, value in environment.items():
            away.setenv(name, value)
            away.setitem(published.environment, name, value)
        impatient = {"resources": {"vector_store": {"config": {"retry_for_s": 0}}}}
        results = published.run("2012-01-01", config=impatient)

    assert expected in failures(results)[0]
    assert "secret" not in failures(results)[0]
    assert published.rows() == before


def test_a_database_without_our_schema_says_what_to_run(installation: Installation) -> None:
    installation.add("a.html", title="A", day="5 May 2011", paragraphs=paragraphs(1, 1))

    results = installation.run("2011-01-01")

    assert "rba-pipeline migrate" in failures(results)[0]


def test_a_bad_file_is_quarantined_and_its_neighbours_are_published(
    installation: Installation,
) -> None:
    add_three_years(installation)
    (installation.source / "empty.html").write_text("")
    (installation.source / "undated.txt").write_text("A note without any date in it.")

    results = installation.run_all()

    with installation.neighbours() as found:
        entries = {entry.name: entry.reason for entry in found.vector_store.quarantine()}
    assert failures(results) == []
    assert entries == {"empty.html": "empty", "undated.txt": "undated"}
    assert total(results, "documents", "documents") == 6


class TestCommandLine:
    """``dagster`` as users call it, in a process of its own."""

    @pytest.mark.long
    def test_values_of_the_run_config_are_in_force_and_in_the_metadata(
        self, installation: Installation, oracle: OracleService
    ) -> None:
        [words] = named("dagster", "asset", "materialize")
        run_config = json.loads(words[words.index("--config-json") + 1])
        asked = run_config["resources"]["embedding"]["config"]
        size, parallel = asked["batch_size"], asked["parallel_batches"]
        day = f"5 May {words[words.index('--partition') + 1][:4]}"
        self._prepare(installation, count=3 * size, day=day)
        everyone_is_here = threading.Barrier(parallel)

        def meet(number: int, texts: list[str]) -> None:
            # Only when all requests are open at once does any of the first ones go on.
            if number < parallel:
                everyone_is_here.wait(30)

        oracle.script = meet
        run = installation.start_dagster(*words)
        output, _ = run.communicate(timeout=RUN_S)

        assert run.returncode == 0, output
        effective = self._metadata(installation, "embeddings")["effective_configuration"]
        assert asked.items() <= effective.items()
        # Later ones may be smaller: the pace is adaptive.
        assert [len(texts) for texts in oracle.sent[:parallel]] == [size] * parallel
        assert max(map(len, oracle.sent)) == size
        assert oracle.peak_in_flight == parallel

    @pytest.mark.case("O10")
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            pytest.param({"batch_size": 0}, "batch_size=0: allowed is", id="zero"),
            pytest.param(
                {"parallel_batches": 65}, "from 1 to 64", id="too-many", marks=pytest.mark.long
            ),
            pytest.param(
                {"timeout_s": 10**9}, "from 1 to 3600", id="too-long", marks=pytest.mark.long
            ),
        ],
    )
    def test_a_value_out_of_range_is_refused_once_before_any_work(
        self,
        installation: Installation,
        oracle: OracleService,
        config: dict[str, int],
        expected: str,
    ) -> None:
        self._prepare(installation)

        run = installation.launch("2011-01-01", config)
        output, _ = run.communicate(timeout=RUN_S)

        assert run.returncode != 0
        assert output.count(expected) == 1
        assert "RUN_START" not in output
        assert oracle.sent == []

    @pytest.mark.case("O1")
    @pytest.mark.long
    def test_a_killed_run_is_continued_and_ends_like_an_undisturbed_one(
        self, installation: Installation, oracle: OracleService
    ) -> None:
        self._prepare(installation, count=60)
        reached, go_on = threading.Event(), threading.Event()

        def hold(number: int, texts: list[str]) -> None:
            if number == 9:
                reached.set()
                go_on.wait(30)

        oracle.script = hold
        settings = {"batch_size": 2, "parallel_batches": 2}
        run = installation.launch("2011-01-01", settings)
        assert reached.wait(60)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate(timeout=30)
        go_on.set()
        again = installation.launch("2011-01-01", settings)
        output, _ = again.communicate(timeout=RUN_S)

        sent = Counter(oracle.texts_sent)
        rows, vectors = installation.rows(), installation.vectors()
        assert again.returncode == 0, output
        assert set(sent) == {row[6] for row in rows.values()}
        assert 0 < sum(count - 1 for count in sent.values()) <= 2 * 2 * 2
        assert max(sent.values()) == 2
        for chunk_id, row in rows.items():
            np.testing.assert_allclose(vectors[chunk_id], oracle_vector(row[6]), atol=1e-6)

    @pytest.mark.long
    def test_a_service_that_is_down_ends_the_command_with_one_readable_message(
        self, installation: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._prepare(installation)
        monkeypatch.setitem(installation.environment, "EMBEDDING_API_URL", "http://127.0.0.1:9")
        monkeypatch.setitem(installation.environment, "EMBEDDING_OUTAGE_SECONDS", "1")

        run = installation.launch("2011-01-01")
        output, _ = run.communicate(timeout=RUN_S)

        assert run.returncode != 0
        assert "Failure: ServiceUnavailable: cannot reach the embedding service" in output
        assert "at http://127.0.0.1:9" in output
        assert "caused by the following exception" not in output
        assert "make up" in output
        assert installation.rows() == {}

    @pytest.mark.long
    def test_dagster_dev_serves_the_definitions(self, installation: Installation) -> None:
        [words] = named("dagster", "dev")
        shutil.copy(ROOT / "workspace.yaml", installation.folder)
        port = free_port(0)

        dev = processes.start(
            "dagster dev", [DAGSTER, *words, "--port", str(port)], cwd=installation.folder,
            log=installation.folder / "dev.log", environment=os.environ,
        )  # fmt: skip
        try:
            processes.wait_until(lambda: somebody_listens(port), dev, RUN_S)
            answer = requests.post(
                f"http://{LOOPBACK}:{port}/graphql", json={"query": LOCATIONS}, timeout=RUN_S
            ).json()
        finally:
            processes.stop([dev], grace_s=10)

        assert answer["data"]["workspaceOrError"]["locationEntries"] == [
            {"name": "rba_pipeline", "loadStatus": "LOADED"}
        ]

    def _prepare(
        self, installation: Installation, count: int = 30, day: str = "5 May 2011"
    ) -> None:
        installation.environment |= {"RBA_CHUNK_TOKENS": "64", "RBA_CHUNK_OVERLAP": "16"}
        for name in ("A", "B"):
            text = paragraphs(ord(name), count)
            installation.add(f"{name}.html", title=name, day=day, paragraphs=text)
        with installation.neighbours() as found:
            found.vector_store.migrate()

    def _metadata(self, installation: Installation, asset: str) -> dict[str, object]:
        with dg.DagsterInstance.get() as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
            assert event is not None
            assert event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            return {name: value.value for name, value in metadata.items()}


def test_the_database_refuses_vectors_of_another_dimension_or_length(
    published: Installation,
) -> None:
    url = published.environment["RBA_DATABASE_URL"]
    copy = (
        "INSERT INTO vectors SELECT corpus, space, 'x', document_id, chunking_id, ordinal, "
        "section, "
        "page, start, text, text_hash, tokens, %s::vector FROM vectors LIMIT 1"
    )
    bad = [json.dumps([1.0, 0.0]), json.dumps([0.0] * 8), json.dumps([2.0] + [0.0] * 7)]

    for vector in bad:
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(copy, [vector])


def test_a_run_config_that_mixes_two_corpora_is_refused_and_changes_nothing(
    published: Installation,
) -> None:
    before = published.rows()
    config = {"resources": {"source": {"config": {"corpus": "other"}}}}

    results = published.run("2012-01-01", config=config)

    assert "the source is of corpus 'other', the record of 'publications'" in failures(results)[0]
    assert published.rows() == before
