"""The publications of one corpus: found in a folder, parsed once, kept with the record."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import Field

from rba_pipeline.core.documents import Document, Stated
from rba_pipeline.core.errors import BadSetting, SourceUnavailable
from rba_pipeline.core.parsing.limits import LIMITS, ParseLimits
from rba_pipeline.core.stages import Stage
from rba_pipeline.resources.catalogue import Catalogue, Entry, read_entries
from rba_pipeline.resources.catalogue_refresh import CatalogueRefresh, Place, Progress
from rba_pipeline.resources.checked_resource import CheckedResource
from rba_pipeline.resources.isolated_parser import IsolatedParser
from rba_pipeline.resources.parsed_parts import PartReader
from rba_pipeline.resources.source_folder import (
    Found,
    SourceFolder,
    open_source,
    publications,
    read_manifest,
)
from rba_pipeline.resources.stopwatch import Stopwatch
from rba_pipeline.resources.store_root import StoreRoot

# Seconds for a file where there is a budget. One that breaks its process may take them twice.
HASTY_FILE_S = 20.0
# Of the documents that are known, as many may be gone without being asked for: a few, or a share.
MOST_GONE, MOST_GONE_SHARE = 10, 0.2
_CORPUS = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,99}")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did, in files.

    Attributes:
        files: In the catalogue now: documents and quarantine together.
        parsed: Read and parsed, those that failed included.
        unchanged: Neither parsed nor judged anew.
        removed: In the catalogue before, no longer in the source.
        ignored: In the source, but not listed by its manifest.
        kept: Changed into something that is no document; the version before still stands.
        documents: Files that are documents on the day of the refresh.
        quarantined: Files that are not, by reason.
        left: Files that are new or changed and were not looked at, because time was up.
    """

    files: int
    parsed: int
    unchanged: int
    removed: int
    ignored: int
    kept: int
    documents: int
    quarantined: dict[str, int]
    left: int


def _limit(name: str) -> Any:
    return Field(default=LIMITS[name].default, description=LIMITS[name].description)


