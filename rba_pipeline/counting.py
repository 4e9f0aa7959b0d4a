"""What the run of one partition would do: counted as the assets do it, but nothing is written."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from rba_pipeline.core.chunks import Chunk, Chunker, ChunkSettings
from rba_pipeline.core.embeddings import Space, Text, batched
from rba_pipeline.core.plans import Work, inputs_of
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.catalogue import Catalogue, Entry
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.record_store import RecordStore, digest_of
from rba_pipeline.resources.text_ledger import TextLedger
from rba_pipeline.resources.vector_store import VectorStore

_CHUNKS_AT_ONCE = 1024


@dataclass(frozen=True)
class Counting:
    """The state of everything that runs would begin with, asked partition by partition.

    Attributes:
        tokenizer: The service's, as JSON.
        truncate: Whether texts that are too long are cut.
    """

    catalogue: Catalogue
    space: Space
    settings: ChunkSettings
    tokenizer: str
    truncate: bool
    source: DocumentSource
    records: RecordStore
    embedding_store: EmbeddingStore
    vector_store: VectorStore

    def inputs(self, window: Window) -> str:
        """Return what stands for everything that the run of ``window`` would start from."""
        return inputs_of(self._digest(window), self.settings.chunking_id, self.space.id)

    def work(self, window: Window, planned: TextLedger) -> Work:
        """Return what a run of ``window`` would do.

        Args:
            planned: Texts that runs before this one will have embedded, of the same calendar year.
                Those that this one will embed are entered.
        """
        earlier = self.embedding_store.earlier(window, self.space.id)
        held = {name for name, row in earlier.items() if row.is_held(truncate=self.truncate)}
        with TextLedger() as texts, TextLedger() as chunks:
            of_held, cut_s = self._enter(window, texts, chunks, held)
            # In the order in which the run does it: a vector that another partition got counts.
            texts.settle(held, "held")
            for _, hashes in self.embedding_store.kept(self.space.id, window.year):
                texts.settle(hashes, "reused")
            texts.settle((name for name, _, _ in planned.rows()), "reused")
            still_held = {name for name, _, state in texts.rows() if state == "held"}
            planned.add((name, tokens) for name, tokens, state in texts.rows() if state is None)
            by_state = texts.by_state()
            embed, tokens = by_state.get(None, (0, 0))
            delete = self._mark_served(window, chunks)
            chunks.take((name for name, text in of_held if text in still_held), "held")
            count, _, add = chunks.totals()
        return Work(
            chunks=count,
            embed=embed,
            tokens=tokens,
            reuse=by_state.get("reused", (0, 0))[0],
            held=len(still_held),
            add=add,
            delete=delete,
            cut_s=cut_s,
        )

    def texts(self, window: Window) -> Iterator[Text]:
        """Yield the text of every chunk of ``window``, in document order."""
        if self._is_cut(window):
            yield from self.records.texts(window, self.settings.chunking_id)
        else:
            for chunk in self._cut(window):
                yield Text(chunk.text_hash, chunk.text, chunk.tokens)

    def _enter(
        self, window: Window, texts: TextLedger, chunks: TextLedger, held: Collection[str]
    ) -> tuple[list[tuple[str, str]], float]:
        """Enter the texts and the chunks that ``window`` would have.

        Returns:
            The chunks of the texts ``held``, with these; and the seconds that cutting took.
        """
        of_held, began_s = list[tuple[str, str]](), time.monotonic()
        is_cut = self._is_cut(window)
        keys = (
            self.records.chunk_keys(window, self.settings.chunking_id)
            if is_cut
            else ((chunk.chunk_id, chunk.text_hash, chunk.tokens) for chunk in self._cut(window))
        )
        for some in batched(keys, _CHUNKS_AT_ONCE):
            texts.add((text_hash, tokens) for _, text_hash, tokens in some)
            chunks.add((chunk_id, tokens) for chunk_id, _, tokens in some)
            of_held += [(chunk_id, name) for chunk_id, name, _ in some if name in held]
        return of_held, 0.0 if is_cut else time.monotonic() - began_s

    def _mark_served(self, window: Window, chunks: TextLedger) -> int:
        """Mark those of ``chunks`` that are searchable; return how many others would go."""

        def mark(some: list[str]) -> None:
            chunks.settle(some, "served")

        at_stake = self.vector_store.rows_at_stake(
            self.space.id,
            window,
            wanted=[entry.document_id for entry in self._entries(window)],
            elsewhere=self.catalogue.elsewhere(window.start, window.end),
            take=mark,
        )
        return at_stake - chunks.by_state().get("served", (0, 0))[0]

    def _entries(self, window: Window) -> list[Entry]:
        return self.catalogue.documents(window.start, window.end)

    def _digest(self, window: Window) -> str:
        return digest_of(self._entries(window))

    def _is_cut(self, window: Window) -> bool:
        return self.records.is_cut(window, self.settings.chunking_id, self._digest(window))

    def _cut(self, window: Window) -> Iterator[Chunk]:
        # One for each window, as in a run: what it takes to make it is a part of what is measured.
        chunker = Chunker(self.settings, self.tokenizer)
        for document in self.source.read(self._entries(window)):
            yield from chunker.cut(document)
