"""The containers, as far as they can be checked without an engine: schema, commands, lint."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load import location_origins_from_yaml_paths

from embedding_service.settings import PREFIX, Settings
from rba_pipeline.backfills import LOCATION
from rba_pipeline.dagster_servers import code_location, served_workspace
from rba_pipeline.doctor.configuration import known_variables, pipeline_variables

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
FILE: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name in SERVICES if name != "postgres"]
# Does one thing and ends.
ENDING = "migrate"
STAYING = [name for name in SERVICES if name != ENDING]


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@cache
def _help_of(*words: str) -> str:
    """Return what ``words --help`` prints here; the test fails if there is no such command."""
    done = subprocess.run(
        [_script(words[0]), *words[1:], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _split(command: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the words before the first long option, and all long options."""
    first = next((i for i, word in enumerate(command) if word.startswith("--")), len(command))
    return tuple(command[:first]), [word for word in command if word.startswith("--")]


def _interpolated(text: str, **environment: str) -> str:
    """Return what compose makes of ``text``; a variable that is empty has its default."""
    return re.sub(r"\$\{(\w+):-(.*?)\}", lambda it: environment.get(it[1]) or it[2], text)


def test_the_file_fits_the_compose_specification() -> None:
    done = subprocess.run(
        [_script("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", STAYING)
def test_every_service_has_a_user_a_health_check_and_comes_back(name: str) -> None:
    service = SERVICES[name]

    assert service["user"] not in ("", "0", "root")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_until_those_before_it_are_healthy(name: str) -> None:
    waits_for = SERVICES[name].get("depends_on", {})

    assert set(waits_for) <= set(SERVICES)
    for neighbour, rule in waits_for.items():
        ended = "service_completed_successfully"
        assert rule == {"condition": ended if neighbour == ENDING else "service_healthy"}


def test_only_the_web_interface_is_published_beyond_this_machine() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}

    assert published == {
        "postgres": [],
        "embedding-service": ["127.0.0.1:8000:8000"],
        "migrate": [],
        "code-location": [],
        "webserver": ["3000:3000"],
        "daemon": [],
    }


def test_the_embedding_service_gets_every_setting_that_is_not_the_image_s_own() -> None:
    own = {"EMBEDDING_HOST", "EMBEDDING_PORT", "EMBEDDING_CACHE_DIR"}

    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}

    assert known - own == set(SERVICES["embedding-service"]["environment"])


@pytest.mark.parametrize("name", ["migrate", "code-location", "webserver", "daemon"])
def test_the_pipeline_gets_every_setting(name: str) -> None:
    assert {*pipeline_variables(), "DAGSTER_POSTGRES_URL"} == set(SERVICES[name]["environment"])


def test_no_variable_of_the_file_is_taken_for_misspelt() -> None:
    named = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))

    assert {"RBA_DATABASE_PASSWORD", "RBA_PUBLICATIONS"} <= named
    assert named - {"TORCH_INDEX"} <= known_variables()


@pytest.mark.parametrize("drain_s", ["", "600"])
def test_a_container_may_take_longer_to_stop_than_its_service_drains(drain_s: str) -> None:
    written = SERVICES["embedding-service"]["stop_grace_period"]

    grace = re.fullmatch(r"(\d+)m(\d+)s", _interpolated(written, EMBEDDING_DRAIN_SECONDS=drain_s))

    assert grace is not None, written
    draining = float(drain_s or Settings.model_fields["drain_seconds"].default)
    assert 60 * int(grace[1]) + int(grace[2]) >= draining + 10


def test_a_model_of_this_machine_is_seen_in_the_container_and_not_written_to() -> None:
    volumes = SERVICES["embedding-service"]["volumes"]
    (models,) = [each for each in volumes if "RBA_MODELS" in each]

    assert _interpolated(models, RBA_MODELS="./ours") == "./ours:/srv/models:ro"


def test_every_volume_that_is_no_folder_is_declared() -> None:
    used = {
        _interpolated(volume).partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    }

    assert {name for name in used if not name.startswith(".")} == set(FILE["volumes"])


def test_no_secret_has_a_default() -> None:
    secrets = [
        (name, variable, value)
        for name, service in SERVICES.items()
        for variable, value in service["environment"].items()
        if any(word in variable for word in ("PASSWORD", "KEY", "_URL"))
        and not str(value).startswith("http://")
    ]

    assert secrets
    assert all(":?" in str(value) for _, _, value in secrets)


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_service_exists_here_with_these_options(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, options = _split(SERVICES[name]["command"])
    # Who looks after runs opens Dagster's instance before anything else.
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    printed = _help_of(*words)

    assert [option for option in options if option not in printed] == []


@pytest.mark.parametrize("name", ["webserver", "daemon"])
def test_backfills_find_the_code_location_of_the_containers(name: str, tmp_path: Path) -> None:
    command = SERVICES[name]["command"]
    (mounted,) = SERVICES[name]["configs"]
    file = tmp_path / "workspace.yaml"
    file.write_text(FILE["configs"][mounted["source"]]["content"])

    assert command[command.index("--workspace") + 1] == mounted["target"]
    (origin,) = location_origins_from_yaml_paths([str(file)])
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    assert (origin.location_name, origin.host, origin.port) == (LOCATION, "code-location", 4000)


def test_backfills_find_the_code_location_of_this_machine(tmp_path: Path) -> None:
    module, name = code_location(ROOT)
    served = tmp_path / "workspace.yaml"
    served.write_text(served_workspace(name, 4000))

    assert module == "rba_pipeline.definitions"
    for file in (ROOT / "workspace.yaml", served):
        (origin,) = location_origins_from_yaml_paths([str(file)])
        assert origin.location_name == LOCATION


@pytest.mark.parametrize("name", ["code-location", "daemon"])
def test_the_health_check_of_a_dagster_server_exists_here(name: str) -> None:
    words, options = _split(SERVICES[name]["healthcheck"]["test"][1:])

    printed = _help_of(*words)

    assert [option for option in options if option not in printed] == []


@pytest.mark.parametrize("part", ["embedding_service", "rba_pipeline"])
def test_an_image_passes_the_linter_and_does_not_run_as_root(part: str) -> None:
    file = ROOT / part / "Dockerfile"

    done = subprocess.run(
        [_script("hadolint"), str(file)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == ""
    assert "USER 1000" in file.read_text()


@pytest.mark.parametrize("name", ["code-location", "webserver", "daemon", "embedding-service"])
def test_a_container_runs_as_the_user_that_its_image_made(name: str) -> None:
    file = ROOT / SERVICES[name]["build"]["dockerfile"]

    assert f"USER {SERVICES[name]['user']}" in file.read_text()
