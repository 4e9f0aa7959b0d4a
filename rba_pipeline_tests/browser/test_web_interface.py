"""Launch, read, refuse, cancel: each in a real browser, over the sample corpus."""

import threading

import pytest
from playwright.sync_api import expect

from rba_pipeline_tests.browser.web_interface import RUN_S, WebInterface
from rba_pipeline_tests.oracle_service import OracleService

pytestmark = [
    pytest.mark.browser,
    pytest.mark.postgres,
    pytest.mark.model,
    pytest.mark.timeout(300),
]

ASSETS = {
    "documents": "One publication: its text by sections",
    "chunks": "One passage that the model reads whole",
    "embeddings": "One unit vector per distinct text",
    "vectors": "One searchable chunk",
}
LAUNCHED = "2022-01-01"
BACKFILLED = ["2019-01-01", "2020-01-01", "2021-01-01"]
CANCELLED = "2023-01-01"
# All steps in the run's own process: three runs side by side then take seconds.
BACKFILL_CONFIG = """\
execution:
  config:
    in_process: {}
resources:
  embedding:
    config:
      preset: cpu-dev
      batch_size: 3
      parallel_batches: 1
"""
# Of a canvas: whether something is drawn on it in a colour, over some width: axes, grid and labels
# are grey.
HAS_A_LINE = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const columns = new Set();
  for (let at = 0; at < pixels.length; at += 4) {
    const [red, green, blue, opaque] = pixels.subarray(at, at + 4);
    const colour = Math.max(red, green, blue) - Math.min(red, green, blue);
    if (opaque > 200 && colour > 100) columns.add((at / 4) % canvas.width);
  }
  return columns.size > 10;
}"""


def test_the_graph_shows_the_four_assets_in_order_each_with_its_description(
    web: WebInterface,
) -> None:
    # Their group alone: over several groups, Dagster shows each as one box.
    web.open("/locations/rba_pipeline/asset-groups/publications/lineage")
    nodes = {name: web.page.locator("svg").get_by_text(name, exact=True) for name in ASSETS}
    for node in nodes.values():
        expect(node).to_be_visible()
    expect(web.page.get_by_text("Loading")).to_have_count(0)
    places = [node.bounding_box() for node in nodes.values()]
    web.keep("asset_graph")

    lefts = [place["x"] for place in places if place]
    assert len(lefts) == len(ASSETS)
    assert lefts == sorted(lefts)
    for name, description in ASSETS.items():
        web.open(f"/assets/{name}")
        expect(web.page.get_by_text(description)).to_be_visible()
        web.keep(f"asset_{name}")


def test_batch_size_and_parallelism_are_changed_in_the_launchpad(web: WebInterface) -> None:
    web.open_launchpad(LAUNCHED)
    web.set_field("parallel_batches", 3)
    web.set_field("batch_size", 4)
    web.button_to_launch()
    web.keep("launchpad")
    web.launch()
    assert web.ended() == "Success"
    web.keep("run")

    web.open_partition("embeddings", LAUNCHED)
    effective = web.value("effective_configuration")
    assert (effective["batch_size"], effective["parallel_batches"]) == (4, 3)
    web.metadata("pace").get_by_text("Show Markdown").click()
    picture = web.page.get_by_role("dialog").locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    web.keep("pace")


def test_a_backfill_runs_each_partition_with_its_configuration(web: WebInterface) -> None:
    backfill = web.backfill(BACKFILLED, BACKFILL_CONFIG)
    expect(web.page.get_by_text("100% completed")).to_be_visible(timeout=RUN_S * 1000)
    # The daemon notices some time after the last run; a column keeps this name.
    expect(web.page.get_by_text("In progress", exact=True)).to_have_count(1)
    web.keep("backfill")

    runs = web.runs(dagster_backfill=backfill)
    assert {key: run["status"] for key, run in runs.items()} == dict.fromkeys(BACKFILLED, "SUCCESS")
    for partition in BACKFILLED:
        web.open_partition("embeddings", partition)
        effective = web.value("effective_configuration")
        assert {"preset": "cpu-dev", "batch_size": 3, "parallel_batches": 1}.items() <= (
            effective.items()
        )

    web.open("/assets/embeddings")
    web.page.get_by_role("button", name="Plots").click()
    for figure in ("chunks_per_second", "embedded"):
        expect(web.page.get_by_text(figure, exact=True)).to_be_visible()
    plots = web.page.locator("canvas")
    expect(plots.first).to_be_visible()
    web.page.wait_for_function(HAS_A_LINE, arg=plots.first.element_handle())
    web.page.get_by_text("Metadata", exact=True).evaluate("title => title.scrollIntoView()")
    web.keep("backfilled")


def test_a_bad_value_is_refused_with_one_message_and_nothing_runs(web: WebInterface) -> None:
    before = web.runs()
    web.open_launchpad(CANCELLED)
    web.set_field("batch_size", 0)
    web.button_to_launch().click()
    message = web.page.get_by_text("batch_size=0: allowed is a whole number from 1 to 2048")
    expect(message).to_be_visible()
    web.keep("refused")

    assert message.count() == 1
    assert web.runs() == before


def test_a_run_is_cancelled_within_ten_seconds_and_gives_its_place_back(
    web: WebInterface, oracle: OracleService
) -> None:
    reached, gone = threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        reached.set()
        gone.wait(RUN_S)

    oracle.script = hold
    try:
        web.open_launchpad(CANCELLED)
        web.set_field("api_url", oracle.url)
        web.launch()
        assert reached.wait(RUN_S)
        held = web.slots_in_use()
        web.page.get_by_role("button", name="Terminate").click()
        web.page.get_by_role("button", name="Terminate 1 run").click()
        expect(web.page.get_by_text("Canceled", exact=True).first).to_be_visible(timeout=10_000)
        freed = web.slots_in_use()
        web.keep("cancelled")
        # No other try is announced, no stack of a process: it was interrupted.
        expect(web.page.get_by_text("STEP_UP_FOR_RETRY")).to_have_count(0)
        expect(web.page.get_by_text("DagsterSubprocessError")).to_have_count(0)
    finally:
        gone.set()

    assert (held, freed) == (1, 0)
    assert web.runs()[CANCELLED]["status"] == "CANCELED"
