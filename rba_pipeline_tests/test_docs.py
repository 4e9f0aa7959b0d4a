"""What README and docs say: their commands work, their links lead somewhere, nothing is left out.

What is done with the commands of ``documented.py``:

* ``rba-pipeline``: called here for real, and has to succeed. What needs a daemon is called, as it
  is said, in ``faults/test_backfill.py``.
* ``make``: its recipes are run here, over a ``.venv`` of programs that note their words. What they
  start is understood by what is started, and, unless it is tests, called by a test in
  ``ELSEWHERE``.
* ``python -m``: the module explains itself, and its explanation has every option; called in
  ``ELSEWHERE``.
* ``dagster``: called in ``test_pipeline.py``, as it is said.
* ``rba-pipeline`` and ``dagster``: read by their own parsers as well, up to where work would begin.
  A wrong command, option, choice or number of arguments fails; presets have to exist.
* ``docker compose``: only the one command, for a file that ``test_compose.py`` looks at.

Names like ``ID`` stand for values; in ``ELSEWHERE``, partitions, folders and numbers may be others.
"""

import ast
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
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
from rba_pipeline_tests.documented import (
    PAGES,
    PROGRAMS,
    commands,
    mentions,
    named,
    of_a_daemon,
)
from rba_pipeline_tests.installation import ROOT, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService

OPERATING = (ROOT / "docs" / "operating.md").read_text()

# Said of a command by its name alone: what it is called with here.
CALLED_WITH = {
    "backfill": "--all --dry-run",
    "quarantine forget": "--all",
    "quarantine retry": "--all",
    "tune": "--dry-run --texts 32 --seconds-per-setting 0.1",
}
# What takes longer, and the test that calls it for real; then what that test calls it through.
ELSEWHERE = {
    "rba-pipeline demo": (
        "test_demo.py::test_every_file_is_accounted_for_and_every_chunk_has_a_vector",
        "test_demo.py::first",
        "test_demo.py::run",
    ),
    "rba-pipeline demo --source": (
        "test_demo.py::test_a_second_demo_parses_and_embeds_nothing",
        "test_demo.py::run",
    ),
    "rba-pipeline up": (
        "test_stack.py::test_up_serves_other_commands_and_ends_on_one_interrupt",
        "stack_project.py::Up",
    ),
    "python -m embedding_service check": (
        "service/test_same_vectors.py::test_a_vector_depends_on_nothing_but_its_text",
    ),
    "python -m benchmarks.nomic_shaped_model --out": (
        "service/test_served_models.py::test_a_folder_is_served_with_its_prompts_and_shorter_vectors",
        "service/conftest.py::nomic",
        "service/conftest.py::nomic_folder",
    ),
    "python -m benchmarks.start --rounds": (
        "benchmarks/test_commands.py::test_starts_are_timed_with_and_without_their_imports",
    ),
    "python -m benchmarks.service": (
        "benchmarks/test_commands.py::test_ours_and_the_reference_are_measured_in_turns",
    ),
    "python -m benchmarks.engine --model": (
        "benchmarks/test_commands.py::test_the_engine_is_held_against_the_machine",
    ),
    "python -m benchmarks.scale": (
        "benchmarks/test_commands.py::test_partitions_of_several_sizes_are_stored_whole_and_measured",
    ),
}
# Started by make, and seen to be started; pytest is what runs this.
TESTS_THEMSELVES = (
    ["pip"], ["pytest"], ["rba_pipeline_tests.mutations"], ["rba_pipeline_tests.survival"],
)  # fmt: skip
NOTES_ITS_WORDS = f"""#!{sys.executable} -IS
import json, sys
with open("started", "a") as file:
    print(json.dumps(sys.argv), file=file)
"""
CLICK = {"rba-pipeline": main, "dagster": dagster_cli}


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
    assert named("dagster")[1:] == [["dev"]]


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


