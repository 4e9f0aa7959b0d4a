"""What plans predicted, beside the record: one small file per window of a corpus."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict

from pydantic import TypeAdapter

from rba_pipeline.core.plans import Prediction
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.store_root import StoreRoot

_PREDICTION = TypeAdapter(Prediction)


class Predictions:
    """The latest prediction for each window of a corpus."""

    def __init__(self, store: str, corpus: str) -> None:
        self._root = StoreRoot(store)
        self._corpus = corpus

    def keep(self, predictions: Mapping[Window, Prediction]) -> None:
        """Keep ``predictions`` in place of earlier ones of the same windows.

        Plans that are made at once do not lose what the others say of other windows.
        """
        for window, each in predictions.items():
            with self._root.write(self._path(window)) as file:
                file.write(json.dumps(asdict(each)).encode())

    def of(self, window: Window) -> Prediction | None:
        """Return what the latest plan that ``window`` was in predicted for it.

        A file that cannot be read, is damaged, or is of another version holds none: no run fails
        for it.
        """
        try:
            with self._root.read(self._path(window)) as file:
                found = _PREDICTION.validate_json(file.read(), strict=True, extra="forbid")
        except (OSError, ValueError):
            return None
        return found if math.isfinite(found.seconds + found.seconds_beside) else None

    def _path(self, window: Window) -> str:
        return f"plans/{self._corpus}/{window.name}.json"
