"""The trained, the packed and the stored model use the same numbers."""

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.layers import Embedding
from minimtp.quant import packing
from minimtp.quant.grids import Q4_0
from minimtp.quant.packed_matrix import PackedMatrix, stored_arrays
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.convert import convert, restore
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.quant.qat.cases import (
    SHAPE,
    SPEC,
    SPECS,
    build,
    check_that_all_forms_agree,
    each_kind,
    outputs,
    same_bits,
    text,
    tied_or_not,
)


@each_kind
@tied_or_not
@pytest.mark.parametrize("activations", ["int8", "int8-token", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_converted_model_computes_the_same_bits_as_the_fake_quantized_one(
    plain, kind, tied, activations, dtype
):
    model = prepare_qat(build(kind, tied, dtype), QuantizationSpec(activations=activations))
    tokens = text(model)
    assert same_bits(outputs(convert(model), tokens), outputs(model, tokens))


@each_kind
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_training_the_packed_model_and_its_stored_arrays_use_the_same_numbers(plain, kind, spec):
    """SHA-256 digests of all matrices, including tables and heads, are compared: of the training
    forward pass, of the packed model, and of the model restored from its arrays.
    """
    check_that_all_forms_agree(prepare_qat(build(kind, tied=False), spec), spec, tied=False)


def test_a_converted_model_does_not_change_when_training_continues(plain):
    model = prepare_qat(build("sequential"), SPEC)
    packed = convert(model)
    tokens = text(model)
    before = outputs(packed, tokens)
    for parameter in model.parameters():
        parameter.data *= 2
    assert same_bits(outputs(packed, tokens), before)
    assert not same_bits(outputs(model, tokens), before)


@each_kind
@tied_or_not
def test_round_to_nearest_equals_prepare_and_convert_and_does_not_change_the_model(
    plain, kind, tied
):
    model, tokens = build(kind, tied), text(build(kind, tied))
    before = outputs(model, tokens)
    rounded = round_to_nearest(model, SPEC)
    assert same_bits(outputs(model, tokens), before)
    assert same_bits(outputs(rounded, tokens), outputs(prepare_qat(model, SPEC), tokens))


def test_a_tied_table_or_shared_module_is_packed_once():
    model = build("parallel")
    model.heads.steps[1] = model.heads.steps[0]
    model = round_to_nearest(model, SPEC)
    assert model.heads.steps[0] is model.heads.steps[1]
    matrices = [module for _, module in model.named_modules() if isinstance(module, PackedMatrix)]
    names = [name for name in stored_arrays(model) if name.endswith(".packed")]
    blocks = SHAPE.num_layers + len({id(head) for head in model.heads.steps})
    assert len(names) == len({id(m) for m in matrices}) == 4 * blocks + 1


def test_two_modules_over_one_parameter_are_packed_into_one_array_with_one_grid(plain):
    model = build(tied=False)
    model.output.weight = model.embedding.weight
    packed = convert(prepare_qat(model, QuantizationSpec(weights="q8_0", embedding="q4_0")))
    assert packed.output.packed is packed.embedding.packed and packed.output.grid is Q4_0
    assert same_bits(outputs(packed, text(model)), outputs(model, text(model)))


@each_kind
@tied_or_not
def test_a_packed_model_is_rebuilt_from_its_arrays(plain, kind, tied):
    packed = round_to_nearest(build(kind, tied), SPEC)
    arrays = {name: array.copy() for name, array in stored_arrays(packed).items()}
    rebuilt = restore(build(kind, tied, seed=7), SPEC, arrays)
    assert same_bits(outputs(rebuilt, text(packed)), outputs(packed, text(packed)))
    assert stored_arrays(rebuilt).keys() == arrays.keys()


def test_stored_blocks_decode_to_the_weights_that_training_used():
    model = prepare_qat(build("parallel"), SPEC)
    arrays = stored_arrays(convert(model))
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedMatrix):
            assert (
                packing.dequantize(module.grid, arrays[f"{name}.packed"]).tobytes()
                == module.rounded().data.tobytes()
            )


def test_arrays_of_another_model_are_rejected():
    arrays = stored_arrays(round_to_nearest(build(), SPEC))
    missing = {name: array for name, array in arrays.items() if name != "final_norm.weight"}
    other_grid = {**arrays, "embedding.packed": arrays["embedding.packed"][:, :18]}
    unused = {**arrays, "output.packed": arrays["embedding.packed"]}
    for wrong, message in (
        (missing, "final_norm.weight is missing"),
        (other_grid, r"embedding.packed is uint8 of shape \(11, 18\)"),
        (unused, "the file holds output.packed"),
    ):
        with pytest.raises(UserError, match=message):
            restore(build(), SPEC, wrong)


def test_a_single_matrix_is_stored_as_packed_and_restored_from_it():
    table = prepare_qat(Embedding(11, 32, np.random.default_rng(0)), SPEC)
    packed = convert(table)
    arrays = stored_arrays(packed)
    assert list(arrays) == ["packed"]
    restored = restore(Embedding(11, 32, np.random.default_rng(1)), SPEC, arrays)
    assert restored.dequantize().tobytes() == packed.dequantize().tobytes()


def test_extra_arrays_in_a_file_are_listed():
    arrays = stored_arrays(round_to_nearest(build(), SPEC)) | {"b": np.zeros(1), "a": np.zeros(1)}
    with pytest.raises(
        UserError,
        match="^the file holds a, b, which this model does not have: it belongs to another model",
    ):
        restore(build(), SPEC, arrays)


def test_two_modules_over_one_parameter_are_restored_from_one_array(plain):
    def shared(seed):
        model = build(tied=False, seed=seed)
        model.output.weight = model.embedding.weight
        return model

    packed = convert(prepare_qat(shared(0), SPEC))
    restored = restore(
        shared(9), SPEC, {name: array.copy() for name, array in stored_arrays(packed).items()}
    )
    assert restored.output.packed is restored.embedding.packed
    assert same_bits(outputs(restored, text(packed)), outputs(packed, text(packed)))
