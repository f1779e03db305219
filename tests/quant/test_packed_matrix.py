"""Packed matrices: layout for the kernels, row lookup and size."""

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Tensor
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.quant import packing
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import GRIDS, Q8_0, grid_named
from minimtp.quant.packed_matrix import PackedEmbedding, PackedMatrix
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.quant.qat.cases import SHAPE, SPEC, build, counted, outputs, same_bits, text


def test_switching_kernels_also_switches_the_kernels_of_a_packed_model():
    model = prepare_qat(build(), SPEC)
    tokens, packed = text(model), convert(model)
    outputs(packed, tokens)  # with compiled kernels, if there are any
    kernels.use("plain")
    try:
        assert same_bits(outputs(packed, tokens), outputs(model, tokens))
    finally:
        kernels.use("auto")


def test_compiled_matmuls_match_fake_quantized_ones_up_to_the_order_of_additions():
    """Each matmul is compared separately. In a whole model, a difference in the last bit can change
    the code of an activation.
    """
    model = prepare_qat(build("sequential"), SPEC)
    packed_modules = dict(convert(model).named_modules())
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedMatrix):
            x = Tensor(
                np.random.default_rng(0)
                .standard_normal((2, 5, module.weight.shape[1]))
                .astype(np.float32)
            )
            assert np.allclose(
                packed_modules[name].matmul(x).data, module.matmul(x).data, rtol=1e-5, atol=1e-5
            ), name


def test_a_packed_table_decodes_the_rows_that_are_looked_up():
    model = build()
    packed = round_to_nearest(model, SPEC).embedding
    assert isinstance(packed, PackedEmbedding)
    tokens = np.array([[3, 3, 10], [0, 5, 1]])
    assert np.array_equal(
        packed(tokens).data, Q8_0.fake_quantize(model.embedding.weight.data)[tokens]
    )


def test_model_size_includes_scales_and_norms_and_counts_shared_matrices_once():
    width, inner, vocabulary = SHAPE.hidden_size, SHAPE.intermediate_size, SHAPE.vocabulary_size
    # qkv has 2 * width rows: 4 + 2 + 2 heads of 8.
    body = 2 * (width * 2 * width + width * width + 3 * width * inner)
    norms = 5 * width
    model = build(tied=True)
    assert (
        weight_bytes(model) == 4 * (body + norms + vocabulary * width)
        and bits_per_weight(model) == 32
    )
    packed = round_to_nearest(model, SPEC)
    expected = body * 18 // 32 + vocabulary * width * 34 // 32 + 4 * norms
    assert weight_bytes(packed) == expected
    assert bits_per_weight(packed) == 8 * expected / (body + norms + vocabulary * width)
    untied = round_to_nearest(build(tied=False), SPEC)
    assert weight_bytes(untied) == expected + vocabulary * width * 34 // 32


@pytest.mark.parametrize(
    ("spec", "prepared_by"),
    [
        (QuantizationSpec(), "prepare_q4_0"),
        (QuantizationSpec(activations="none"), "prepare_f32"),
        (QuantizationSpec(activations="int8-token"), "prepare_f32"),
    ],
)
def test_a_packed_matrix_is_prepared_once_for_the_kernel_that_matches_its_activations(
    plain, spec, prepared_by, monkeypatch
):
    linear = convert(prepare_qat(build(), spec)).blocks[0].attention.qkv
    calls = counted(kernels.plain, ["prepare_q4_0", "prepare_q8_0", "prepare_f32"], monkeypatch)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32))
    first, second = linear(x).data, linear(x).data
    assert calls == [prepared_by] and same_bits([first], [second])


@pytest.mark.parametrize("activations", ["int8", "int8-token", "none"])
@pytest.mark.parametrize("weights", ["q4_0", "q8_0", "q4_1", "int3-restricted-g16", "nf4-channel"])
def test_prepared_columns_give_the_matmul_of_the_dequantized_columns(plain, weights, activations):
    x = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    grid = grid_named(weights)
    weight = np.random.default_rng(1).standard_normal((5, 96)).astype(np.float32)
    matrix = PackedMatrix(grid, packing.quantize(grid, weight), activations)
    for first, last in ((0, 96), (0, 32), (32, 96), (64, None)):
        prepared = matrix.prepare(kernels.plain, first, last)
        seen = round_activations(np.ascontiguousarray(x[:, first:last]), activations)
        expected = seen @ grid.fake_quantize(weight)[:, first:last].T
        found = kernels.plain.linear(np.ascontiguousarray(x[:, first:last]), prepared)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    supported = activations == "none" or (activations == "int8" and weights in GRIDS)
    assert matrix.is_exact_on(kernels.plain) == supported
