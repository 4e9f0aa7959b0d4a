"""What ``rba-pipeline`` explains, and what it refuses before it reaches any neighbour."""

import json
from pathlib import Path

import pytest

from rba_pipeline.cli import main
from rba_pipeline.core.addresses import no_address
from rba_pipeline_tests.command_line import called, point_at, run

COMMANDS = [
    [], ["backfill"], ["backfill", "follow"], ["backfill", "cancel"],
    ["demo"], ["up"], ["migrate"], ["search"], ["evaluate"], ["plan"], ["quarantine"],
    ["spaces"], ["spaces", "list"], ["spaces", "activate"], ["spaces", "prune"],
    ["spaces", "index"], ["tune"], ["doctor"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_within_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have addresses at which nobody listens: a command that goes on finds nothing to touch."""
    point_at(
        monkeypatch,
        tmp_path,
        database_url="postgresql://u@localhost:9/x",
        service_url="http://localhost:9",
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself(command: list[str], option: str) -> None:
    result = called(*command, option)

    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: rba-pipeline {' '.join(command)}".rstrip())
    assert "--help" in result.output


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = run(tmp_path, "spaces", "--help")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: rba-pipeline spaces [OPTIONS] COMMAND")


def test_every_command_is_among_those_tested() -> None:
    assert set(main.commands) == {command[0] for command in COMMANDS if command}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["search"], "Missing argument 'QUERY'", id="no-query"),
        pytest.param(["search", ""], "the query is empty", id="empty-query"),
        pytest.param(["search", " \n"], "the query is empty", id="query-of-spaces"),
        pytest.param(["search", "rain", "-k", "0"], "1<=x<=1000", id="no-hits-wanted"),
        pytest.param(["search", "rain", "--from", "yesterday"], "%Y-%m-%d", id="no-date"),
        pytest.param(["search", "rain", "--to", "2013-02-30"], "%Y-%m-%d", id="no-such-day"),
        pytest.param(["evaluate"], "Missing argument 'FILE'", id="no-file"),
        pytest.param(["evaluate", "absent.jsonl"], "does not exist", id="absent-file"),
        pytest.param(["evaluate", "."], "is a directory", id="folder-as-file"),
        pytest.param(["tune", "--texts", "0"], "1<=x<=100000", id="no-texts"),
        pytest.param(["tune", "--seconds-per-setting", "0"], "0.1<=x<=600", id="no-time"),
        pytest.param(["spaces", "activate"], "Missing argument 'SPACE'", id="no-space"),
        pytest.param(["plan", "--only", "new"], "'missing', 'stale', 'all'", id="no-such-state"),
        pytest.param(["plan", "--all", "--partitions", "x"], "or say --all", id="some-and-all"),
        pytest.param(["serach", "rain"], "No such command", id="misspelt"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_was_expected(
    arguments: list[str], message: str
) -> None:
    result = called(*arguments)

    assert result.exit_code == 2
    assert message in result.output


def test_a_range_of_no_partitions_is_refused_with_what_is_allowed() -> None:
    result = called("plan", "--partitions", "2012-01-01...2199-01-01")

    assert result.exit_code == 1
    assert "'2199-01-01' is no partition; allowed are 1990-01-01 to 20" in result.output


@pytest.mark.parametrize("name", ["RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL"])
@pytest.mark.parametrize("command", [["plan"], ["up"], ["search", "rain"]], ids=" ".join)
def test_a_database_s_address_that_cannot_be_read_is_named_without_its_password(
    command: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "postgresql://rba:p[w@host/db")

    result = called(*command)

    assert result.exit_code == 1
    assert result.output == f"BadSetting: {no_address(name)}\n"
    assert "p[w" not in result.output


GOOD = json.dumps({"query": "rain", "relevant_path": "a.html"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(f"{GOOD}\n\n{{oops\n", "line 3: expected an object", id="not-json"),
        pytest.param(f'{GOOD}\n{{"query": "x"}}', "line 2: expected", id="no-path"),
        pytest.param('["rain", "a.html"]', "line 1: expected", id="a-list"),
        pytest.param('"rain"', "line 1: expected", id="a-text"),
        pytest.param("\n \n", "holds no query", id="nothing-but-blank-lines"),
        pytest.param("", "holds no query", id="empty"),
        pytest.param('{"query": null, "relevant_path": "a"}', "line 1: expected", id="null-query"),
        pytest.param('{"query": " ", "relevant_path": "a"}', "line 1: expected", id="blank-query"),
        pytest.param('{"query": 5, "relevant_path": ["a"]}', "line 1: expected", id="no-texts"),
        pytest.param(b"\xff\xfe{", "is not UTF-8", id="binary"),
    ],
)
def test_a_file_of_queries_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)

    result = called("evaluate", str(file))

    assert result.exit_code == 1
    assert result.output.startswith(f"BadSetting: {file}")
    assert message in result.output
    assert len(result.output.splitlines()) == 1
