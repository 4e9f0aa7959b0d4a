"""What kind of work a kernel does, by its name."""

import pytest

from benchmarks.counted_pass import ATTENTION, NORMALISATION, PRODUCTS, REST, by_kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("nvjet_hsh_256x128_64x4_2x1_v_bz_coopA_TNT", PRODUCTS, id="cublas-hopper"),
        pytest.param("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_tn", PRODUCTS, id="cublas"),
        pytest.param(
            "sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x32", PRODUCTS, id="xmma"
        ),
        pytest.param(
            "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816>", PRODUCTS, id="cutlass"
        ),
        pytest.param(
            "void cublasLt::splitKreduce_kernel<32, 16, int, float>", PRODUCTS, id="its-sum"
        ),
        pytest.param(
            "void pytorch_flash::flash_fwd_kernel<traits<64, cutlass::bfloat16_t>>",
            ATTENTION,
            id="flash-of-cutlass",
        ),
        pytest.param("fmha_cutlassF_f32_aligned_64x64_rf_sm80", ATTENTION, id="memory-efficient"),
        pytest.param(
            "void at::native::vectorized_layer_norm_kernel<c10::BFloat16, float>",
            NORMALISATION,
            id="layer-norm",
        ),
        pytest.param("void at::native::vectorized_elementwise_kernel<4, silu>", REST, id="gate"),
        pytest.param("Memcpy HtoD (Pinned -> Device)", REST, id="copy"),
        pytest.param("aten::addmm", PRODUCTS, id="cpu-product"),
        pytest.param(
            "aten::_scaled_dot_product_flash_attention_for_cpu", ATTENTION, id="cpu-attention"
        ),
        pytest.param("aten::native_layer_norm", NORMALISATION, id="cpu-layer-norm"),
        pytest.param("aten::mul", REST, id="cpu-no-mm"),
    ],
)
def test_a_kernel_is_of_one_kind(name: str, kind: str) -> None:
    assert by_kind({name: 1.0}) == {kind: 1.0}


def test_kernels_of_a_kind_are_added_up() -> None:
    found = by_kind({"aten::mm": 1.0, "aten::mul": 0.5, "aten::addmm": 2.0})

    assert found == {PRODUCTS: 3.0, REST: 0.5}
