"""Bringing a catalogue up to date with its source: only what is new or changed is read."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from rba_pipeline.core.documents import (
    PARSER_VERSION,
    Parsed,
    Section,
    Stated,
    content_hash,
    document_id,
)
from rba_pipeline.core.errors import DocumentRejected, ParsingStopped
from rba_pipeline.core.parsing.endings import require_supported
from rba_pipeline.core.parsing.limits import ParseLimits
from rba_pipeline.resources.catalogue import Entry, write_entries
from rba_pipeline.resources.isolated_parser import OutOfTime
from rba_pipeline.resources.parsed_parts import write_part
from rba_pipeline.resources.source_folder import Found, SourceFolder
from rba_pipeline.resources.store_root import StoreRoot

# A kill loses no more parsing than this.
DOCUMENTS_PER_PART = 256
CHARACTERS_PER_PART = 32 * 1024 * 1024
# What one moment finds so, the next may find otherwise, without a change of the file.
_PASSING_REASONS = (
    "unreadable",
    "missing",
    "outside_source",
    "too_large",
    "timeout",
    "killed",
)

Progress = Callable[[int, int], None]


class Parser(Protocol):
    """Parses one file at a time, under ``limits``."""

    limits: ParseLimits

    def parse(self, raw: bytes, *, path: str, stated: Stated | None) -> Parsed:
        """Return what a file is made of, or raise ``DocumentRejected``, or ``OutOfTime``."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a corpus is kept: ``folder`` holds ``catalogue.parquet`` and ``parsed/``."""

    store: StoreRoot
    corpus: str
    folder: str

    @property
    def catalogue(self) -> str:
        """Path of the catalogue, relative to the store."""
        return f"{self.folder}/catalogue.parquet"

    @property
    def parts(self) -> str:
        """Folder of the parsed documents, relative to the store."""
        return f"{self.folder}/parsed"


