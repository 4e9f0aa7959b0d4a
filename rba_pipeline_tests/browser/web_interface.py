"""What a user does in Dagster's web interface, and reads there."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Locator, Page, Response, expect
from playwright.sync_api import TimeoutError as NotInTime

from rba_pipeline.jobs import PUBLISH

# For whatever the page itself does: it waits for Dagster's servers, and this machine may be busy.
PAGE_S = 30
# For a run of one small partition: five processes, each of which imports everything.
RUN_S = 150
# How often a partition is written into the Launchpad.
_TRIES = 4
_JOB = f"/locations/rba_pipeline/jobs/{PUBLISH}"
_ENDED = re.compile(r"^(Success|Failure|Canceled)$")
_RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
_POOL = "{ instance { concurrencyLimits { concurrencyKey activeSlotCount } } }"


def _notes_the_welcome(response: Response) -> bool:
    return "setNuxSeen" in (response.request.post_data or "")


class WebInterface:
    """One tab of a browser.

    Every wait ends with an error after ``PAGE_S`` seconds, unless its method says otherwise.
    """

    def __init__(self, page: Page, url: str, screenshots: Path) -> None:
        self.page = page
        self._url = url
        self._screenshots = screenshots
        page.set_default_timeout(PAGE_S * 1000)
        expect.set_options(timeout=PAGE_S * 1000)

    def dismiss_welcome(self) -> None:
        """Close the dialog that Dagster shows once per installation, over everything else.

        It opens some time after the page: whoever does not wait for it is interrupted by it.
        """
        self.open("/")
        # Until Dagster has noted it, the dialog opens again in the next browser.
        with self.page.expect_response(_notes_the_welcome):
            self.page.get_by_role("button", name="Skip", exact=True).click()

    def keep(self, name: str) -> None:
        """Write a picture of what is to be seen now, dialogs and all where they end up."""
        self.page.screenshot(path=self._screenshots / f"{name}.png", animations="disabled")

    def open(self, path: str) -> None:
        self.page.goto(self._url + path)

    # The Launchpad

    def open_launchpad(self, partition: str) -> Locator:
        """Open the job's Launchpad, choose a partition, and return the dialog."""
        self.open(_JOB)
        self._materialise_button().locator("xpath=following::button[1]").click()
        self.page.get_by_role("menuitem", name="Open launchpad").click()
        dialog = self.page.get_by_role("dialog")
        # The defaults arrive some time after the dialog, and it is drawn anew with them.
        expect(dialog.get_by_text("No errors")).to_be_visible()
        # The partition comes first: choosing one writes the config anew.
        self._choose_partition(dialog, partition)
        expect(dialog.get_by_text(f"partition: {partition}")).to_be_visible()
        return dialog

    def _choose_partition(self, dialog: Locator, partition: str) -> None:
        choice = self.page.get_by_text(partition, exact=True)
        # What was written is gone if the dialog is drawn anew just then.
        for _ in range(_TRIES):
            dialog.get_by_placeholder("Partition").fill(partition)
            with suppress(NotInTime):
                choice.click(timeout=10_000)
                return
        raise AssertionError(f"the Launchpad does not offer {partition}")

    def set_field(self, name: str, value: object) -> None:
        """Give a field of the embedding resource a value, in the line that is there for it."""
        lines = self.page.locator(".cm-s-config-editor .CodeMirror-line")
        lines.filter(has_text=re.compile(rf"^\s*{name}:")).click()
        self.page.keyboard.press("End")
        self.page.keyboard.press("Shift+Home")
        self.page.keyboard.type(f"{name}: {value}")
        expect(
            lines.filter(has_text=re.compile(rf"^\s*{name}: {re.escape(str(value))}$"))
        ).to_be_visible()

    def button_to_launch(self) -> Locator:
        """Return the Launchpad's button, once Dagster has looked at the config."""
        button = self.page.locator("button:visible", has_text=re.compile("^Materialize$"))
        expect(button).to_be_enabled()
        return button

    def launch(self) -> str:
        """Launch what the Launchpad holds, and return the id of the run whose page opens."""
        self.button_to_launch().click()
        self.page.wait_for_url(re.compile("/runs/"))
        return self.page.url.rpartition("/")[2]

    # A backfill

    def backfill(self, partitions: Sequence[str], config: str) -> str:
        """Launch a backfill of the job with a run config, and return its id."""
        self.open(_JOB)
        self._materialise_button().click()
        self.page.get_by_placeholder(re.compile("^ex:")).fill(", ".join(partitions))
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_text(f"{len(partitions)} partitions")).to_be_visible()
        self.page.get_by_text("Config", exact=True).click()
        self.page.get_by_role("button", name="Add config").click()
        self.page.locator(".cm-s-config-editor").click()
        self.page.keyboard.insert_text(config)
        self.page.get_by_role("button", name="Save config").click()
        expect(self.page.get_by_text("Config saved")).to_be_visible()
        self.keep("backfill_dialog")
        self.page.get_by_role("button", name="Launch backfill").click()
        view = re.compile("^View$")
        self.page.get_by_role("button", name=view).or_(
            self.page.get_by_role("link", name=view)
        ).click()
        self.page.wait_for_url(re.compile("/runs/b/"))
        return self.page.url.rpartition("/runs/b/")[2].partition("?")[0]

    # What is to be read

    def ended(self) -> str:
        """Wait until the run on this page has ended, ``RUN_S`` at most, and return how."""
        status = self.page.get_by_text(_ENDED).first
        expect(status).to_be_visible(timeout=RUN_S * 1000)
        return status.inner_text()

    def open_partition(self, asset: str, partition: str) -> None:
        """Open the page with the metadata of a partition that was materialised."""
        self.open(f"/assets/{asset}?view=partitions&partition={partition}")
        expect(self.page.get_by_text("Latest materialization")).to_be_visible()

    def metadata(self, name: str) -> Locator:
        """Return the row of a metadata table."""
        return self.page.get_by_role("row").filter(has=self.page.get_by_text(name, exact=True))

    def value(self, name: str) -> Any:
        """Return a value of the metadata table that is JSON."""
        return json.loads(self.metadata(name).get_by_role("cell").nth(1).inner_text())

    def _materialise_button(self) -> Locator:
        return self.page.get_by_role("button", name="Materialize all…")

    # What Dagster knows, whatever the page shows of it

    def runs(self, **tags: str) -> dict[str, Mapping[str, Any]]:
        """Return the runs that have these tags (``_`` for ``/``), by partition."""
        found = self._ask(_RUNS)["runsOrError"]["results"]
        tagged = [(run, {each["key"]: each["value"] for each in run["tags"]}) for run in found]
        wanted = {name.replace("_", "/"): value for name, value in tags.items()}
        return {
            has["dagster/partition"]: run for run, has in tagged if wanted.items() <= has.items()
        }

    def slots_in_use(self) -> int:
        """Return how many steps hold a place in the pool ``embedding``."""
        limits = self._ask(_POOL)["instance"]["concurrencyLimits"]
        return sum(each["activeSlotCount"] for each in limits)

    def _ask(self, query: str) -> Any:
        answer = requests.post(f"{self._url}/graphql", json={"query": query}, timeout=PAGE_S)
        return answer.json()["data"]
