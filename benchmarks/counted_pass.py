"""A model on torch, which counts where a pass spends its time, and the kinds of what it counts."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from embedding_service.backend.base import Backend, Precision, TokenIds
from embedding_service.backend.models import ModelFolder

Count = Callable[[Sequence[TokenIds]], Mapping[str, float]]
"""Makes one pass over a batch, and returns the seconds of each of its operations, by name."""

PRODUCTS, ATTENTION, NORMALISATION = "products of matrices", "attention", "normalisation"
REST = "element by element"
# By the names of CUDA's kernels and of torch's operations on a CPU. The first that fits counts: the
# names of flash attention hold CUTLASS's too.
_KINDS = {
    ATTENTION: "flash|fmha|sdpa|scaled_dot_product|softmax",
    PRODUCTS: "gemm|gemv|cutlass|cublas|nvjet|splitk|aten::(addmm|mm|bmm|matmul|linear)",
    NORMALISATION: "layer_?norm",
}


def by_kind(spent: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each kind, of those ``spent`` in each of torch's operations by name."""
    kinds: defaultdict[str, float] = defaultdict(float)
    for name, seconds in spent.items():
        kinds[_kind(name)] += seconds
    return dict(kinds)


def _kind(name: str) -> str:
    fitting = (kind for kind, names in _KINDS.items() if re.search(names, name, re.IGNORECASE))
    return next(fitting, REST)


def on_torch(folder: ModelFolder, precision: Precision, device: str) -> tuple[Backend, Count]:
    """Return ``folder`` as the service has it on ``device``; a CUDA device counts for itself."""
    from torch.profiler import ProfilerActivity, profile

    from embedding_service.backend.sentence_transformer import SentenceTransformerBackend
    from embedding_service.cores import usable_cores

    backend = SentenceTransformerBackend(
        folder, device=device, precision=precision, threads=usable_cores(), max_tokens=None
    )
    on_cuda = device == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU

    def count(batch: Sequence[TokenIds]) -> dict[str, float]:
        with profile(activities=[activity]) as seen:
            backend.encode(batch)
        spent: defaultdict[str, float] = defaultdict(float)
        for event in seen.events():
            if event.device_type.name == activity.name:
                # On a CPU operations call each other.
                us = event.time_range.elapsed_us() if on_cuda else event.self_cpu_time_total
                spent[event.name] += us / 1e6
        return dict(spent)

    return backend, count
