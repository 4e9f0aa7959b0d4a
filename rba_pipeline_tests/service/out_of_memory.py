"""A pass for which the kernel has no memory: ``python -m rba_pipeline_tests.service.out_of_memory``

Loads the model that the environment names, and allows its process a little more address space than
it has by then. Prints one line: the name of what a pass over many long texts raised, and how far
the vector of a short text is afterwards from what it was before.
"""

import os
import resource
import sys

# As the service does: before the libraries are loaded that read it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from embedding_service.app import load_backend
from embedding_service.settings import read_settings
from rba_pipeline_tests.service.memory import address_space_bytes

_SPARE_BYTES = 2**28
# Of two layers of 128, sixteen texts of 8,192 tokens take over a gigabyte.
_TEXTS = 16


def main() -> int:
    backend = load_backend(read_settings())
    long = np.arange(1000, 1000 + backend.max_tokens, dtype=np.int32)
    before = backend.encode([long[:300]])
    limit = address_space_bytes(os.getpid()) + _SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    raised = "nothing"
    try:
        backend.encode([long] * _TEXTS)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        raised = type(error).__name__
    after = backend.encode([long[:300]])
    print(raised, float(np.abs(after - before).max()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