@dataclass(slots=True)
class CatalogueRefresh:
    """One refresh under way: the entries so far, and the parsed documents not yet written.

    Attributes:
        before: The entries of the last refresh, by path.
        stated: The rows of the manifest, by path.
        guard: Called before the catalogue is written, each time.
        parsed: Files parsed, those that were rejected included.
        kept: Files that changed and cannot be read just now; what was parsed before stands.
        judged: Files rejected, for another reason than before, without being parsed.
        left: Files that were not looked at, because time was up.
    """

    place: Place
    source: SourceFolder
    parser: Parser
    before: dict[str, Entry]
    stated: dict[str, Stated]
    guard: Callable[[], None] | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    parsed: int = 0
    kept: int = 0
    judged: int = 0
    left: int = 0
    _parts: set[str] = field(default_factory=set)
    _pending: list[tuple[Entry, tuple[Section, ...]]] = field(default_factory=list)
    _characters: int = 0

    def run(
        self, wanted: list[Found], on_progress: Progress | None, budget_s: float | None = None
    ) -> None:
        """Take over the files of ``wanted``, flush every part and remove what none refers to."""
        ends = None if budget_s is None else time.monotonic() + budget_s
        self._parts = set(self.place.store.list(self.place.parts, ".parquet"))
        # Until a file was looked at again, what was known of it stands: a kill must not forget it.
        # One that is gone may be back under another name: it goes when all others were looked at.
        self.entries = dict(self.before)
        changed = [file for file in wanted if not self._is_unchanged(file)]
        for done, file in enumerate(sorted(changed, key=lambda file: file.path), start=1):
            try:
                self._take(file)
            except OutOfTime:
                self.left = len(changed) - done + 1
                break
            if on_progress is not None:
                on_progress(done, len(changed))
            if len(self._pending) >= DOCUMENTS_PER_PART or self._characters >= CHARACTERS_PER_PART:
                self._flush()
            self.left = len(changed) - done
            if ends is not None and time.monotonic() > ends:
                break
        if not self.left:
            paths = {file.path for file in wanted}
            self.entries = {path: entry for path, entry in self.entries.items() if path in paths}
        self._flush()
        self._remove_stale()

    def _is_unchanged(self, file: Found) -> bool:
        entry = self.before.get(file.path)
        if entry is None or file.problem is not None or file.modified == "":
            return False
        same_file = (entry.size, entry.modified) == (file.size, file.modified)
        return (
            same_file
            and file.size <= self.parser.limits.max_file_bytes
            and self._still_stands(entry, entry.reason or entry.newer_reason)
        )

    def _still_stands(self, entry: Entry, refused: str | None) -> bool:
        """Return whether the same bytes, ``refused`` or not, would lead to what is kept already."""
        said = _stated_hash(self.stated.get(entry.path))
        is_current = (entry.parser_version, entry.stated_hash) == (PARSER_VERSION, said)
        is_whole = entry.part in self._parts if entry.reason is None else True
        if refused is not None and entry.limits:
            is_final = entry.limits == _written(self.parser.limits)
        else:
            is_final = refused not in _PASSING_REASONS
        return is_current and is_whole and is_final

    def _take(self, file: Found) -> None:
        stated = self.stated.get(file.path)
        entry = Entry(file.path, file.size, file.modified, "", _stated_hash(stated), PARSER_VERSION)
        before = self.before.get(file.path)
        try:
            raw = self._bytes(file)
        except DocumentRejected as rejected:
            kept = self._refuse(file, entry, rejected)
            self.judged += int(not kept and self.entries[file.path] != before)
            return
        entry = replace(entry, sha256=hashlib.sha256(raw).hexdigest())
        if (
            before is not None
            and before.sha256 == entry.sha256
            and self._still_stands(before, before.reason)
        ):
            self.entries[file.path] = replace(
                before,
                size=entry.size,
                modified=entry.modified,
                newer_reason=None,
                newer_detail="",
                limits=before.limits if before.reason else "",
            )
            return
        try:
            self._parse(raw, entry, stated)
            self.parsed += 1
        except DocumentRejected as rejected:
            self.parsed += int(not self._refuse(file, entry, rejected))

    def _refuse(self, file: Found, entry: Entry, rejected: DocumentRejected) -> bool:
        """Quarantine a file; return whether an earlier version of it stands instead.

        What was published stays until there is a better version of it, or its file is not listed.
        One that is gone after it was listed may have its folder unmounted: the next listing tells.
        """
        limits = _written(self.parser.limits) if isinstance(rejected, ParsingStopped) else ""
        before = self.before.get(entry.path)
        kept = before is not None and before.part in self._parts and not file.is_missing
        if before is None or not kept:
            self.entries[entry.path] = replace(
                entry, reason=rejected.reason, detail=rejected.detail, limits=limits
            )
            return False
        self.kept += 1
        # A disk that fails for a moment is asked again; another file is not read twice.
        if rejected.reason not in ("missing", "unreadable"):
            self.entries[entry.path] = replace(
                before,
                size=entry.size,
                modified=entry.modified,
                newer_reason=rejected.reason,
                newer_detail=rejected.detail,
                limits=limits,
            )
        return True

    def _bytes(self, file: Found) -> bytes:
        if file.problem is not None:
            raise file.problem
        require_supported(file.path)
        # It may have grown since it was listed.
        limit = self.parser.limits.max_file_bytes
        raw = b"" if file.size > limit else self.source.read(file.path, limit + 1)
        if max(file.size, len(raw)) > limit:
            raise DocumentRejected("too_large", self.parser.limits.exceeded("max_file_bytes"))
        return raw

    def _parse(self, raw: bytes, entry: Entry, stated: Stated | None) -> None:
        parsed = self.parser.parse(raw, path=entry.path, stated=stated)
        entry = replace(
            entry,
            document_id=document_id(self.place.corpus, parsed.url or entry.path),
            series=parsed.series,
            title=parsed.title,
            url=parsed.url,
            published_on=parsed.published_on,
            dated_by=parsed.dated_by,
            content_hash=content_hash(parsed),
        )
        self._pending.append((entry, parsed.sections))
        self._characters += sum(len(section.text) for section in parsed.sections)

    def _flush(self) -> None:
        """Write what is pending as one part, then the catalogue that refers to it."""
        if self._pending:
            documents = [(entry.content_hash, sections) for entry, sections in self._pending]
            part = write_part(self.place.store, self.place.parts, documents)
            for row_group, (entry, _) in enumerate(self._pending):
                self.entries[entry.path] = replace(entry, part=part, row_group=row_group)
            self._pending.clear()
            self._characters = 0
        if self.entries != self.before:
            if self.guard is not None:
                self.guard()
            with self.place.store.write(self.place.catalogue) as file:
                write_entries(file, self.entries.values())

    def _remove_stale(self) -> None:
        """Remove the parts that neither this catalogue nor the one before it refers to.

        A run that read the catalogue just before this refresh still finds its documents.
        """
        known = {entry.part for entry in (*self.before.values(), *self.entries.values())}
        for part in self._parts - known:
            self.place.store.remove(part)


def _written(limits: ParseLimits) -> str:
    return json.dumps(asdict(limits))


def _stated_hash(stated: Stated | None) -> str:
    if stated is None:
        return ""
    return hashlib.sha256(json.dumps(asdict(stated), sort_keys=True).encode()).hexdigest()