@pytest.fixture(scope="module")
def started_by_make(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Call make as it is said everywhere, each of which has to succeed; return the commands that
    it started, in a project whose ``.venv`` is complete and holds programs that note their words.
    """
    folder = tmp_path_factory.mktemp("project")
    inputs = [ROOT / name for name in ("setup.py", "constraints.txt", "Makefile")]
    stamp = hashlib.sha256(b"".join(each.read_bytes() for each in inputs)).hexdigest()
    for each in inputs:
        shutil.copy(each, folder)
    (folder / ".state" / "store").mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "complete").write_text(f"{folder} {stamp}\n")
    for name in ("python", "rba-pipeline"):
        program = folder / ".venv" / "bin" / name
        program.write_text(NOTES_ITS_WORDS)
        program.chmod(0o700)
    for words in sorted(named("make"), key=lambda words: "clean" in words):
        done = subprocess.run(
            ["make", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=60,
            env={"PATH": os.environ["PATH"], "CHROMIUM": "/bin/true"},
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
    # The last one was make clean STATE=1.
    assert {path.name for path in folder.iterdir()} == {*(each.name for each in inputs), "started"}
    found = [json.loads(line) for line in (folder / "started").read_text().splitlines()]
    return [[Path(program).name, *words] for program, *words in found if words[0] != "-c"]


def test_make_starts_commands_that_are_understood(started_by_make: list[list[str]]) -> None:
    modules = [words for program, *words in started_by_make if program == "python"]

    for program, *words in started_by_make:
        if program == "rba-pipeline":
            parsed(main, program, words)
        elif words[1] not in {"pip", "pytest"}:
            assert not_explained(words) == []
    assert ["rba-pipeline", "demo"] in started_by_make
    assert ["rba-pipeline", "demo", "--source", "path/to/publications"] in started_by_make
    assert {"pytest", "benchmarks.scale", "benchmarks.engine"} <= {words[1] for words in modules}


def test_the_makefile_reads_every_variable() -> None:
    makefile = (ROOT / "Makefile").read_text()

    for name in {
        word.partition("=")[0] for words in named("make") for word in words if "=" in word
    }:
        assert re.search(rf"\$?\$[({{]?{name}\b", makefile), name


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
    calls = [words for words in named("rba-pipeline") if words not in of_a_daemon()]
    lines = [[*words, *CALLED_WITH.get(" ".join(words), "").split()] for words in calls]

    for arguments in dict.fromkeys(map(tuple, lines)):
        found = called(*arguments)
        assert found.exit_code == 0, (arguments, found.output)


def not_explained(words: list[str]) -> list[str]:
    """Return the options that a module called with ``-m`` does not tell of."""
    flag, module, *arguments = words
    assert flag == "-m"
    printed = explanation(module, *itertools.takewhile(lambda word: word[0] != "-", arguments))
    options = [word for word in arguments if word.startswith("--")]
    return [each for each in options if not re.search(rf"{each}\b", printed)]


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
    for words in calls:
        assert not_explained(words) == []


def test_what_is_not_called_here_is_called_by_a_test(started_by_make: list[list[str]]) -> None:
    asked = [*started_by_make, *(["python", *words] for words in named("python"))]
    commands = {
        " ".join(without_values(words))
        for words in asked
        if "--help" not in words and words[2:3] not in TESTS_THEMSELVES
    }

    assert commands == ELSEWHERE.keys()
    for command, places in ELSEWHERE.items():
        sources = [source(place) for place in places]
        for place, before in zip(places[1:], sources, strict=False):
            assert re.search(rf"\b{place.rpartition('::')[2]}\b", before), (command, place)
        for word in command.replace(" -m ", " ").split()[1:]:
            as_module = rf"\b{word.removeprefix('benchmarks.')}\.main\("
            assert re.search(rf"\"{word}[\"=]|{as_module}", "".join(sources)), (command, word)


def test_the_tests_elsewhere_are_there_and_not_skipped() -> None:
    tests = [f"rba_pipeline_tests/{test}" for test, *_ in ELSEWHERE.values()]

    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q",
         "-m", "not (skip or skipif or xfail)", *tests],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip

    assert collected.returncode == 0, collected.stdout
    for test in tests:
        assert f"\n{test}" in f"\n{collected.stdout}"


def without_values(words: list[str]) -> list[str]:
    """Return program, module or command, and names of options."""
    words = [word.partition("=")[0] for word in words]
    at = 3 if words[1] == "-m" else 2
    commands = itertools.takewhile(lambda word: word[0] != "-", words[at:])
    return [*words[:at], *commands, *(word for word in words[at:] if word.startswith("--"))]


def source(place: str) -> str:
    """Return the text of a function or class, named as pytest names tests."""
    file, *names = place.split("::")
    text = (ROOT / "rba_pipeline_tests" / file).read_text()
    found: ast.AST = ast.parse(text)
    for name in names:
        found = next(node for node in found.body if getattr(node, "name", "") == name)
    return str(ast.get_source_segment(text, found))


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

    said = set(re.findall(r"`(\w+)", OPERATING))
    assert {*(raised - bases), *checks, *reasons} - said == set()
