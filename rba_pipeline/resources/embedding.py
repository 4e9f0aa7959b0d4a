"""The resource ``embedding``: how hard a run leans on the service, checked before any work."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import dagster as dg
from pydantic import Field, PrivateAttr

from rba_pipeline.core.embeddings import Part, Text
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import RANGES, Bounds, Preset, check_settings, effective_bounds
from rba_pipeline.resources.checked_resource import CheckedResource
from rba_pipeline.resources.embedding_client import EmbeddingClient, ServiceInfo
from rba_pipeline.resources.embedding_stream import EmbeddingStream, Traffic


def check_addresses(api_url: str) -> list[str]:
    """Return the addresses of the service.

    Raises:
        BadSetting: There is none, or one is not http:// or https://, or holds a password.
    """
    addresses = [address.strip() for address in api_url.split(",") if address.strip()]
    if not addresses or not all(url.startswith(("http://", "https://")) for url in addresses):
        raise BadSetting(
            f"api_url={api_url!r}: expected one or several http:// or https:// addresses, "
            "comma separated; set EMBEDDING_API_URL"
        )
    if "@" in api_url:
        raise BadSetting("api_url holds a user or password: put the key into EMBEDDING_API_KEY")
    return addresses


def _range(name: str) -> str:
    low, high, unit = RANGES[name]
    return f"{low} to {high} {unit}"


class Embedding(CheckedResource):
    """The embedding service, and how hard a run may lean on it."""

    preset: Preset = Field(
        default=Preset("auto"),
        description="Batch size × requests in flight: cpu-dev 4×2, cpu-prod 8×4, gpu 32×8; "
        "auto picks one by the service's device and cores.",
    )
    batch_size: int | None = Field(
        default=None,
        description=f"Texts per request, {_range('batch_size')}; empty: from the preset.",
    )
    parallel_batches: int | None = Field(
        default=None,
        description=f"Requests open at once, {_range('parallel_batches')}; empty: from the preset.",
    )
    timeout_s: int = Field(
        default=240, description=f"Patience for one request, {_range('timeout_s')}."
    )
    adaptive: bool = Field(
        default=True,
        description="Lean less on a service that refuses, and more again when it keeps up, within "
        "batch_size and parallel_batches.",
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

    _client: EmbeddingClient | None = PrivateAttr(default=None)

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        check_settings(values)
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
        self.check(self.model_dump())
        if not self.api_key.isascii():
            raise BadSetting("EMBEDDING_API_KEY: only ASCII characters can be sent in a header")
        addresses = check_addresses(self.api_url)
        # Of several keys, as the service holds them while one replaces another, the first.
        key = self.api_key.partition(",")[0].strip()
        self._client = EmbeddingClient(addresses, key=key, timeout_s=self.timeout_s)
        try:
            yield self._client
        finally:
            self._client.close()
            self._client = None

    @property
    def client(self) -> EmbeddingClient:
        """Return the open client."""
        if self._client is None:
            raise RuntimeError("the embedding resource is used before it was opened")
        return self._client

    def handshake(self) -> ServiceInfo:
        """Return what the service says of itself; raises as ``EmbeddingClient`` does."""
        return self.client.info()

    def bounds(self, info: ServiceInfo) -> Bounds:
        """Return the effective batch size and parallelism of a run against this service."""
        chosen = effective_bounds(
            self.preset.value,
            batch_size=self.batch_size,
            parallel_batches=self.parallel_batches,
            device=info.device,
            cores=info.cores,
        )
        # A request with more tokens than may ever wait would be refused whatever the load.
        most_texts = min(info.max_texts, max(1, info.max_queue_tokens // info.max_tokens))
        return Bounds(min(chosen.batch_size, most_texts), chosen.parallel_batches)

    def effective(self, info: ServiceInfo) -> dict[str, object]:
        """Return the settings in force, without secrets, for a run's metadata."""
        bounds = self.bounds(info)
        return {
            "preset": self.preset.value,
            "batch_size": bounds.batch_size,
            "parallel_batches": bounds.parallel_batches,
            "timeout_s": self.timeout_s,
            "adaptive": self.adaptive,
            "api_url": self.api_url,
        }

    def embed_stream(
        self,
        texts: Iterable[Text],
        *,
        info: ServiceInfo,
        traffic: Traffic,
        on_progress: Callable[[Traffic], None],
    ) -> Iterator[Part]:
        """Yield the vectors of all ``texts`` in parts, in the order in which answers arrive.

        A part is yielded as soon as ``parallel_batches`` answers wait or 2 s have passed, and no
        request is sent between: until the caller keeps it, at most 2 × ``batch_size`` ×
        ``parallel_batches`` texts are neither unsent nor kept. Before an error is raised, the
        answers of the requests that were still in flight are yielded.

        Args:
            texts: Distinct texts; read as needed, some 64 requests ahead.
            info: The service as the run began with it.
            traffic: Counted up while the stream runs.
            on_progress: Called after each part.

        Raises:
            EmbeddingError: The first failure of a request that retries could not mend.
        """
        stream = EmbeddingStream(
            self.client, info, upper=self.bounds(info), adaptive=self.adaptive, traffic=traffic
        )
        return stream.parts(texts, on_progress)
