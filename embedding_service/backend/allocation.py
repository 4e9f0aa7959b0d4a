"""Which failures of a runtime say that there was not enough memory: it has no type for them."""

from collections.abc import Iterator
from contextlib import contextmanager

# torch on an accelerator; torch on a CPU, or an operation of OpenVINO; OpenVINO; C++ in either.
_SAID = ("out of memory", "can't alloc", "Failed to allocate", "bad_alloc")


@contextmanager
def memory_is_told_apart(device: str) -> Iterator[None]:
    """Raise ``MemoryError`` where what is computed inside does not fit into memory."""
    try:
        yield
    except RuntimeError as error:
        if not any(said in str(error) for said in _SAID):
            raise
        raise MemoryError(f"{device}: {error}") from error
