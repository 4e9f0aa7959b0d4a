"""Our model in this process, without a service around it: sorted batches, one after the other."""

import os
import time
from collections.abc import Mapping, Sequence

from benchmarks.roofline import sorted_batches


class BareLoop:
    """The batches of some texts, tokenised before, and the model for them."""

    def __init__(
        self,
        settings: Mapping[str, str],
        texts: Sequence[str],
        *,
        max_texts: int,
        max_padded_tokens: int,
    ) -> None:
        """``settings`` are the environment of the service; the limits are those of its batches."""
        _become(settings)
        # After the environment is set: libraries read it when they are loaded.
        from embedding_service.backends import load_backend
        from embedding_service.settings import read_settings

        self._backend = load_backend(read_settings())
        ids = self._backend.tokenise(texts, "raw")
        self.lengths = [len(item) for item in ids]
        batches = sorted_batches(
            self.lengths, max_texts=max_texts, max_padded_tokens=max_padded_tokens
        )
        self._batches = [[ids[at] for at in batch] for batch in batches]
        self._backend.encode(self._batches[0])

    def seconds(self) -> float:
        """Return the seconds of one pass over all batches."""
        began = time.perf_counter()
        before = self._backend.begin(self._batches[0])
        for batch in self._batches[1:]:
            next_one = self._backend.begin(batch)
            before()
            before = next_one
        before()
        return time.perf_counter() - began


def _become(settings: Mapping[str, str]) -> None:
    """Have this process's environment say what the service's own does."""
    for name in [name for name in os.environ if name.startswith("EMBEDDING_")]:
        del os.environ[name]
    os.environ.update(settings)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
