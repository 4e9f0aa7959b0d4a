"""What README and docs say: their commands are called, their links lead somewhere, nothing is left
out.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rba_pipeline.core import errors
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


def commands() -> Iterator[list[str]]:
    """Yield the words of every command in a block of shell, variables before it left out."""
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words


def named(program: str) -> list[list[str]]:
    """Return the arguments of all calls of one program of ``.venv/bin``, or of make."""
    return [words[1:] for words in commands() if words[0].removeprefix(".venv/bin/") == program]


def test_every_command_is_of_a_program_that_is_tried_here() -> None:
    programs = {words[0].removeprefix(".venv/bin/") for words in commands()}

    assert programs == {"make", "rba-pipeline", "dagster", "python"}
    for file, test in TESTED_ELSEWHERE:
        assert f"def {test}(" in (ROOT / "rba_pipeline_tests" / file).read_text()


def test_every_target_of_make_is_there() -> None:
    targets = sorted({words[0] for words in named("make")})

    done = subprocess.run(
        ["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


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

    for arguments in named("rba-pipeline"):
        found = called(*arguments)
        assert found.exit_code == 0, (arguments, found.output)


def test_every_call_of_a_module_is_understood() -> None:
    for flag, module, *arguments in named("python"):
        done = subprocess.run(
            [sys.executable, flag, module, *arguments, "--help"], cwd=ROOT, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout[:6]) == (0, "usage:"), done.stderr


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
