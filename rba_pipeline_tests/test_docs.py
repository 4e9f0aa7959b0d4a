"""What README and docs say: their commands are right, their links lead somewhere, nothing is left
out.

Commands are the lines of blocks of bash, and all code within a sentence or table that begins with
a program of ours or a command of ``rba-pipeline``. What is done with them:

* ``rba-pipeline`` in a block: called for real, and has to succeed, whatever it is.
* ``rba-pipeline`` and ``dagster`` anywhere: read by their own parsers, up to where work would
  begin. A wrong command, option, choice or number of arguments fails; presets have to exist. Names
  like ``ID`` stand for values. ``dagster asset materialize``, ``make demo`` and ``make up`` are run
  by the tests in ``TESTED_ELSEWHERE``, with other partitions and folders.
* ``make``: the target exists (``--dry-run``), the Makefile reads the variables, and the measurement
  that ``BENCH`` names is there. Nothing of it is run.
* ``python -m``: the module explains itself, and its explanation has every option. Not run further.
* ``docker compose``: only the one command, for a file that ``test_compose.py`` looks at.
"""

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from dagster._cli import cli as dagster_cli

from rba_pipeline.cli import main
from rba_pipeline.core import errors
from rba_pipeline.core.presets import Preset
from rba_pipeline.core.promises import CHECKS
from rba_pipeline.core.standings import standing
from rba_pipeline_tests.command_line import called, point_at
from rba_pipeline_tests.installation import ROOT, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md")
TEXT = "\n".join(page.read_text() for page in PAGES)
OPERATING = (ROOT / "docs" / "operating.md").read_text()

# Started for real by tests of their own.
TESTED_ELSEWHERE = (
    ("test_pipeline.py", "test_values_of_the_run_config_are_in_force_and_in_the_metadata"),
    ("test_demo.py", "test_every_file_is_accounted_for_and_every_chunk_has_a_vector"),
    ("test_stack.py", "test_up_serves_other_commands_and_ends_on_one_interrupt"),
)


PROGRAMS = {"make", "rba-pipeline", "dagster", "python", "docker"}
CLICK = {"rba-pipeline": main, "dagster": dagster_cli}


