"""What the embeddings tell of their time, over real streams to a real service that is slowed."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rba_pipeline.assets.reporting import picture_of
from rba_pipeline.assets.timings import leaning_of, report, timings_picture, work_of
from rba_pipeline.core.embeddings import CANARY, Part, Text
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.stages import Level, Stage, StepTimes
from rba_pipeline.resources.embedding_stream import Step, Traffic
from rba_pipeline.resources.service_answers import Work
from rba_pipeline_tests.oracle_service import OracleService, Reply, oracle_vector
from rba_pipeline_tests.resources.embedding_streams import embedding, texts

SLOW_S = 0.03
BOUNDS = Bounds(4, 2)


def takes_a_while() -> None:
    threading.Event().wait(SLOW_S)


class Run:
    """Sixteen texts, four to a request, two requests at once; each of its ends may be slow."""

    def __init__(self, oracle: OracleService) -> None:
        self.resource = embedding(oracle, 4, 2)
        self.traffic = Traffic()
        self.reads_slowly = self.keeps_slowly = False

    def level(self) -> Level:
        """Return what bounds the run once it was made."""
        with self.resource.open():
            info = self.resource.handshake()
            for part in self._parts():
                with self.traffic.stopwatch.stage(Stage.WRITING):
                    self._keep(part)
        times = self.traffic.stopwatch.times(self.traffic.answers)
        found = report([times], leaning_of(self.traffic, info, upper=BOUNDS, adaptive=False))
        return Level(found["bottleneck"])

    def _parts(self) -> Iterator[Part]:
        return self.resource.embed_stream(
            self._texts(),
            total=16,
            info=self.resource.handshake(),
            canary=oracle_vector(CANARY),
            traffic=self.traffic,
            on_progress=lambda so_far: None,
        )

    def _texts(self) -> Iterator[Text]:
        for text in texts(16):
            if self.reads_slowly:
                takes_a_while()
            yield text

    def _keep(self, part: Part) -> None:
        if self.keeps_slowly:
            for _ in part.text_hashes:
                takes_a_while()


def test_a_record_that_reads_slowly_is_named(oracle: OracleService) -> None:
    run = Run(oracle)
    run.reads_slowly = True

    assert run.level() is Level.RECORD


def test_a_record_that_keeps_slowly_is_named(oracle: OracleService) -> None:
    run = Run(oracle)
    run.keeps_slowly = True

    assert run.level() is Level.RECORD


def test_a_service_that_says_it_computed_is_named(oracle: OracleService) -> None:
    def compute(number: int, texts: list[str]) -> None:
        for _ in texts:
            takes_a_while()

    oracle.script = compute
    run = Run(oracle)

    assert run.level() is Level.MODEL
    answers = run.traffic.answers
    assert answers.told == 4
    # Two were open at once: together they took about twice the time that passed.
    assert answers.computed >= 16 * SLOW_S
    assert answers.total > run.traffic.seconds


def test_an_answer_that_drips_is_on_its_way(oracle: OracleService) -> None:
    def drip(number: int, texts: list[str]) -> Reply:
        took = {"X-Wait-Seconds": "0", "X-Compute-Seconds": "0.0001"}
        whole = oracle.regular(texts)
        return replace(whole, headers=took, manner="drip")

    oracle.script, oracle.drip_s = drip, 0.0002

    assert Run(oracle).level() is Level.HTTP


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"X-Wait-Seconds": "0"}, id="one"),
        pytest.param({"X-Wait-Seconds": "0", "X-Compute-Seconds": "long"}, id="words"),
        pytest.param({"X-Wait-Seconds": "0", "X-Compute-Seconds": "nan"}, id="no-number"),
        pytest.param({"X-Wait-Seconds": "-3", "X-Compute-Seconds": "5"}, id="negative"),
    ],
)
def test_waiting_for_a_service_that_does_not_say_why_is_not_divided(
    oracle: OracleService, headers: dict[str, str]
) -> None:
    oracle.script = lambda number, texts: replace(oracle.regular(texts), headers=headers)
    run = Run(oracle)
    run.level()

    spent = run.traffic.stopwatch.times(run.traffic.answers).seconds
    assert spent[Stage.WAITING] > 0
    assert spent[Stage.COMPUTING] == spent[Stage.HTTP] == 0
    assert run.traffic.answers.told == 0
    assert "requests" not in timings_picture(StepTimes("embeddings", spent), run.traffic).lower()


def test_the_pace_that_is_told_is_the_one_of_most_of_the_time(oracle: OracleService) -> None:
    with embedding(oracle, 4, 2).open() as client:
        info = client.info()
    path = [
        Step(0.0, Bounds(8, 2), "first"),
        Step(1.0, Bounds(16, 4), "more requests"),
        Step(9.0, Bounds(8, 8), "little is left"),
    ]

    traffic, upper = Traffic(path=path, seconds=10.0), Bounds(32, 8)
    leaning = leaning_of(traffic, info, upper=upper, adaptive=True)

    assert leaning is not None
    assert (leaning.batch_size, leaning.parallel_batches) == (16, 4)
    assert (leaning.most_texts, leaning.most_requests) == (32, 8)
    assert leaning_of(Traffic(), info, upper=upper, adaptive=True) is None


def test_the_last_steps_of_the_pace_are_told_with_their_reasons() -> None:
    path = [Step(float(at), Bounds(8, 1 + at % 2), f"reason {at}") for at in range(20)]

    told = picture_of(Traffic(path=path, seconds=20.0)).splitlines()

    assert told[0].startswith("![pace](data:image/svg+xml;base64,")
    assert told[2] == "19 changes, at the end 8 texts per request × 2 requests in flight"
    assert told[4:] == [f"- {at} s: 8 × {1 + at % 2}, reason {at}" for at in range(12, 20)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(
            {"a": Work(1.0, 100, 100), "b": Work(0.0, 0, 0)},
            {"a": Work(3.0, 160, 180), "b": Work(2.0, 60, 80)},
            {"padding_share": 0.25, "model_busy_share": 0.5},
            id="two-services",
        ),
        pytest.param(
            {"a": Work(1.0, 100, 100), "b": Work(9.0, 900, 900)},
            {"a": Work(5.0, 200, 200), "b": Work(1.0, 50, 90)},
            {"padding_share": 0.0, "model_busy_share": 1.0},
            id="one-was-restarted",
        ),
        pytest.param({"a": Work(1.0, 9, 9)}, {"b": Work(2.0, 9, 9)}, {}, id="another-one"),
        pytest.param({"a": Work(1.0, 9, 9)}, {"a": Work(1.0, 9, 9)}, {}, id="it-did-nothing"),
        pytest.param({}, {}, {}, id="nobody-says"),
    ],
)
def test_padding_and_busy_time_are_what_the_services_did_meanwhile(
    before: dict[str, Work], after: dict[str, Work], expected: dict[str, float]
) -> None:
    assert work_of(before, after, 4.0) == expected
