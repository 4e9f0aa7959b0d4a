"""The resource ``embedding``: how hard a run leans on the service, checked before any work."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar, TypeVar
from urllib.parse import urlsplit

import dagster as dg
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, field_validator

from rba_pipeline.core.advice import Circumstances, advice
from rba_pipeline.core.backlog import USUAL_STEPS, BacklogSteps
from rba_pipeline.core.dispatch import Dispatch
from rba_pipeline.core.embeddings import Part, Text, by_similar_length
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.insistence import BRIEF, Insistence, OnWait
from rba_pipeline.core.pacing import FIRST_PARALLEL, Pace, fixed, started
from rba_pipeline.core.presets import (
    FROM_PRESET,
    RANGES,
    TUNED,
    Bounds,
    Preset,
    check_settings,
    effective_bounds,
    whole_number,
)
from rba_pipeline.core.run_limits import Limits
from rba_pipeline.core.stages import Stage
from rba_pipeline.core.tuned import MeasuredService, TunedPreset
from rba_pipeline.resources.checked_resource import CheckedResource
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline.resources.embedding_stream import (
    LOOK_AHEAD_REQUESTS,
    EmbeddingStream,
    OnProgress,
    Traffic,
)
from rba_pipeline.resources.metered_client import MeteredClient
from rba_pipeline.resources.service_answers import ServiceInfo
from rba_pipeline.resources.tuned_file import read_tuned

Client = TypeVar("Client", bound=EmbeddingClient)


def check_addresses(api_url: str) -> list[str]:
    """Return the addresses of the service, each once.

    Raises:
        BadSetting: There is none, or one is not http:// or https://, or holds a password.
    """
    parts = (part.strip().rstrip("/") for part in api_url.split(","))
    addresses = list(dict.fromkeys(part for part in parts if part))
    if not addresses or not all(_is_web_address(url) for url in addresses):
        raise BadSetting(
            f"api_url={api_url!r}: expected one or several http:// or https:// addresses, "
            "comma separated; set EMBEDDING_API_URL"
        )
    if "@" in api_url:
        raise BadSetting("api_url holds a user or password: put the key into EMBEDDING_API_KEY")
    return addresses


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        return False


def identity(info: ServiceInfo) -> MeasuredService:
    """Return what a tuned preset remembers of the service that it was measured at."""
    return MeasuredService(info.space.id, info.space.model, info.device, info.cores)


def _range(name: str) -> str:
    low, high, unit = RANGES[name]
    return f"{low} to {high} {unit}"


class Embedding(CheckedResource):
    """The embedding service, and how hard a run may lean on it."""

    unset: ClassVar[str] = FROM_PRESET

    preset: Preset = Field(
        default=Preset("auto"),
        description="Batch size × requests in flight: cpu-dev 4×2, cpu-prod 8×4, gpu 32×8; "
        "auto: up to 32×8 as the run finds it worth while; if not adaptive, by the service's "
        "device and cores; tuned: what `rba-pipeline tune` measured to be best.",
    )
    batch_size: int | None = Field(
        default=None,
        description=f"{_range('batch_size')}; else from the preset.",
    )
    parallel_batches: int | None = Field(
        default=None,
        description=f"{_range('parallel_batches')}; else from the preset.",
    )
    timeout_s: int = Field(
        default=240, description=f"Patience for one request, {_range('timeout_s')}."
    )
    adaptive: bool = Field(
        default=True,
        description="Find the pace that the service is fastest at, within batch_size and "
        "parallel_batches, and lean less on one that refuses.",
    )
    backlog_batches: str = Field(
        default=USUAL_STEPS,
        description="Texts left:texts per request, comma separated: what an adaptive run begins "
        "with, and how it ends.",
    )
    outage_s: int = Field(
        default=300,
        description="How long a run goes on while no request at all is answered, "
        f"{_range('outage_s')}.",
    )
    truncate: bool = Field(
        default=False,
        description="Embed the beginning of a text that is too long for the model, and count it as "
        "truncated; else it goes to quarantine.",
    )
    api_url: str = Field(
        default="http://127.0.0.1:8000",
        description="Address of the embedding service; several, comma separated, share the work.",
    )
    api_key: str = Field(
        default="",
        description="Secret of the service. Leave it to the environment, or write env: NAME: "
        "Dagster keeps and shows what stands in a run config.",
    )

    tuned_file: str = Field(
        default="",
        description="Where `rba-pipeline tune` keeps what preset tuned stands for: a path or an "
        "fsspec URL.",
    )

    @field_validator("batch_size", "parallel_batches", mode="before")
    @classmethod
    def _set(cls, value: object) -> object:
        return None if value == FROM_PRESET else value

    _client: EmbeddingClient | None = PrivateAttr(default=None)
    _tuned: TunedPreset | None = PrivateAttr(default=None)

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        """Refuse values, and preset ``tuned`` without its file, before a run begins."""
        cls.check_values(values)
        if values.get("preset") == TUNED and isinstance(place := values.get("tuned_file"), str):
            read_tuned(place)

    @classmethod
    def allowed(cls) -> Mapping[str, str]:
        ranges = {name: whole_number(name) for name in RANGES}
        return {"preset": f"Preset ({', '.join(Preset)})", **ranges}

    @classmethod
    def check_values(cls, values: Mapping[str, object]) -> None:
        """Refuse values that are out of range; whoever only searches needs no preset.

        Raises:
            BadSetting: One message with every wrong value and its range.
        """
        check_settings(values)
        if isinstance(steps := values.get("backlog_batches"), str):
            BacklogSteps.read(steps)
        # A reference to a variable is looked up only inside the run, and checked there.
        if isinstance(address := values.get("api_url"), str):
            check_addresses(address)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Embedding"]:
        with self.open():
            yield self

    @contextmanager
    def open(self) -> Iterator[EmbeddingClient]:
        """Hold the connections for the block; they close whatever happens in it.

        Raises:
            BadSetting: A value is out of range, or no address is given.
        """
        self._client = self._made(EmbeddingClient)
        try:
            yield self._client
        finally:
            self._client.close()
            self._client = self._tuned = None

    @contextmanager
    def metered(self) -> Iterator[MeteredClient]:
        """Hold another client for the block, one that takes note of what it is answered.

        Raises:
            BadSetting: A value is out of range, or no address is given.
        """
        client = self._made(MeteredClient)
        try:
            yield client
        finally:
            client.close()

    def _made(self, kind: type[Client]) -> Client:
        self.check_values(self.model_dump())
        if not self.api_key.isascii():
            raise BadSetting("EMBEDDING_API_KEY: only ASCII characters can be sent in a header")
        addresses = check_addresses(self.api_url)
        # Of several keys, as the service holds them while one replaces another, the first.
        key = self.api_key.partition(",")[0].strip()
        return kind(addresses, key=key, timeout_s=self.timeout_s)

    @property
    def client(self) -> EmbeddingClient:
        """Return the open client."""
        if self._client is None:
            raise RuntimeError("the embedding resource is used before it was opened")
        return self._client

    def insistence(self, on_wait: OnWait) -> Insistence:
        """Return how long a run insists on what it must know before it sends any text."""
        return Insistence(self.outage_s, on_wait)

    def handshake(self, insistence: Insistence = BRIEF) -> ServiceInfo:
        """Return what the service says of itself; raises as ``EmbeddingClient`` does."""
        return self.client.info(insistence)

    def bounds(self, info: ServiceInfo) -> Bounds:
        """Return the effective batch size and parallelism of a run against this service."""
        chosen = effective_bounds(
            self.preset.value,
            batch_size=self.batch_size,
            parallel_batches=self.parallel_batches,
            device=info.device,
            cores=info.cores,
            adaptive=self.adaptive,
            tuned=tuned.bounds if (tuned := self.tuned()) else None,
        )
        return Bounds(min(chosen.batch_size, info.max_texts), chosen.parallel_batches)

    def tuned(self) -> TunedPreset | None:
        """Return what preset ``tuned`` stands for in this run; ``None`` with another preset.

        Raises:
            BadSetting: Its file is absent or damaged.
        """
        if self.preset.value == TUNED and self._tuned is None:
            self._tuned = read_tuned(self.tuned_file)
        return self._tuned

    def advice(self, info: ServiceInfo, *, texts: int, tokens: int) -> list[str]:
        """Return what whoever launched the run should know, one sentence each.

        Args:
            texts, tokens: Of the partition, those with a vector among them.
        """
        tuned = self.tuned()
        return advice(
            Circumstances(
                model=info.space.model,
                prompt=info.document_prompt,
                batch_size=self.batch_size,
                parallel_batches=self.parallel_batches,
                preset=None if self.adaptive or tuned else self.preset.value,
                in_flight=self._first_pace(info, texts).now,
                timeout_s=self.timeout_s,
                device=info.device,
                cores=info.cores,
                max_texts=info.max_texts,
                server_batch_size=info.server_batch_size,
                tokens_per_text=tokens / max(1, texts),
                rate=self.client.tokens_per_second(),
                services=len(self.client.addresses) - len(self.client.unreachable),
                unreachable=self.client.unreachable,
                tuned_elsewhere=tuned.difference(identity(info)) if tuned else None,
            )
        )

    def effective(self, info: ServiceInfo) -> dict[str, object]:
        """Return the settings in force, without secrets, for a run's metadata."""
        bounds = self.bounds(info)
        return {
            "preset": self.preset.value,
            "batch_size": bounds.batch_size,
            "parallel_batches": bounds.parallel_batches,
            "timeout_s": self.timeout_s,
            "outage_s": self.outage_s,
            "adaptive": self.adaptive,
            "backlog_batches": self.backlog_batches,
            "truncate": self.truncate,
            "api_url": self.api_url,
            **({"tuned_at": tuned.measured_at} if (tuned := self.tuned()) else {}),
        }

    def embed_stream(
        self,
        texts: Iterable[Text],
        *,
        total: int,
        info: ServiceInfo,
        canary: NDArray[np.float32],
        traffic: Traffic,
        on_progress: OnProgress,
        doubted: Collection[str] = (),
        embedded_before: int = 0,
        runs_at_once: int = 1,
    ) -> Iterator[Part]:
        """Yield the vectors of all ``texts`` in parts, in the order in which answers arrive.

        A part is yielded as soon as ``parallel_batches`` answers wait or 2 s have passed, and no
        request is sent between: until the caller keeps it, at most 2 × ``batch_size`` ×
        ``parallel_batches`` texts are neither unsent nor kept. Before an error is raised, the
        answers of the requests that were still in flight are yielded; where it is one that does
        not pass, those that come within 2 s: the others are cut, and the client with them. A text
        without a vector is in ``traffic.rejections`` at the end.

        Args:
            texts: Distinct texts; read as needed, some 64 requests ahead.
            total: How many they are.
            info: The service as the run began with it.
            canary: The canary's vector in this space, as ``EmbeddingClient.canary`` returns it.
            traffic: Counted up while the stream runs.
            on_progress: Called at first, after each part, and when the time that it asked for has
                passed, whether or not the service answers.
            doubted: Hashes of texts that the service failed at in earlier runs.
            embedded_before: Texts of the partition that have a vector in this space already.
            runs_at_once: How many runs may lean on the service: this one takes no more than its
                share of what may wait there, so that they do not refuse each other.

        Raises:
            EmbeddingError: The first failure that no other request could mend.
        """
        upper, limits = self.bounds(info), partial(self._limits, runs_at_once=runs_at_once)
        dispatch = Dispatch(
            traffic.stopwatch.timed(
                Stage.READING, by_similar_length(texts, LOOK_AHEAD_REQUESTS * upper.batch_size)
            ),
            total,
            self.client.addresses,
            self._first_pace(info, total),
            self.adaptive,
            BacklogSteps.read(self.backlog_batches),
            limits(info),
            unreachable=self.client.unreachable,
            doubted=doubted,
            embedded_before=embedded_before,
        )
        stream = EmbeddingStream(
            self.client, info, dispatch, traffic=traffic, canary=canary, truncate=self.truncate,
            limits=limits,
        )  # fmt: skip
        return stream.parts(on_progress)

    def _limits(self, info: ServiceInfo, *, runs_at_once: int) -> Limits:
        upper, share = self.bounds(info), max(1, info.max_queue_tokens // runs_at_once)
        return Limits(
            unkept_texts=2 * upper.batch_size * upper.parallel_batches,
            request_tokens=share,
            outage_s=self.outage_s,
            address_tokens=share,
            request_texts=upper.batch_size,
        )

    def _first_pace(self, info: ServiceInfo, total: int) -> Pace:
        """Return what a run begins with: where it may, the pace is found from there."""
        upper = self.bounds(info)
        if not self.adaptive:
            return fixed(upper, timeout_s=self.timeout_s)
        return started(
            upper,
            timeout_s=self.timeout_s,
            backlog=total,
            steps=BacklogSteps.read(self.backlog_batches),
            # Who names a number of requests means it, or measured it; a preset is only a bound.
            parallel=upper.parallel_batches
            if self.parallel_batches or self.tuned()
            else FIRST_PARALLEL,
        )
