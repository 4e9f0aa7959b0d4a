"""The resource ``chunking``: how long chunks are, within what the service's model takes."""

from collections.abc import Mapping

from pydantic import Field

from rba_pipeline.core.chunks import LARGEST_CHUNK_TOKENS, SMALLEST_CHUNK_TOKENS, ChunkSettings
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.resources.checked_resource import CheckedResource
from rba_pipeline.resources.service_answers import ServiceInfo


class Chunking(CheckedResource):
    """How documents are cut."""

    chunk_tokens: int = Field(
        default=512,
        description="Longest chunk in tokens, the model's prompt and special tokens included, "
        f"{SMALLEST_CHUNK_TOKENS} to {LARGEST_CHUNK_TOKENS}; never more than the model takes.",
    )
    chunk_overlap: int = Field(
        default=64,
        description="Tokens that a chunk repeats of the one before, 0 to half of chunk_tokens.",
    )

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        size, overlap = values.get("chunk_tokens", 512), values.get("chunk_overlap", 64)
        if not isinstance(size, int) or not isinstance(overlap, int):
            raise BadSetting(
                f"chunk_tokens={size!r}, chunk_overlap={overlap!r}: expected whole numbers"
            )
        ChunkSettings(size, overlap, prompt="", tokenizer_sha256="")

    def settings(self, info: ServiceInfo) -> ChunkSettings:
        """Return the settings in force for the model that the service runs.

        Raises:
            BadSetting: Size or overlap is out of range.
        """
        self.check(self.model_dump())
        size = min(self.chunk_tokens, info.max_tokens)
        return ChunkSettings(
            size=size,
            # A model that takes less than was asked for gets the same share of overlap, not more.
            overlap=min(self.chunk_overlap, size // 2),
            prompt=info.document_prompt,
            tokenizer_sha256=info.tokenizer_sha256,
        )
