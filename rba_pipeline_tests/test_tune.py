"""Tuning end to end, at an oracle service: the command, the job, and runs with what they found."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rba_pipeline.core.errors import BadSetting, NotAllowed, ServiceOverloaded
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tuned import MeasuredService, TunedPreset
from rba_pipeline.definitions import build_defs
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.tuned_file import read_tuned, write_tuned
from rba_pipeline.settings import SAMPLE_CORPUS
from rba_pipeline.tune import Plan, sample_texts, tune
from rba_pipeline.tuning_job import TUNE
from rba_pipeline_tests.command_line import called, point_at
from rba_pipeline_tests.installation import Installation, failures, total
from rba_pipeline_tests.oracle_service import KEY, OracleService, Reply

pytestmark = pytest.mark.postgres

QUICK = ["--texts", "16", "--seconds-per-setting", "0.1"]
KEEN = Plan(texts=16, probe_s=0.1, wait_s=0)


@pytest.fixture
def folder(
    tmp_path: Path, database_url: str, oracle: OracleService, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Have the command find the oracle, and all state in a folder of its own."""
    point_at(monkeypatch, tmp_path, database_url=database_url, service_url=oracle.url)
    monkeypatch.delenv("RBA_TUNED_PRESET", raising=False)
    return tmp_path


@pytest.fixture
def published(installation: Installation) -> Installation:
    """Have three chunks published."""
    rain = ["Rain fell on the plain."]
    for number in range(3):
        installation.add(f"{number}.html", title=f"A{number}", day="5 May 2011", paragraphs=rain)
    assert failures(installation.run_all()) == []
    return installation


def preset(oracle: OracleService, bounds: Bounds, **service: Any) -> TunedPreset:
    about = {"space": oracle.space(), "model": "oracle", "device": "cpu", "cores": 2, **service}
    return TunedPreset(bounds, MeasuredService(**about), "2024-05-06T07:08:09+00:00", 9.0, "-")


def test_the_command_shows_each_setting_a_chart_and_the_reason_and_writes_the_file(
    folder: Path, oracle: OracleService
) -> None:
    result = called("tune", *QUICK)

    assert result.exit_code == 0, result.output
    kept = read_tuned(str(folder / ".state" / "store" / "tuned.json"))
    assert "chunks of the sample corpus (corpus" in result.output
    assert result.output.count(" refused, 0 failed") == len(kept.measurements) >= 2
    use = f"{kept.bounds.batch_size} × {kept.bounds.parallel_batches}"
    assert f"\nuse        {use}, " in result.output
    assert "\nstopped    " in result.output
    assert "processors is not known" in result.output
    assert kept.service == MeasuredService(oracle.space(), "oracle", "cpu", 2)
    assert oracle.peak_in_flight <= 16


def test_a_dry_run_writes_nothing_and_out_names_another_file(folder: Path) -> None:
    dry = called("tune", *QUICK, "--dry-run")
    other = folder / "other.json"
    named = called("tune", *QUICK, "--out", str(other))

    assert (dry.exit_code, named.exit_code) == (0, 0), dry.output + named.output
    assert "written" not in dry.output
    assert not (folder / ".state" / "store" / "tuned.json").exists()
    assert read_tuned(str(other)).rate > 0


