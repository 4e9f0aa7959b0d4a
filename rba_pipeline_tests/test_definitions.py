"""Settings from the environment, and which of run config, environment and preset is in force."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.parsing.limits import ParseLimits
from rba_pipeline.core.presets import FROM_PRESET, Preset
from rba_pipeline.definitions import build_defs, build_resources
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.schedules import MONTHLY
from rba_pipeline.settings import SAMPLE_CORPUS, Settings, corpus_name
from rba_pipeline.upkeep import BACKFILL_STALE
from rba_pipeline_tests.bad_values import BAD_VALUES, BadValue
from rba_pipeline_tests.installation import Installation

DEFAULTS = Settings(
    source=str(SAMPLE_CORPUS),
    corpus="sample_corpus",
    store=str(Path.cwd() / ".state" / "store"),
    grain="year",
    first_year=1990,
    limits=ParseLimits(),
    chunk_tokens=512,
    chunk_overlap=64,
    preset=Preset("auto"),
    batch_size=None,
    parallel_batches=None,
    timeout_s=240,
    outage_s=300,
    adaptive=True,
    backlog_batches="0:8,100:16,1000:32",
    truncate=False,
    api_url="http://127.0.0.1:8000",
    has_api_key=False,
    tuned_file=str(Path.cwd() / ".state" / "store" / "tuned.json"),
    sensor_s=300,
    scheduled_run_config={},
)
VARIABLES = [
    pytest.param("RBA_SOURCE", "s3://b/mins/", {"source": "s3://b/mins/", "corpus": "mins"}),
    pytest.param("RBA_CORPUS", "other", {"corpus": "other"}),
    pytest.param(
        "RBA_STORE", "memory://store",
        {"store": "memory://store", "tuned_file": "memory://store/tuned.json"},
    ),
    pytest.param("RBA_TUNED_PRESET", "/data/t.json", {"tuned_file": "/data/t.json"}),
    pytest.param("RBA_GRAIN", "month", {"grain": "month"}),
    pytest.param("RBA_FIRST_YEAR", "2001", {"first_year": 2001}),
    pytest.param("RBA_MAX_FILE_BYTES", "2048", {"limits": ParseLimits(max_file_bytes=2048)}),
    pytest.param("RBA_MAX_PAGES", "7", {"limits": ParseLimits(max_pages=7)}),
    pytest.param("RBA_MAX_CHARACTERS", "5000", {"limits": ParseLimits(max_characters=5000)}),
    pytest.param("RBA_MAX_PARSE_S", "9", {"limits": ParseLimits(max_parse_s=9)}),
    pytest.param(
        "RBA_MAX_PARSE_MEMORY_BYTES", "536870912",
        {"limits": ParseLimits(max_parse_memory_bytes=2**29)},
    ),
    pytest.param("RBA_CHUNK_TOKENS", " 256 ", {"chunk_tokens": 256}),
    pytest.param("RBA_CHUNK_OVERLAP", "0", {"chunk_overlap": 0}),
    pytest.param("EMBEDDING_PRESET", "gpu", {"preset": Preset("gpu")}),
    pytest.param("EMBEDDING_BATCH_SIZE", "24", {"batch_size": 24}),
    pytest.param("EMBEDDING_PARALLEL_BATCHES", "3", {"parallel_batches": 3}),
    pytest.param("EMBEDDING_API_TIMEOUT", "60", {"timeout_s": 60}),
    pytest.param("EMBEDDING_ADAPTIVE", "False", {"adaptive": False}),
    pytest.param("EMBEDDING_OUTAGE_SECONDS", "20", {"outage_s": 20}),
    pytest.param("EMBEDDING_BACKLOG_BATCHES", "0:4", {"backlog_batches": "0:4"}),
    pytest.param("EMBEDDING_TRUNCATE", "yes", {"truncate": True}),
    pytest.param("EMBEDDING_API_URL", "http://a,http://b", {"api_url": "http://a,http://b"}),
    pytest.param("EMBEDDING_API_KEY", "hush", {"has_api_key": True}),
    pytest.param("RBA_SENSOR_SECONDS", "60", {"sensor_s": 60}),
    pytest.param(
        "RBA_SCHEDULED_RUN_CONFIG", "resources: {}", {"scheduled_run_config": {"resources": {}}}
    ),
]  # fmt: skip


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.read({}) == DEFAULTS


@pytest.mark.parametrize(("name", "value", "expected"), VARIABLES)
def test_each_variable_sets_what_it_names_and_nothing_else(
    name: str, value: str, expected: dict[str, Any]
) -> None:
    assert Settings.read({name: value}) == replace(DEFAULTS, **expected)


@pytest.mark.parametrize(("name", "value", "expected"), VARIABLES)
def test_an_empty_variable_is_like_none(name: str, value: str, expected: object) -> None:
    assert Settings.read({name: ""}) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("RBA_SOURCE", "s3://bucket", "no last part.*set RBA_CORPUS", id="no-name"),
        pytest.param("RBA_SOURCE", "/", "no last part.*set RBA_CORPUS", id="root-folder"),
        pytest.param("RBA_FIRST_YEAR", "soon", "RBA_FIRST_YEAR='soon': .* whole number", id="year"),
        pytest.param("RBA_MAX_PAGES", "0", "max_pages=0: .* 1 to 1,000,000 .*RBA_MAX", id="pages"),
        pytest.param("RBA_MAX_PARSE_S", "long", "RBA_MAX_PARSE_S='long'", id="seconds"),
        pytest.param("RBA_CHUNK_TOKENS", "5e2", "RBA_CHUNK_TOKENS='5e2'", id="chunk-tokens"),
        pytest.param("RBA_CHUNK_TOKENS", "31", "32 to 8192", id="chunk-tokens-low"),
        pytest.param("RBA_CHUNK_OVERLAP", "257", "0 to 256 .*RBA_CHUNK_OVERLAP", id="overlap"),
        pytest.param("EMBEDDING_PRESET", "big", "auto, cpu-dev, cpu-prod, gpu, tuned", id="preset"),
        pytest.param("EMBEDDING_BATCH_SIZE", "0", "1 to 2048 .*EMBEDDING_BATCH_SIZE", id="batch-0"),
        pytest.param("EMBEDDING_BATCH_SIZE", "2049", "1 to 2048", id="batch-high"),
        pytest.param("EMBEDDING_BATCH_SIZE", "1.5", "EMBEDDING_BATCH_SIZE='1.5'", id="batch-1.5"),
        pytest.param("EMBEDDING_PARALLEL_BATCHES", "65", "1 to 64", id="parallel"),
        pytest.param("EMBEDDING_API_TIMEOUT", "0", "1 to 3600 .*_API_TIMEOUT", id="timeout"),
        pytest.param("EMBEDDING_OUTAGE_SECONDS", "0", "1 to 86400 .*_OUTAGE_SECONDS", id="outage"),
        pytest.param("EMBEDDING_BACKLOG_BATCHES", "8", "EMBEDDING_BACKLOG_BATCHES", id="backlog"),
        pytest.param("EMBEDDING_TRUNCATE", "maybe", "EMBEDDING_TRUNCATE='maybe'", id="truncate"),
        pytest.param("EMBEDDING_ADAPTIVE", "maybe", "EMBEDDING_ADAPTIVE='maybe'", id="adaptive"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_variable_and_range(
    name: str, value: str, message: str
) -> None:
    with pytest.raises(BadSetting, match=message):
        Settings.read({name: value})


@pytest.mark.parametrize("bad", BAD_VALUES, ids=lambda bad: bad.name)
def test_a_bad_value_is_refused_with_one_message_at_launch_and_in_the_schedules(
    bad: BadValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBA_DATABASE_URL", "postgresql://127.0.0.1:9/none")
    config = {"resources": {"embedding": {"config": bad.values}}}
    job = build_defs(DEFAULTS).resolve_job_def(PUBLISH)

    with pytest.raises(dg.DagsterInvalidConfigError) as launched:
        dg.validate_run_config(job, config)
    with pytest.raises(BadSetting) as scheduled:
        build_defs(replace(DEFAULTS, scheduled_run_config=config))

    assert str(launched.value).count(bad.said) == 1
    assert str(scheduled.value).startswith(f"RBA_SCHEDULED_RUN_CONFIG: {bad.said}")


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        pytest.param("auto", {"preset": "tuned"}, id="of-the-schedules"),
        pytest.param("tuned", {"batch_size": 3}, id="of-the-environment"),
    ],
)
def test_a_preset_that_is_not_measured_yet_stops_the_runs_and_not_the_code_location(
    preset: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBA_DATABASE_URL", "postgresql://127.0.0.1:9/none")
    run_config = {"resources": {"embedding": {"config": config}}}
    settings = replace(
        DEFAULTS,
        preset=Preset(preset),
        scheduled_run_config=run_config,
        tuned_file=str(tmp_path / "tuned.json"),
    )

    made = build_defs(settings)

    assert made.resolve_job_def("tune_embedding") is not None
    schedule = made.get_repository_def().get_schedule_def(MONTHLY)
    with dg.build_schedule_context() as context:
        [monthly] = schedule.evaluate_tick(context).run_requests or ()
    for job, given in ((PUBLISH, run_config), (BACKFILL_STALE, monthly.run_config)):
        with pytest.raises(dg.DagsterInvalidConfigError, match="Run `rba-pipeline tune` to"):
            dg.validate_run_config(made.resolve_job_def(job), given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"grain": "week"}, "RBA_GRAIN='week'", id="grain"),
        pytest.param({"first_year": 1066}, "RBA_FIRST_YEAR=1066", id="first-year"),
    ],
)
def test_definitions_without_windows_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        build_defs(replace(DEFAULTS, **change))


@pytest.mark.parametrize(
    ("source", "name"),
    [("/data/minutes", "minutes"), ("/data/minutes/", "minutes"), ("gs://a/b/c", "c")],
)
def test_a_corpus_is_named_after_its_folder(source: str, name: str) -> None:
    assert corpus_name(source) == name


def test_a_source_that_is_no_address_is_named() -> None:
    with pytest.raises(BadSetting, match=r"RBA_SOURCE='s3://\[x' is no address"):
        Settings.read({"RBA_SOURCE": "s3://[x"})


def test_a_relative_folder_names_the_corpus_by_its_real_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert corpus_name(".") == tmp_path.name


def test_the_definitions_load_and_hold_the_assets_and_their_jobs() -> None:
    defs = build_defs(DEFAULTS)

    dg.Definitions.validate_loadable(defs)
    assets = {key.to_user_string() for key in defs.resolve_all_asset_keys()}
    assert assets == {"documents", "chunks", "embeddings", "vectors", "plan"}
    # Whoever selects all assets for a partition does not ask for a plan.
    assert not defs.resolve_asset_graph().get(dg.AssetKey("plan")).is_materializable
    assert defs.resolve_job_def(PUBLISH).partitions_def is not None


def test_every_column_of_every_asset_is_explained_in_the_web_interface() -> None:
    graph = build_defs(DEFAULTS).resolve_asset_graph()

    for asset in ("documents", "chunks", "embeddings", "vectors"):
        schema = graph.get(dg.AssetKey(asset)).metadata["dagster/column_schema"]
        assert schema.columns
        for column in schema.columns:
            assert column.description, (asset, column.name)
            # Short enough to leave room for the description beside it.
            assert len(column.type) <= len("list of struct"), (asset, column.name, column.type)


def test_every_setting_is_explained_in_the_launchpad_and_no_docstring_of_the_code() -> None:
    for name, resource in build_resources(DEFAULTS).items():
        definition = resource.get_resource_definition()
        assert definition.description, name
        assert "``" not in definition.description, name
        for field, setting in definition.config_schema.config_type.fields.items():
            assert setting.description, (name, field)


def test_the_launchpad_shows_what_a_run_is_changed_by_also_where_it_is_not_set() -> None:
    job = build_defs(DEFAULTS).resolve_job_def(PUBLISH)

    # Dagster makes the Launchpad's text of this, and leaves out what is None.
    schema = job.get_config_schema_snapshot()
    root = schema.get_config_snap(job.run_config_schema.config_type.key)
    shown = yaml.safe_load(default_values_yaml_from_type_snap(schema, root))
    embedding = shown["resources"]["embedding"]["config"]
    assert (embedding["batch_size"], embedding["parallel_batches"]) == (FROM_PRESET, FROM_PRESET)


def test_a_limit_out_of_range_in_a_run_config_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RBA_DATABASE_URL", "postgresql://127.0.0.1:9/none")
    job = build_defs(DEFAULTS).resolve_job_def(PUBLISH)
    config = {"resources": {"source": {"config": {"max_pages": 0}}}}

    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.DagsterInvalidConfigError, match="max_pages=0: allowed is"),
    ):
        job.execute_in_process(partition_key="2011-01-01", instance=instance, run_config=config)


def test_the_key_is_not_in_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_API_KEY", "hush-hush")

    defs = build_defs(replace(DEFAULTS, has_api_key=True))

    schema = defs.resolve_job_def(PUBLISH).run_config_schema
    assert "hush-hush" not in repr(defs.resources) + repr(schema.config_type.fields)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("environment", "config", "expected"),
    [
        pytest.param({}, {}, ("gpu", 32, 8), id="the-preset-where-nothing-is-set"),
        pytest.param({"EMBEDDING_BATCH_SIZE": "6"}, {}, ("gpu", 6, 8), id="environment-first"),
        pytest.param(
            {"EMBEDDING_BATCH_SIZE": "6", "EMBEDDING_PARALLEL_BATCHES": "5"},
            {"batch_size": 7},
            ("gpu", 7, 5),
            id="run-config-over-environment-field-by-field",
        ),
        pytest.param(
            {"EMBEDDING_BATCH_SIZE": "6"}, {"preset": "cpu-dev", "batch_size": FROM_PRESET},
            ("cpu-dev", 4, 2), id="from-the-preset-although-the-environment-says-else",
        ),
        pytest.param(
            {"EMBEDDING_BATCH_SIZE": "6"}, {"preset": "cpu-dev"}, ("cpu-dev", 6, 2),
            id="a-preset-of-the-run-config-below-a-value-of-the-environment",
        ),
    ],
)  # fmt: skip
def test_run_config_beats_environment_beats_preset(
    installation: Installation,
    environment: dict[str, str],
    config: dict[str, object],
    expected: tuple[str, int, int],
) -> None:
    installation.add("a.html", title="A", day="5 May 2011", paragraphs=["Rain fell on the plain."])
    installation.environment |= {"EMBEDDING_PRESET": "gpu", **environment}
    with installation.neighbours() as found:
        found.vector_store.migrate()

    with dg.DagsterInstance.ephemeral() as instance:
        result = build_defs(installation.settings).resolve_job_def(PUBLISH).execute_in_process(
            partition_key="2011-01-01",
            instance=instance,
            run_config={"resources": {"embedding": {"config": config}}},
        )  # fmt: skip

    [made] = result.asset_materializations_for_node("embeddings")
    effective = made.metadata["effective_configuration"].value
    in_force = (effective["preset"], effective["batch_size"], effective["parallel_batches"])
    assert in_force == expected
