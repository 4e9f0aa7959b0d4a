"""A model on OpenVINO, as it is served, and as it counts where a pass spends its time."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.counted_pass import Count
from embedding_service.backend.base import Backend, Precision, TokenIds
from embedding_service.backend.models import ModelFolder
from embedding_service.backend.openvino import OpenVinoBackend, compiled, properties
from embedding_service.backend.order import Order
from embedding_service.backend.preparation import prepared_model
from embedding_service.cores import usable_cores


def prepared_in(
    cache: Path, folder: ModelFolder, precision: Precision
) -> tuple[OpenVinoBackend, Path]:
    """Return ``folder`` on all cores, prepared in ``cache`` if it is not yet, and its graph."""
    threads = usable_cores()
    path, prepared = prepared_model(Order(folder, precision, threads, None), cache)
    backend = OpenVinoBackend(folder, path, prepared, threads=threads, max_tokens=None)
    return backend, path / "model.xml"


def on_openvino(folder: ModelFolder, precision: Precision, cache: Path) -> tuple[Backend, Count]:
    """Return ``folder`` as the service prepares it in ``cache``; operations count by type."""
    backend, graph = prepared_in(cache, folder, precision)
    counting = properties(precision, backend.cores) | {"PERF_COUNT": True}
    request = compiled(graph, counting).create_infer_request()

    def count(batch: Sequence[TokenIds]) -> dict[str, float]:
        request.infer(dict(backend.passed(batch)))
        spent: defaultdict[str, float] = defaultdict(float)
        for operation in request.get_profiling_info():
            spent[operation.node_type] += operation.real_time.total_seconds()
        return dict(spent)

    return backend, count
