"""Tuning: settings are measured at the real service, and the best is kept as preset ``tuned``."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rba_pipeline.core.chunks import Chunker
from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.errors import ModelFailed, ServiceOverloaded, ServiceUnavailable
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tuned import TunedPreset, rows
from rba_pipeline.core.tuning import (
    LARGEST,
    Ending,
    Measurement,
    Terms,
    largest_for,
    next_setting,
    sound_rates,
)
from rba_pipeline.core.tuning_plots import name_of
from rba_pipeline.partitions import today
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding import Embedding, identity
from rba_pipeline.resources.metered_client import MeteredClient
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.service_answers import ServiceInfo
from rba_pipeline.resources.setting_probe import SettingProbe

# A service without work for so many looks in a row is taken for idle: between two requests of a
# run it may have none for a moment.
_LOOKS, _LOOK_EVERY_S = 3, 0.3
_SAY_EVERY_S = 10.0
# A service that was killed for its memory is started again by whoever watches it.
_BACK_WITHIN_S = 120.0
# The share of other people's texts from which on the figures say too little.
_MOST_OTHERS = 0.05

Say = Callable[[str], None]
# From what the service says of itself, and a way to its tokenizer: what to send, and what that is.
Sampled = Callable[[ServiceInfo, Callable[[], bytes]], tuple[list[Text], str]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure.

    Attributes:
        texts: How many different ones are sent, again and again.
        probe_s: Seconds for each setting.
        wait_s: Seconds to wait for a service that works for somebody else.
        largest: No setting is beyond it.
    """

    texts: int = 512
    probe_s: float = 5.0
    wait_s: float = 600.0
    largest: Bounds = LARGEST


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found.

    Attributes:
        sample: Which texts were sent, for people.
        notes: What makes the figures less sure, a sentence each.
    """

    preset: TunedPreset
    past: tuple[Measurement, ...]
    sample: str
    notes: tuple[str, ...]


def tune(embedding: Embedding, sampled: Sampled, plan: Plan, say: Say) -> Tuning:
    """Measure settings from conservative upwards, and return the best; nothing is stored.

    Args:
        embedding: The service; preset, batch size and parallelism are not looked at.
        sampled: Returns what to send, n ≥ 1.
        say: Called with a line for each step.

    Raises:
        ServiceOverloaded: The service works for somebody else, or takes not even one text.
        EmbeddingError: The service is absent, or refuses us.
    """
    with embedding.metered() as client:
        info = client.info()
        sent, sample = sampled(info, client.tokenizer)
        say(
            f"service  {info.space.model} on {info.device}, {info.cores} cores: {embedding.api_url}"
        )
        say(f"texts    {sample}, {sum(text.tokens for text in sent) / len(sent):.0f} tokens each")
        canary = client.canary(info, None)
        _wait_until_idle(client, plan.wait_s, say)
        probe = SettingProbe(client, info, sent, canary, plan.probe_s)
        terms = Terms(plan.probe_s, embedding.timeout_s, largest_for(info.max_texts, plan.largest))
        past, ending = _searched(probe, terms, say)
        unreachable = len(client.unreachable)
    preset = TunedPreset(
        bounds=ending.bounds,
        service=identity(info),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rate=ending.rate,
        why=ending.why,
        measurements=rows(past),
    )
    return Tuning(preset, tuple(past), sample, tuple(_notes(past, unreachable)))


def sample_texts(
    records: RecordStore, chunking: Chunking, sample_corpus: str, count: int
) -> Sampled:
    """Return a function that gives chunks of the record, or of the sample corpus if there are none.

    Args:
        sample_corpus: Folder of publications.
        count: Most texts.
    """

    def found(info: ServiceInfo, fetch: Callable[[], bytes]) -> tuple[list[Text], str]:
        settings = chunking.settings(info)
        kept = records.sample(settings.chunking_id, count)
        if kept:
            return kept, f"{len(kept)} chunks of corpus {records.corpus}"
        tokenizer = records.tokenizer(settings.tokenizer_sha256, fetch)
        cut = _cut(Chunker(settings, tokenizer), sample_corpus)[:count]
        why = f"corpus {records.corpus} has no chunks of these settings yet"
        return cut, f"{len(cut)} chunks of the sample corpus ({why})"

    return found


def _cut(chunker: Chunker, folder: str) -> list[Text]:
    """Return the texts of all chunks in a folder of publications, which is parsed for it."""
    with tempfile.TemporaryDirectory(prefix="rba-tune-") as store:
        source = DocumentSource(url=folder, corpus="sample", store=store)
        source.refresh(today())
        documents = source.read(source.catalogue(today()).all_documents())
        return [
            Text(chunk.text_hash, chunk.text, chunk.tokens)
            for document in documents
            for chunk in chunker.cut(document)
        ]


def _wait_until_idle(client: MeteredClient, wait_s: float, say: Say) -> None:
    """Wait until the service has no requests: beside others, what is measured is not ours.

    Raises:
        ServiceOverloaded: It has, for ``wait_s``.
    """
    began_s, said_s, idle = time.monotonic(), float("-inf"), 0
    while idle < _LOOKS:
        requests = client.load().requests
        if requests is None:
            say("idle     not known: the service does not say how many requests it has")
            return
        idle = 0 if requests else idle + 1
        now_s = time.monotonic()
        if requests and now_s - said_s > _SAY_EVERY_S:
            say(f"waiting  the service works at {requests} requests of somebody else")
            said_s = now_s
        if requests and now_s - began_s > wait_s:
            raise ServiceOverloaded(
                f"the service has worked for somebody else for {wait_s:.0f} s. Tune when no run "
                "embeds: beside one, the figures would be wrong"
            )
        client.pause(_LOOK_EVERY_S)


def _searched(probe: SettingProbe, terms: Terms, say: Say) -> tuple[list[Measurement], Ending]:
    past: list[Measurement] = []
    while True:
        step = next_setting(past, terms)
        if step is None:
            raise ServiceOverloaded(
                "the service did not answer one setting without a refusal or a failure: look at "
                "its log; nothing was written"
            )
        if isinstance(step, Ending):
            return past, step
        best = max(sound_rates(past).values(), default=0.0)
        past.append(probe.measure(step, best))
        say(line_of(past[-1]))
        if not past[-1].is_sound:
            _wait_until_well(probe, past[-1])


def _wait_until_well(probe: SettingProbe, failed: Measurement) -> None:
    """Wait for a service that broke down under a setting: it may be on its way back.

    Raises:
        EmbeddingError: It is not.
    """
    began_s = time.monotonic()
    while True:
        try:
            probe.client.canary(probe.info, probe.canary)
            return
        except (ServiceOverloaded, ServiceUnavailable, ModelFailed) as error:
            if time.monotonic() - began_s > _BACK_WITHIN_S:
                raise ServiceUnavailable(
                    f"the service broke down at {name_of(failed.bounds)} and did not come back "
                    f"within {_BACK_WITHIN_S:.0f} s: look at its log, and start it again. Nothing "
                    f"was written ({error})"
                ) from error
            probe.client.pause(_LOOK_EVERY_S)


def line_of(each: Measurement) -> str:
    """Return one measurement as a line."""
    known = [
        f"{share:.0%} of {what}"
        for share, what in ((each.processors, "its processors"), (each.model, "the time in model"))
        if share is not None
    ]
    return (
        f"{name_of(each.bounds):>8}  {each.rate:8.1f} chunks/s  p50 {each.p50_s:7.3f} s  "
        f"{each.refusals} refused, {each.errors} failed" + "".join(f"  {said}" for said in known)
    )


def _notes(past: Sequence[Measurement], unreachable: int) -> list[str]:
    notes = []
    if all(each.processors is None for each in past):
        notes.append(
            "the load of the service's processors is not known: it does not say it under "
            "/metrics; that they are full was no reason to stop"
        )
    sent = sum(each.rate * each.seconds for each in past)
    others = sum(each.others for each in past)
    if others > _MOST_OTHERS * sent:
        notes.append(
            f"the service computed {others} texts for somebody else meanwhile: run it again when "
            "nothing else embeds"
        )
    if unreachable:
        notes.append(f"{unreachable} addresses did not answer: with them it may be faster")
    return notes