class DocumentSource(CheckedResource):
    """A folder of publications, and the catalogue of what was found in it."""

    url: str = Field(description="Folder of publications: a local path or an fsspec URL (s3://…).")
    corpus: str = Field(description="Name under which everything from this folder is kept.")
    store: str = Field(description="Root of the record: a local folder or an fsspec URL.")
    first_year: int = Field(
        default=1990, ge=1900, le=2100, description="Earlier publications are quarantined (year)."
    )
    max_file_bytes: int = _limit("max_file_bytes")
    max_pages: int = _limit("max_pages")
    max_characters: int = _limit("max_characters")
    max_parse_s: int = _limit("max_parse_s")
    max_parse_memory_bytes: int = _limit("max_parse_memory_bytes")
    allow_mass_delete: bool = Field(
        default=False,
        description="Accept a source from which many of the documents kept from it are gone: all, "
        f"or more than {MOST_GONE} and more than {MOST_GONE_SHARE:.0%}.",
    )

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        given: dict[str, Any] = {name: values[name] for name in LIMITS if name in values}
        ParseLimits(**given)

    def refresh(
        self,
        today: date,
        on_progress: Progress | None = None,
        stopwatch: Stopwatch | None = None,
        budget_s: float | None = None,
        guard: Callable[[], None] | None = None,
    ) -> Refreshed:
        """Bring the catalogue up to date, reading only what is new or changed.

        The caller holds the lock of the corpus: two refreshes at once would lose each other's work.
        A kill loses at most the documents since the last part; nothing is written if nothing
        changed.

        Args:
            today: Decides which documents are not due yet; counted only, never stored.
            on_progress: Called with (done, total) files after each that had to be read.
            stopwatch: Told when files are parsed.
            budget_s: After so many seconds the next files are left to another refresh, and so is
                one that takes longer than ``HASTY_FILE_S``. What was read is kept; what was removed
                goes when no file is left.
            guard: Called before the catalogue is written, each time; raises if the lock is lost.

        Raises:
            SourceUnavailable: The folder is missing, cannot be listed, has a broken manifest, or is
                empty while documents are kept from it. The catalogue is as it was.
            ParserUnavailable: Files cannot be parsed at all. What was parsed before is kept.
            BadSetting: The name of the corpus cannot name a folder, or a limit is out of range.
        """
        place = self._place()
        limits = ParseLimits(**{name: getattr(self, name) for name in LIMITS})
        source = open_source(self.url)
        present = publications(source.walk())
        stated = read_manifest(source)
        wanted = present if stated is None else _listed(source, present, stated)
        before = {entry.path: entry for entry in _entries(place)}
        self._refuse_mass_delete(wanted, before)

        parsing = (stopwatch or Stopwatch("documents")).stage(Stage.PARSING)
        file_s = None if budget_s is None else HASTY_FILE_S
        with parsing, IsolatedParser(limits, file_s=file_s) as parser:
            refresh = CatalogueRefresh(place, source, parser, before, stated or {}, guard)
            refresh.run(wanted, on_progress, budget_s)

        now = Catalogue(tuple(refresh.entries.values()), self.first_year, today)
        return Refreshed(
            files=len(refresh.entries),
            parsed=refresh.parsed,
            unchanged=len(refresh.entries) - refresh.parsed - refresh.kept - refresh.judged,
            removed=len(before.keys() - refresh.entries.keys()),
            ignored=len({file.path for file in present} - {file.path for file in wanted}),
            kept=refresh.kept,
            documents=len(now.all_documents()),
            quarantined=now.reasons(),
            left=refresh.left,
        )

    def catalogue(self, today: date) -> Catalogue:
        """Return the files as of the last refresh, none before the first, judged on ``today``."""
        entries = _entries(self._place())
        return Catalogue(tuple(entries), self.first_year, today)

    def read(self, entries: Iterable[Entry]) -> Iterator[Document]:
        """Yield the documents of ``entries`` in their order, holding one in memory.

        Raises:
            RecordMissing: A document was replaced by two refreshes since; read the catalogue again.
        """
        with PartReader(StoreRoot(self.store)) as parts:
            for entry in entries:
                if entry.published_on is None:
                    raise ValueError(f"{entry.path} is no document: {entry.reason}")
                sections = parts.sections(entry.part, entry.row_group, entry.content_hash)
                yield Document(
                    document_id=entry.document_id,
                    corpus=self.corpus,
                    path=entry.path,
                    series=entry.series,
                    title=entry.title,
                    url=entry.url,
                    published_on=entry.published_on,
                    dated_by=entry.dated_by,
                    sections=sections,
                    sha256=entry.sha256,
                    content_hash=entry.content_hash,
                )

    def _place(self) -> Place:
        if not _CORPUS.fullmatch(self.corpus):
            raise BadSetting(
                f"corpus={self.corpus!r}: allowed is a name of 1 to 100 characters without slashes "
                "that does not begin with a dot"
            )
        return Place(StoreRoot(self.store), self.corpus, f"catalogue/{self.corpus}")

    def _refuse_mass_delete(self, wanted: list[Found], before: dict[str, Entry]) -> None:
        known = {path for path, entry in before.items() if entry.reason is None}
        left = known & {file.path for file in wanted if not file.is_missing}
        gone = len(known) - len(left)
        few = gone <= max(MOST_GONE, MOST_GONE_SHARE * len(known))
        if not known or self.allow_mass_delete or (left and few):
            return
        raise SourceUnavailable(
            f"{self.url} holds {len(left) or 'none'} of the {len(known)} documents of corpus "
            f"{self.corpus!r}: it looks like a folder that is not mounted, or like another one of "
            f"the same name. Nothing was changed. For another corpus set RBA_CORPUS; if {gone} "
            "documents are to go, set resources > source > config > allow_mass_delete: true for "
            "one run"
        )


def _entries(place: Place) -> list[Entry]:
    try:
        with place.store.parquet(place.catalogue) as kept:
            return read_entries(kept)
    except FileNotFoundError:
        return []


def _listed(source: SourceFolder, present: list[Found], stated: dict[str, Stated]) -> list[Found]:
    """Return the files that the manifest lists, those included that are not there."""
    by_path = {file.path: file for file in present}
    return [by_path.get(path) or source.look(path) for path in stated]
