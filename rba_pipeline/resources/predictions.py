"""What plans predicted, beside the record: one small file per corpus."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from rba_pipeline.core.plans import Prediction
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.store_root import StoreRoot

_FIELDS = {field.name for field in fields(Prediction)}


class Predictions:
    """The latest prediction for each window of a corpus."""

    def __init__(self, store: str, corpus: str) -> None:
        self._root = StoreRoot(store)
        self._path = f"plans/{corpus}.json"

    def keep(self, predictions: Mapping[str, Prediction]) -> None:
        """Keep ``predictions``, by the windows' names, in place of earlier ones of the same."""
        kept = self._kept() | {name: asdict(each) for name, each in predictions.items()}
        with self._root.write(self._path) as file:
            file.write(json.dumps(kept).encode())

    def of(self, window: Window) -> Prediction | None:
        """Return what the latest plan that ``window`` was in predicted for it."""
        found = self._kept().get(window.name, {})
        # One of another version is none: no run fails for it.
        return Prediction(**found) if found.keys() == _FIELDS else None

    def _kept(self) -> dict[str, dict[str, Any]]:
        try:
            with self._root.read(self._path) as file:
                return dict(json.load(file))
        except (FileNotFoundError, ValueError):
            return {}
