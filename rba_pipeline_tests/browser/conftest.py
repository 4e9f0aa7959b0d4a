"""An installation as ``make up`` starts it, and a browser that looks at it; one of each for all
tests here.
"""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from playwright.sync_api import Browser, sync_playwright

from rba_pipeline.settings import SAMPLE_CORPUS
from rba_pipeline_tests.browser.web_interface import WebInterface
from rba_pipeline_tests.installation import ROOT
from rba_pipeline_tests.oracle_service import KEY, OracleService
from rba_pipeline_tests.stack_project import Up, free_ports, stop_database, wait_for_none_of

CORPUS = "publications"
# The first start prepares the model for this machine.
UP_S = 300
DOWN_S = 60
# Nothing but what the tests ask for: no sandbox for root, no traffic of the browser's own.
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chromium", default="/usr/bin/chromium", help="The browser's executable.")
    parser.addoption(
        "--screenshots",
        default=str(ROOT / ".state" / "screenshots"),
        help="Folder for a picture of every page that a test stops at.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep a picture of the page at which a test failed."""
    report = yield
    web = getattr(item, "funcargs", {}).get("web")
    if call.when == "call" and report.failed and web is not None:
        web.keep(f"failed_{item.name}")
    return report


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Run the browser, with a profile of its own that is gone afterwards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=request.config.getoption("chromium"), args=list(_FLAGS)
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def up() -> Iterator[str]:
    """Run database, service, Dagster's three servers over the sample corpus; yield the address.

    Source and store are named relative to the project: no page shows a folder of this machine.
    """
    with TemporaryDirectory(prefix="rba-browser-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copy(ROOT / name, root)
        shutil.copytree(SAMPLE_CORPUS, root / CORPUS)
        ports = free_ports(root)
        environment = {
            "RBA_SOURCE": CORPUS,
            "RBA_STORE": ".state/store",
            "EMBEDDING_API_KEY": KEY,
        }
        try:
            with Up(root, **environment) as running:
                running.said_until("ready", UP_S)
                yield f"http://127.0.0.1:{ports['web']}"
                running.signal(signal.SIGINT)
                status, errors = running.ended(DOWN_S)
                assert (status, wait_for_none_of(root, DOWN_S)) == (0, {}), errors
        finally:
            stop_database(root)


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Have the folder of the pictures, without those of earlier failures."""
    folder = Path(request.config.getoption("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("failed_*.png"):
        old.unlink()
    return folder


@pytest.fixture(scope="session")
def welcomed(chromium: Browser, up: str, screenshots: Path) -> str:
    """Have an installation whose web interface was opened before."""
    with chromium.new_context() as context:
        WebInterface(context.new_page(), up, screenshots).dismiss_welcome()
    return up


@pytest.fixture
def web(chromium: Browser, welcomed: str, screenshots: Path) -> Iterator[WebInterface]:
    """Open the web interface in a browser that was never there."""
    with chromium.new_context(
        viewport={"width": 1280, "height": 800}, locale="en-AU", timezone_id="Australia/Sydney"
    ) as context:
        yield WebInterface(context.new_page(), welcomed, screenshots)


@pytest.fixture
def oracle() -> Iterator[OracleService]:
    """Run a service that can be told to wait."""
    with OracleService() as service:
        yield service
