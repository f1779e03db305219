"""Float, fake-quantized and packed matrices have one interface."""

import pytest

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.model.layers import Embedding, Linear
from minimtp.model.matrix import Matrix, TokenTable
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec

MODULES = {
    "linear": lambda: Linear(64, 32, np.random.default_rng(0)),
    "table": lambda: Embedding(32, 64, np.random.default_rng(0)),
}
each_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


@each_module
def test_float_fake_quantized_and_packed_matrices_implement_the_matrix_interface(make):
    faked = prepare_qat(make(), QuantizationSpec())
    for module in (make(), faked, convert(faked)):
        assert isinstance(module, Matrix) and module.shape == (32, 64)
        assert len(module.stored) == 32


@each_module
def test_float_and_packed_matrices_lay_out_any_range_of_whole_groups_for_the_kernel(make):
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    packed = convert(prepare_qat(make(), QuantizationSpec()))
    for module, values in ((make(), make().weight.data), (packed, packed.dequantize())):
        assert module.is_exact_on(plain)
        for first, last in ((0, None), (0, 32), (32, 64)):
            prepared = module.prepare(plain, first, last)
            part = np.ascontiguousarray(x[:, first:last])
            seen = part if module is not packed else plain.fake_quantize_activations(part)
            found = plain.linear(part, prepared)
            np.testing.assert_allclose(found, seen @ values[:, first:last].T, rtol=1e-5, atol=1e-5)


@each_module
def test_a_fake_quantized_matrix_must_be_converted_before_decoding(make):
    with pytest.raises(TypeError, match="convert the model first"):
        prepare_qat(make(), QuantizationSpec()).prepare(plain)


def test_float_and_packed_tables_look_up_rows():
    packed = convert(prepare_qat(MODULES["table"](), QuantizationSpec()))
    tokens = np.array([3, 0, 3])
    for table, values in (
        (MODULES["table"](), MODULES["table"]().weight.data),
        (packed, packed.dequantize()),
    ):
        assert isinstance(table, TokenTable)
        assert np.array_equal(table.rows(tokens), values[tokens])
