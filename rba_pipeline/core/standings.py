"""How a partition stands against its source: what a run of it would have to change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Whether a partition is as a run would leave it."""

    MISSING = "missing"
    STALE = "stale"
    CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Served:
    """One document as the database has it.

    Attributes:
        content_hash: Of the version that was published last, in whichever space.
        is_in_space: That version is published in the space asked about.
        is_cut_so: All of its chunks in that space are cut in the way asked about.
    """

    document_id: str
    content_hash: str
    is_in_space: bool
    is_cut_so: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """One partition, in documents.

    Attributes:
        documents: In the source now.
        new: Of those, not in the database.
        changed: Of those, in the database with another content.
        gone: In the database, no longer in the source, or filed elsewhere now.
        in_other_space: In the database as they are, but without vectors of the space in use.
        cut_otherwise: In the database as they are, but cut with other settings.
        is_recorded: The record says what became of this partition's texts.
        to_send_again: Texts in quarantine that a run would try once more.
    """

    key: str
    documents: int
    new: int
    changed: int
    gone: int
    in_other_space: int
    cut_otherwise: int
    is_recorded: bool
    to_send_again: int = 0

    @property
    def state(self) -> State:
        """Return ``missing`` if search has no document of a partition that has some."""
        if self.documents and self.new == self.documents and not self.gone:
            return State.MISSING
        return State.STALE if self.reasons else State.CURRENT

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return what a run would have to change; nothing for a current partition."""
        claims = {
            "source": self.new or self.changed or self.gone,
            "chunking": self.cut_otherwise,
            "space": self.in_other_space,
            "record": not self.is_recorded and self.documents,
            "retry": self.to_send_again,
        }
        return tuple(name for name, holds in claims.items() if holds)


def standing(
    key: str,
    wanted: Mapping[str, str],
    served: Iterable[Served],
    *,
    is_recorded: bool,
    to_send_again: int = 0,
) -> Standing:
    """Compare the documents that a partition should have with those that the database has of it.

    Args:
        wanted: Content hash by document id, as the catalogue has them.
        served: What the database has filed in the same window.
    """
    known = {document.document_id: document for document in served}
    same = [
        known[document_id]
        for document_id, content_hash in wanted.items()
        if document_id in known and known[document_id].content_hash == content_hash
    ]
    new = len(wanted.keys() - known.keys())
    return Standing(
        key=key,
        documents=len(wanted),
        new=new,
        changed=len(wanted) - new - len(same),
        gone=len(known.keys() - wanted.keys()),
        in_other_space=sum(not document.is_in_space for document in same),
        cut_otherwise=sum(not document.is_cut_so for document in same),
        is_recorded=is_recorded,
        to_send_again=to_send_again,
    )
