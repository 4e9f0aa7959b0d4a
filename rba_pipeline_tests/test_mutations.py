"""The check that the fault suite bites: it names what exists, and tells a miss from a hit."""

import ast
from pathlib import Path

import pytest

from rba_pipeline_tests.fault_table import CASES
from rba_pipeline_tests.mutations.__main__ import ROOT, check, switched_off
from rba_pipeline_tests.mutations.defences import DEFENCES, Defence

CODE = "def double(number):\n    return 2 * number\n"
TEST = "from code_under_test import double\n\n\ndef test_double():\n    assert double(3) == 6\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of one function and its test."""
    (tmp_path / "code_under_test.py").write_text(CODE)
    (tmp_path / "test_double.py").write_text(TEST)
    return tmp_path


def off(old: str, new: str) -> Defence:
    return Defence("doubling", "C1", "code_under_test.py", old, new, "test_double.py::test_double")


@pytest.mark.parametrize("defence", [pytest.param(each, id=each.name) for each in DEFENCES])
def test_every_defence_is_there_once_and_its_test_exists(defence: Defence) -> None:
    file, *_, name = defence.test.partition("[")[0].split("::")
    defined = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }

    assert defence.case in CASES
    assert (ROOT / defence.file).read_text(encoding="utf-8").count(defence.old) == 1
    assert name in defined


def test_there_are_enough_of_them() -> None:
    assert len({each.name for each in DEFENCES}) == len(DEFENCES) >= 12


def test_a_defence_that_is_missed_is_told_from_one_that_is_not(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check(tree, [off("2 * number", "3 * number"), off("2 * number", "number * 2")])

    lines = capsys.readouterr().out.splitlines()
    assert found == 1
    assert [line.split()[1] for line in lines if line.startswith("C1")] == ["missed", "NOT"]
    assert (tree / "code_under_test.py").read_text() == CODE


@pytest.mark.long
def test_a_test_that_hangs_without_its_defence_is_told_from_one_that_sees_it(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its own deadline, as others have it from their module or the options of the run.
    (tree / "test_double.py").write_text(
        "import pytest\n" + TEST.replace("def test", "@pytest.mark.timeout(1)\ndef test")
    )

    found = check(tree, [off("    return", "    while True: pass\n    return")])

    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("C1")]
    assert found == 1
    assert "by its deadline" in line


@pytest.mark.long
@pytest.mark.parametrize("new", ["2 *", "2 * numbr", "2 * number.wrong"])
def test_code_that_does_not_even_run_counts_as_not_seen(
    tree: Path, capsys: pytest.CaptureFixture[str], new: str
) -> None:
    assert check(tree, [off("2 * number", new)]) == 0
    assert "NOT SEEN" in capsys.readouterr().out


def test_tests_that_fail_as_they_are_end_the_check(tree: Path) -> None:
    (tree / "code_under_test.py").write_text(CODE.replace("2", "4"))

    with pytest.raises(SystemExit, match="failed with every defence on"):
        check(tree, [off("4 * number", "3 * number")])


def test_a_text_that_is_not_there_is_an_error(tree: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"its text is 0 times in code_under_test\.py"),
        switched_off(tree, off("5 * number", "")),
    ):
        pass
