"""Second chances: texts in quarantine are sent again, or are forgotten."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from rba_pipeline.core.embeddings import Outcome
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.vector_store import VectorStore


def retry(
    embedding_store: EmbeddingStore, vector_store: VectorStore, names: Collection[str] | None
) -> list[str]:
    """Let the texts ``names``, or all, be sent again by the next run; return the windows concerned.

    They stay on the list until that run. Forgotten texts come back too, if they are named.

    Raises:
        BadSetting: A name is of no text in quarantine; nothing was changed.
    """
    changed = vector_store.holding_outcomes(
        lambda: _changed(
            embedding_store, names, lambda row: replace(row, attempts=0, is_forgotten=False)
        )
    )
    return _windows(changed)


def forget(
    embedding_store: EmbeddingStore, vector_store: VectorStore, names: Collection[str] | None
) -> list[str]:
    """Take the texts ``names``, or all, off the list for good; return the windows concerned.

    They stay without a vector, and are not sent again.

    Raises:
        BadSetting: A name is of no text in quarantine; nothing was changed.
    """

    def forgotten() -> dict[str, list[str]]:
        # Of all, those that the record does not know any more go as well.
        listed = _listed(vector_store) if names is None else []
        # The record first: the database's list is made from it.
        changed = _changed(
            embedding_store,
            names,
            lambda row: replace(row, attempts=max(1, row.attempts), is_forgotten=True),
        )
        vector_store.drop_from_quarantine("text", {*listed, *changed})
        return changed

    return _windows(vector_store.holding_outcomes(forgotten))


def _listed(vector_store: VectorStore) -> list[str]:
    return [entry.name for entry in vector_store.quarantine() if entry.kind == "text"]


def _windows(changed: Mapping[str, Iterable[str]]) -> list[str]:
    return sorted({window for windows in changed.values() for window in windows})


def _changed(
    embedding_store: EmbeddingStore,
    names: Collection[str] | None,
    change: Callable[[Outcome], Outcome],
) -> dict[str, list[str]]:
    if names is None:
        names = embedding_store.not_forgotten()
    known = embedding_store.quarantined_in(names)
    if unknown := sorted(set(names) - known.keys()):
        raise BadSetting(
            f"no text in quarantine is called {', '.join(unknown)}: "
            "`rba-pipeline quarantine` lists them"
        )
    embedding_store.change_quarantined(names, change)
    return known
