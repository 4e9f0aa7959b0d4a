"""A folder of publications for a test, and the record that is made of it."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from rba_pipeline.resources.catalogue import Catalogue
from rba_pipeline.resources.document_source import DocumentSource, Refreshed

TODAY = date(2024, 6, 1)
EVER = (date(1900, 1, 1), date(2100, 1, 1))


def text_of(day: str, words: str = "words") -> str:
    return f"Title\n{day}\n\n{words}"


class Corpus:
    """A folder of publications and its record, both in one temporary folder."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "publications"
        self.store = root / "store"
        self.folder.mkdir()

    def put(self, path: str, text: str | bytes) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def manifest(self, *rows: dict[str, Any]) -> None:
        self.put("manifest.jsonl", "\n".join(json.dumps(row) for row in rows))

    def source(self, **settings: Any) -> DocumentSource:
        return DocumentSource(
            **{"url": str(self.folder), "corpus": "c", "store": str(self.store), **settings}
        )

    def refresh(self, **settings: Any) -> Refreshed:
        return self.source(**settings).refresh(TODAY)

    def catalogue(self, **settings: Any) -> Catalogue:
        return self.source(**settings).catalogue(TODAY)

    def paths(self) -> list[str]:
        return [entry.path for entry in self.catalogue().documents(*EVER)]

    def reasons(self) -> dict[str, str]:
        return {item.path: item.reason for item in self.catalogue().quarantine()}

    def files(self) -> dict[str, int]:
        found = self.store.rglob("*.parquet")
        return {str(file.relative_to(self.store)): file.stat().st_mtime_ns for file in found}
