"""What a runtime says when it gets no memory; that they do say so is in ``test_kernel_limits``."""

import pytest

from embedding_service.backend.allocation import memory_is_told_apart


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("CUDA out of memory. Tried to allocate 2.00 GiB", id="torch-accelerator"),
        pytest.param(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 67108864 bytes. Error code 12",
            id="torch-cpu",
        ),
        pytest.param(
            "Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\n"
            "Failed to allocate 67108864 bytes of memory\n",
            id="openvino",
        ),
        pytest.param(
            "Exception from src/plugins/intel_cpu/src/node.cpp:823:\n"
            "[CPU] Transpose node with name 'Transpose_14980' can't alloc\n",
            id="openvino-operation",
        ),
        pytest.param("std::bad_alloc", id="c++"),
    ],
)
def test_a_lack_of_memory_has_a_type(said: str) -> None:
    with pytest.raises(MemoryError, match="cpu: "), memory_is_told_apart("cpu"):
        raise RuntimeError(said)


def test_another_failure_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_is_told_apart("cpu"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