def words_of(line: str) -> list[str]:
    """Return the words of a command, with its program as on the path, and no variables before."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []


def commands() -> Iterator[list[str]]:
    """Yield the words of every command in a block of bash."""
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if words := words_of(line):
                yield words


def mentions() -> Iterator[list[str]]:
    """Yield the words of every command in a sentence or a table."""
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S)):
        program, _, arguments = code.removeprefix(".venv/bin/").partition(" ")
        if program in PROGRAMS:
            yield words_of(code)
        elif program in main.commands and arguments:
            yield ["rba-pipeline", *words_of(code)]


def called_in_blocks(program: str) -> list[list[str]]:
    """Return the arguments of all calls of one program in blocks."""
    return [words[1:] for words in commands() if words[0] == program]


def named(program: str) -> list[list[str]]:
    """Return the arguments of all calls of one program, wherever they are; each once."""
    found = [*commands(), *mentions()]
    return [list(each) for each in dict.fromkeys(tuple(w[1:]) for w in found if w[0] == program)]


def parsed(command: click.Command, name: str, arguments: list[str]) -> dict[str, Any]:
    """Have a command and its subcommands read their arguments; return what the last one read.

    Raises:
        click.ClickException: One of them is wrong.
    """
    context = command.make_context(name, arguments)
    while isinstance(command, click.Group) and (left := [*context._protected_args, *context.args]):
        _, found, rest = command.resolve_command(context, left)
        assert found is not None
        command = found
        context = command.make_context(left[0], rest, parent=context)
    return context.params


def test_every_command_is_of_a_program_that_is_tried_here() -> None:
    programs = {words[0] for words in commands()}

    assert programs == PROGRAMS - {"docker"}
    assert {words[0] for words in mentions()} <= PROGRAMS
    assert named("docker") == [["compose", "up", "--build"]]
    for file, test in TESTED_ELSEWHERE:
        assert f"def {test}(" in (ROOT / "rba_pipeline_tests" / file).read_text()


def test_commands_in_sentences_and_tables_are_seen() -> None:
    seen = list(mentions())

    for words in (
        ["rba-pipeline", "backfill", "--all", "--preset", "cpu-prod"],
        ["rba-pipeline", "backfill", "follow", "ID"],
        ["rba-pipeline", "doctor"],
        ["rba-pipeline", "quarantine", "retry"],
        ["make", "bench", "BENCH=scale"],
        ["python", "-m", "embedding_service", "check"],
    ):
        assert words in seen


@pytest.mark.parametrize("program", CLICK)
def test_every_command_is_understood_by_its_own_parser(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("known_items.jsonl").touch()
    calls = named(program)

    assert calls
    for arguments in calls:
        try:
            read = parsed(CLICK[program], program, list(arguments))
        except click.exceptions.Exit:
            assert "--help" in arguments
            continue
        assert read.get("preset") in (None, *Preset), arguments


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("backfill --al", id="option"),
        pytest.param("backfill fallow ID", id="command"),
        pytest.param("backfill --only new", id="choice"),
        pytest.param("backfill follow", id="too-few"),
        pytest.param("doctor now", id="too-many"),
    ],
)
def test_a_command_that_does_not_exist_is_not_understood(line: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(main, "rba-pipeline", line.split())


def test_every_target_and_variable_of_make_is_there() -> None:
    calls = [words for words in named("make") if words]
    variables = [word.partition("=") for words in calls for word in words if "=" in word]
    makefile = (ROOT / "Makefile").read_text()

    done = subprocess.run(
        ["make", "--dry-run", *sorted({words[0] for words in calls})], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    for name, _, value in variables:
        assert re.search(rf"\$?\$[({{]?{name}\b", makefile), name
        assert name != "BENCH" or (ROOT / "benchmarks" / f"{value}.py").exists()


@pytest.mark.postgres
def test_every_call_of_the_pipeline_s_command_succeeds(
    installation: Installation, oracle: OracleService, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.environment["RBA_CORPUS"] = "corpus"
    installation.add("a.html", title="A", day="5 May 2020", paragraphs=["Rain fell."])
    assert failures(installation.run_all()) == []
    point_at(
        monkeypatch,
        installation.folder,
        database_url=installation.environment["RBA_DATABASE_URL"],
        service_url=oracle.url,
    )
    for name in ("RBA_SOURCE", "RBA_STORE", "DAGSTER_HOME", "RBA_CORPUS"):
        monkeypatch.setenv(name, installation.environment[name])
    monkeypatch.chdir(installation.folder)
    Path("known_items.jsonl").write_text('{"query": "rain", "relevant_path": "a.html"}\n')

    for arguments in called_in_blocks("rba-pipeline"):
        found = called(*arguments)
        assert found.exit_code == 0, (arguments, found.output)


@cache
def explanation(module: str, *command: str) -> str:
    """Return what a module says of itself, or of one of its commands."""
    done = subprocess.run(
        [sys.executable, "-m", module, *command, "--help"], cwd=ROOT, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:6]) == (0, "usage:"), done.stderr
    return done.stdout


def test_every_call_of_a_module_is_explained_with_its_options() -> None:
    calls = named("python")

    assert calls
    for flag, module, *arguments in calls:
        printed = explanation(module, *itertools.takewhile(lambda w: w[0] != "-", arguments))
        options = [word for word in arguments if word.startswith("--")]
        assert flag == "-m"
        assert [each for each in options if not re.search(rf"{each}\b", printed)] == []


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            if "://" in target:
                continue
            path, _, heading = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), (page, target)
            if heading:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
                assert heading in {each.lower().replace(" ", "-") for each in headings}, target


def test_every_error_check_and_reason_is_explained() -> None:
    raised = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    bases = {"RbaError", "EmbeddingError", "Sequence", "Mapping"}
    checks = {check.name for made in CHECKS.values() for check in made}
    reasons = standing("", {"a": "1"}, (), is_recorded=False).reasons

    for name in {*(raised - bases), *checks, *reasons}:
        assert f"`{name}" in OPERATING, name