@pytest.mark.parametrize("place", ["a-folder", "a-file/tuned.json", "nowhere://bucket/tuned.json"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    folder: Path, oracle: OracleService, place: str
) -> None:
    (folder / "a-folder").mkdir()
    (folder / "a-file").touch()
    where = place if "://" in place else str(folder / place)

    result = called("tune", *QUICK, "--out", where)

    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith(f"BadSetting: {where} cannot be written (")
    assert oracle.sent == []


def test_a_tuning_that_fails_leaves_the_earlier_file(folder: Path, oracle: OracleService) -> None:
    place = str(folder / ".state" / "store" / "tuned.json")
    earlier = preset(oracle, Bounds(7, 3))
    write_tuned(place, earlier)
    oracle.script = lambda number, texts: Reply.error(401, "not_allowed") if number > 20 else None

    result = called("tune", *QUICK)

    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("NotAllowed: ")
    assert read_tuned(place) == earlier


def embedding(oracle: OracleService) -> Embedding:
    return Embedding(api_url=oracle.url, api_key=KEY)


def tune_at(oracle: OracleService, folder: Path, said: list[str]) -> TunedPreset:
    """Tune with texts of the sample corpus."""
    from rba_pipeline.resources.chunking import Chunking
    from rba_pipeline.resources.record_store import RecordStore

    records = RecordStore(store=str(folder), corpus="none")
    sampled = sample_texts(records, Chunking(), str(SAMPLE_CORPUS), KEEN.texts)
    return tune(embedding(oracle), sampled, KEEN, said.append).preset


def test_a_service_that_refuses_more_in_flight_is_tuned_to_less(
    oracle: OracleService, tmp_path: Path
) -> None:
    oracle.script = lambda number, texts: (
        Reply.error(429, "queue_full", Retry_After="0") if len(texts) > 8 else None
    )
    said: list[str] = []

    found = tune_at(oracle, tmp_path, said)

    assert found.bounds.batch_size <= 8
    refused = [row for row in found.measurements if row["refusals"]]
    assert refused
    assert all(row["batch_size"] > 8 for row in refused)


@pytest.mark.long
def test_a_service_that_fails_at_everything_is_no_recommendation(
    oracle: OracleService, tmp_path: Path
) -> None:
    oracle.script = lambda number, texts: Reply.error(500, "model_failed")

    with pytest.raises(ServiceOverloaded, match="not answer one setting"):
        tune_at(oracle, tmp_path, [])


def test_a_service_that_works_for_others_is_waited_for_and_said(
    oracle: OracleService, tmp_path: Path
) -> None:
    oracle.stats = {"busy_s": 1.0, "tokens": 9, "texts": 9, "requests_in_flight": 2}
    said: list[str] = []

    with pytest.raises(ServiceOverloaded, match="somebody else"):
        tune_at(oracle, tmp_path, said)

    assert said[-1] == "waiting  the service works at 2 requests of somebody else"
    assert oracle.sent == []


def test_a_wrong_key_is_named_before_anything_is_sent(
    oracle: OracleService, tmp_path: Path
) -> None:
    wrong = Embedding(api_url=oracle.url, api_key="wrong")

    with pytest.raises(NotAllowed):
        tune(wrong, lambda info, fetch: ([], ""), KEEN, print)


def test_the_job_tunes_with_chunks_of_the_record_and_shows_what_it_found(
    published: Installation, oracle: OracleService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The job is how a first file is made, also where every other run asks for it.
    published.environment["EMBEDDING_PRESET"] = "tuned"
    job = build_defs(published.settings).resolve_job_def(TUNE)
    config = {"ops": {"tune_setting": {"config": {"texts": 9, "seconds_per_setting": 0.1}}}}

    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, run_config=config)

    [made] = result.asset_materializations_for_node("tune_setting")
    shown = {name: value.value for name, value in made.metadata.items()}
    kept = read_tuned(published.settings.tuned_file)
    assert shown["texts"] == "3 chunks of corpus publications"
    assert Bounds(shown["batch_size"], shown["parallel_batches"]) == kept.bounds
    assert shown["settings"].startswith("![settings](data:image/svg+xml;base64,")
    assert job.get_node_named("tune_setting").definition.pool == "embedding"


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        pytest.param("texts", 0, r"allowed is 1 to 100,000 \(texts\)", id="texts"),
        pytest.param(
            "seconds_per_setting", 1e9, r"allowed is 0\.1 to 600 \(seconds\)", id="seconds"
        ),
    ],
)
def test_the_job_refuses_a_value_out_of_range_before_the_run(
    installation: Installation, name: str, value: float, range_: str
) -> None:
    job = build_defs(installation.settings).resolve_job_def(TUNE)

    with pytest.raises(dg.DagsterInvalidConfigError, match=f"{name}={value}: {range_}"):
        dg.validate_run_config(job, {"ops": {"tune_setting": {"config": {name: value}}}})


def test_the_job_fails_with_one_message(published: Installation, oracle: OracleService) -> None:
    oracle.crash()
    job = build_defs(published.settings).resolve_job_def(TUNE)

    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)

    [failure] = result.get_step_failure_events()
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert str(told.description).startswith("ServiceUnavailable: cannot reach")


def with_preset(installation: Installation, **config: Any) -> dict[str, Any]:
    return {"resources": {"embedding": {"config": {"preset": "tuned", **config}}}}


def test_a_run_with_the_preset_reads_the_file_and_its_own_values_win(
    published: Installation, oracle: OracleService
) -> None:
    write_tuned(published.settings.tuned_file, preset(oracle, Bounds(24, 3)))
    [plain] = published.run("2011-01-01", config=with_preset(published))
    write_tuned(published.settings.tuned_file, preset(oracle, Bounds(12, 5)))
    [mixed] = published.run("2011-01-01", config=with_preset(published, batch_size=6))

    assert failures([plain, mixed]) == []
    shown = [run.metadata["embeddings"]["effective_configuration"] for run in (plain, mixed)]
    assert [(each["preset"], each["batch_size"], each["parallel_batches"]) for each in shown] == [
        ("tuned", 24, 3), ("tuned", 6, 5),
    ]  # fmt: skip
    assert shown[0]["tuned_at"] == "2024-05-06T07:08:09+00:00"
    assert "measured at another service" not in plain.metadata["embeddings"]["advice"]
    assert total([plain], "embeddings", "reused") == 3


def test_a_file_of_another_service_is_used_with_a_warning(
    published: Installation, oracle: OracleService
) -> None:
    write_tuned(published.settings.tuned_file, preset(oracle, Bounds(8, 2), cores=64))

    [run] = published.run("2011-01-01", config=with_preset(published))

    assert run.failure is None
    assert "cores 64, now 2" in run.metadata["embeddings"]["advice"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "is not there. Run `rba-pipeline tune`", id="absent"),
        pytest.param("{}", "is no tuned preset", id="damaged"),
        pytest.param(
            json.dumps({"batch_size": 9999, "service": {}}), "batch_size=9999", id="out-of-range"
        ),
    ],
)
def test_the_preset_without_a_good_file_is_refused_before_the_run(
    installation: Installation, content: str | None, message: str
) -> None:
    place = Path(installation.settings.tuned_file)
    if content is not None:
        place.parent.mkdir(parents=True)
        place.write_text(content)
    job = build_defs(installation.settings).resolve_job_def(PUBLISH)

    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.DagsterInvalidConfigError, match=message),
    ):
        job.execute_in_process(
            partition_key="2011-01-01", instance=instance, run_config=with_preset(installation)
        )


def test_search_needs_no_tuned_preset(oracle: OracleService, tmp_path: Path) -> None:
    resource = Embedding(
        api_url=oracle.url, api_key=KEY, preset="tuned", tuned_file=str(tmp_path / "absent.json")
    )

    with resource.open() as client:
        vector = client.embed_query("rain", info=resource.handshake())
        with pytest.raises(BadSetting, match="is not there"):
            resource.bounds(resource.handshake())

    assert len(vector) == oracle.dimensions
