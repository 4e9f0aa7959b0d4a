"""The table of faults: which case is shown by which test, its result, and how long it took.

A test names its cases with ``@pytest.mark.case("C1")`` or, among the fault tests, in its name. With
``--fault-table`` the table is printed, and a case without a test makes the run fail; with
``--fault-table=run`` it has the cases that were run, and no other is missed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

import pytest

# S service, C client, D database, O orchestration, T documents.
_NUMBERS = {
    "C": (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 14, 15, 16, 18, 20, 21, 24, 25, 27),
    "S": (1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18),
    "D": (1, 2, 3, 4, 5, 7, 9, 12, 13, 15),
    "O": (1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16),
    "T": (1, 2, 3, 4, 6, 8, 11, 12, 14),
}
CASES = dict.fromkeys(f"{group}{number}" for group in _NUMBERS for number in _NUMBERS[group])

# As in test_d9_a_row and test_a_row[D9-trigger].
_IN_NAME = re.compile(r"(?:^test_|\[|-)([csdotCSDOT]\d+)(?=[-_\]])")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-table",
        nargs="?",
        const="all",
        choices=["all", "run"],
        help="print the table of fault cases: of all, none of them missing, or of those that run",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        named = {name for mark in item.iter_markers("case") for name in mark.args}
        if "/faults/" in item.nodeid:
            named |= {name.upper() for name in _IN_NAME.findall(item.name)}
        if unknown := named - CASES.keys():
            raise pytest.UsageError(f"{item.nodeid}: no such fault case: {unknown}")
        if named:
            item.add_marker(pytest.mark.case(*sorted(named)))
        # Properties travel with the report, also from another process.
        item.user_properties += [("case", name) for name in sorted(named)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Processes that tests are spread over know only their own share.
    asked = session.config.getoption("--fault-table") == "all"
    asked = asked and not hasattr(session.config, "workerinput")
    if asked and CASES.keys() - _found(session.config).keys() and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not (asked := config.getoption("--fault-table")):
        return
    found = _found(config)
    shown = [name for name in CASES if asked == "all" or name in found]
    missing = [name for name in shown if name not in found]
    terminalreporter.section("fault cases")
    for name in shown:
        passed, failed, seconds = found.get(name, (0, 0, 0.0))
        result = "missing" if not passed + failed else "FAILED" if failed else "passed"
        line = f"{name:<4}  {result:<8}  {passed + failed:3} tests  {seconds:7.1f} s"
        terminalreporter.write_line(line)
    told = f"; without one: {' '.join(missing)}" if missing else ""
    have = "have a test" if asked == "all" else "were run"
    terminalreporter.write_line(f"{len(found)} of {len(CASES)} cases {have}{told}")


def _found(config: pytest.Config) -> dict[str, tuple[int, int, float]]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return {}
    everything = (each for reports in reporter.stats.values() for each in reports)
    return _results(each for each in everything if isinstance(each, pytest.TestReport))


def _results(reports: Iterable[pytest.TestReport]) -> dict[str, tuple[int, int, float]]:
    """Return tests passed, tests failed, and seconds, by case; set-up and clean-up count."""
    seconds: defaultdict[str, float] = defaultdict(float)
    passed: defaultdict[str, set[str]] = defaultdict(set)
    failed: defaultdict[str, set[str]] = defaultdict(set)
    for report in reports:
        for name in {value for key, value in report.user_properties if key == "case"}:
            seconds[name] += report.duration
            if report.failed:
                failed[name].add(report.nodeid)
            elif report.passed and report.when == "call":
                passed[name].add(report.nodeid)
    return {
        name: (len(passed[name] - failed[name]), len(failed[name]), seconds[name])
        for name in passed.keys() | failed.keys()
    }
