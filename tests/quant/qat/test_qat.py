"""Prepare, train, convert, store: one set of numbers all the way."""

import hashlib
import tracemalloc
from dataclasses import replace

import pytest

from minimtp import kernels
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.fused import EmbeddingLookup, LinearMatMul
from minimtp.engine.module import map_parameters, replicate
from minimtp.engine.optim import AdamW
from minimtp.engine.tensor import Tensor, no_grad
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.layers import Embedding, Linear
from minimtp.model.loss import accumulate_gradients, evaluate_losses
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.model.transformer import Transformer
from minimtp.quant import packing
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import GRIDS, MASKS, Q4_0, Q8_0, grid_named
from minimtp.quant.packed_matrix import PackedEmbedding, PackedMatrix, stored_arrays
from minimtp.quant.ptq.methods import quantize_after_training, round_to_nearest
from minimtp.quant.qat.convert import convert, restore
from minimtp.quant.qat.kv_cache import AttentionWithQuantizedCache
from minimtp.quant.qat.learned import FakeQuantizeLearned
from minimtp.quant.qat.modules import FakeQuantizedLinear, FakeQuantizedMatrix
from minimtp.quant.qat.prepare import add_learned_step_parameters, prepare_qat
from minimtp.quant.qat.spec import SCALES, QuantizationSpec
from minimtp.training import trainer as training
from minimtp.training.build import build_model, quantization_spec
from minimtp.training.data.corpus import open_corpus
from minimtp.training.presets import preset

SHAPE = ModelConfig(
    vocabulary_size=11,
    context_length=16,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)
SPEC = QuantizationSpec()
KINDS = ["none", *HEADS]
DEPTH = 2

each_kind = pytest.mark.parametrize("kind", KINDS)
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@pytest.fixture
def plain():
    kernels.use("plain")
    yield
    kernels.use("auto")


def build(kind="none", tied=True, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shape = replace(SHAPE, tied_embeddings=tied)
    trunk = Transformer(shape, rng)
    model = trunk if kind == "none" else MultiTokenModel(trunk, HEADS[kind](DEPTH, shape, rng))
    for (
        name,
        parameter,
    ) in model.named_parameters():  # no zeros and no ones, so that whatever gets lost is noticed
        norm = "norm" in name
        parameter.data = (
            rng.uniform(0.5, 1.5, parameter.shape)
            if norm
            else 0.2 * rng.standard_normal(parameter.shape)
        )
    map_parameters(model, lambda array: array.astype(dtype))
    return model


def text(model, length=9, seed=1):
    return np.random.default_rng(seed).integers(
        0, SHAPE.vocabulary_size, (2, length + 1 + model.depth)
    )


def outputs(model, tokens):
    """All that the model says: the trunk's hidden states, and the nats of the next token and of each head's."""
    with no_grad():
        hidden = model.hidden(tokens[:, : tokens.shape[1] - 1 - model.depth]).data
    return hidden, evaluate_losses(model, tokens)[0]


def same_bits(a, b):
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def grid_by_name(name):
    """Where the default spec puts which grid, written down independently of the code; None: full precision."""
    if "norm" in name:
        return None
    return Q8_0 if "embedding" in name or name.removeprefix("trunk.") == "output.weight" else Q4_0


def with_rounded_parameters(model):
    """The same architecture, full precision, each weight replaced by its rounded value, once."""
    clone = replicate(model)
    for name, parameter in clone.named_parameters():
        grid = grid_by_name(name)
        parameter.data = (
            parameter.data.copy() if grid is None else grid.fake_quantize(parameter.data)
        )
    return clone


# -------------------------------------------------------------------------------------------------------- one set of numbers


@each_kind
@tied_or_not
@pytest.mark.parametrize("activations", ["int8", "int8-token", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_converted_model_says_what_the_fake_quantized_one_says_bit_for_bit(
    plain, kind, tied, activations, dtype
):
    model = prepare_qat(build(kind, tied, dtype), QuantizationSpec(activations=activations))
    tokens = text(model)
    assert same_bits(outputs(convert(model), tokens), outputs(model, tokens))


@pytest.mark.parametrize("columns", ["hidden_size", "intermediate_size"])
def test_a_matrix_whose_inputs_do_not_divide_into_groups_of_32_is_refused_before_anything_is_swapped(
    columns,
):
    model = Transformer(replace(SHAPE, **{columns: 40}), np.random.default_rng(0))
    grid = "int4-restricted-channel"
    rounded = QuantizationSpec(weights=grid, embedding=grid, heads=grid)
    name = "blocks.0.feed_forward.down" if columns == "intermediate_size" else "embedding"
    with pytest.raises(
        UserError, match=rf"^{name}.weight has rows of 40, .*groups of 32: .*multiples of 32"
    ):
        prepare_qat(model, rounded)
    assert not any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules())
    for fitting in (
        replace(rounded, activations="int8-token"),
        QuantizationSpec("f16", "f16", "f16"),
    ):
        packed = convert(prepare_qat(Transformer(model.config, np.random.default_rng(0)), fitting))
        assert np.isfinite(evaluate_losses(packed, text(packed))[0]).all()


def learned(kind="none", grid="q4_0", seed=3, scales="learned", **spec):
    """A model prepared with learned steps that have moved."""
    model, spec = build(kind), QuantizationSpec(weights=grid, heads=grid, scales=scales, **spec)
    add_learned_step_parameters(model, spec)
    prepare_qat(model, spec)
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(("log_steps", "offsets")):
            parameter.data += rng.uniform(-0.3, 0.3, parameter.shape).astype(np.float32)
    return model


SPECS = {
    "the default": QuantizationSpec(),
    "4 bits everywhere": QuantizationSpec("q4_0", "q4_0", "q4_0"),
    "three bits, a scale per token": QuantizationSpec(
        "int3-ggml-signed-g32", "q8_0", "q8_0", "int8-token"
    ),
    "rows as groups": QuantizationSpec(
        "int4-affine-channel", "int8-restricted-channel", "int4-affine-channel"
    ),
    "an output of its own": QuantizationSpec(output="int6-full-mid-g16"),
}


@each_kind
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_training_saw_what_is_deployed_and_what_is_stored_are_the_same_numbers(
    plain, kind, spec
):
    """By SHA-256 of all matrices, tables and heads included: the forward pass's, the packed model's and those of its arrays."""
    check_the_contract(prepare_qat(build(kind, tied=False), spec), spec, tied=False)


@each_kind
@pytest.mark.parametrize(
    ("scales", "grid"),
    [
        *[("learned", grid) for grid in ("q4_0", "q8_0", "int2-restricted-g32", "int4-affine-g32")],
        ("learned-offset", "q4_1"), ("learned-bound", "q4_0"), ("learned-bound", "int3-restricted-g32"),
    ],
)  # fmt: skip
def test_learned_steps_are_in_the_file_too(plain, kind, scales, grid):
    model = learned(kind, grid, scales=scales)
    check_the_contract(model, model.trunk.blocks[0].attention.qkv.spec, tied=True)


def check_the_contract(model, spec, tied):
    packed = convert(model)
    stored = restore(build("none" if not model.depth else kind_of(model), tied, seed=9), spec,
                     {name: array.copy() for name, array in stored_arrays(packed).items()})  # fmt: skip
    trained = {
        name: m.rounded().data
        for name, m in model.named_modules()
        if isinstance(m, FakeQuantizedMatrix)
    }
    for other in (packed, stored):
        deployed = {
            name: m.dequantize() for name, m in other.named_modules() if isinstance(m, PackedMatrix)
        }
        assert digest(deployed) == digest(trained)
    tokens = text(model)
    assert same_bits(outputs(packed, tokens), outputs(model, tokens))
    assert same_bits(outputs(stored, tokens), outputs(model, tokens))


def kind_of(model):
    return next(kind for kind, heads in HEADS.items() if type(model.heads) is heads)


def digest(matrices):
    sha = hashlib.sha256()
    for name in sorted(matrices):
        sha.update(
            name.encode()
            + str(matrices[name].shape).encode()
            + matrices[name].astype(np.float32).tobytes()
        )
    return sha.hexdigest()


def test_learned_steps_are_found_once_when_rounding_begins_and_then_left_to_training():
    model, spec = build(), QuantizationSpec(weights="int2-restricted-g32", scales="learned")
    add_learned_step_parameters(model, spec)
    steps = {name: p for name, p in model.named_parameters() if name.endswith("log_steps")}
    assert len(steps) == 4 * SHAPE.num_layers and not any(p.data.any() for p in steps.values())
    prepare_qat(model, spec)
    assert all(p.data.any() for p in steps.values())
    again = build()
    add_learned_step_parameters(again, spec)
    for name, parameter in again.named_parameters():
        if name in steps:
            parameter.data[...] = 0.25
    prepare_qat(again, spec)
    assert all((p.data == 0.25).all() for name, p in again.named_parameters() if name in steps)


@pytest.mark.parametrize(
    ("scales", "grid"),
    [
        ("learned", "int3-ggml-signed-g32"),
        ("learned-offset", "q4_1"),
        ("learned-bound", "int2-restricted-g32"),
    ],
)
def test_learned_steps_get_gradients_and_are_not_decayed(scales, grid):
    model = learned("token_conditioned", grid, scales=scales)
    flat = FlatParameters(model)
    accumulate_gradients(model, text(model), np.full(DEPTH, 0.3))
    for name, parameter in model.named_parameters():
        if name.endswith(("log_steps", "offsets")):
            place, _ = flat.places[name]
            assert parameter.grad.any() and not flat.decay_mask[place].any(), name


def test_a_model_with_room_for_learned_steps_can_be_rounded_after_training_by_any_method():
    model, spec = build(), QuantizationSpec(scales="learned")
    add_learned_step_parameters(model, spec)
    batches = [text(model)]
    packed = [quantize_after_training(model, spec, method, batches) for method in ("rtn", "gptq")]
    expected = [
        quantize_after_training(build(), SPEC, method, batches) for method in ("rtn", "gptq")
    ]
    for found, without in zip(packed, expected, strict=True):
        assert digest(stored_arrays(found)) == digest(stored_arrays(without))


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "q4_1", "int3-ggml-signed-g32", "nf4-g32"])
@pytest.mark.parametrize("kind", ["sequential", "token_conditioned"])
def test_state_and_token_have_scales_of_their_own_in_the_product_that_joins_them(kind, name):
    """Groups that divide the width never reach from one half of the concatenation into the other."""
    heads, grid = build(kind).heads, grid_named(name)
    joined = heads.steps[0].join if kind == "sequential" else heads.head.gate_candidate
    weight = joined.weight.data.copy()
    weight[:, SHAPE.hidden_size :] *= 100  # the halves need not be of one size
    halves = [
        grid.fake_quantize(weight[:, : SHAPE.hidden_size]),
        grid.fake_quantize(weight[:, SHAPE.hidden_size :]),
    ]
    assert np.array_equal(grid.fake_quantize(weight), np.concatenate(halves, axis=1))


def test_counter_example_rows_as_groups_share_one_scale_between_state_and_token():
    grid, weight = (
        grid_named("int4-restricted-channel"),
        build("sequential").heads.steps[0].join.weight.data.copy(),
    )
    weight[:, SHAPE.hidden_size :] *= 100
    assert not grid.fake_quantize(weight)[
        :, : SHAPE.hidden_size
    ].any()  # nothing is left of the smaller half


def test_an_output_of_its_own_can_have_a_grid_of_its_own():
    model = prepare_qat(build("parallel", tied=False), QuantizationSpec(output="int6-full-mid-g16"))
    assert (
        model.trunk.output.grid.name == "int6-full-mid-g16" and model.trunk.embedding.grid is Q8_0
    )


@each_kind
@tied_or_not
def test_every_weight_is_rounded_exactly_once_and_a_tied_table_is_the_same_on_both_sides(
    plain, kind, tied
):
    """So the prepared model is the full-precision architecture with rounded parameters."""
    model = build(kind, tied)
    clone = with_rounded_parameters(model)
    prepare_qat(model, QuantizationSpec(activations="none"))
    tokens = text(model)
    assert same_bits(outputs(model, tokens), outputs(clone, tokens))


@each_kind
def test_every_product_sees_rounded_activations(plain, kind):
    model = build(kind)
    tokens = text(model)
    prepared = prepare_qat(replicate(model), SPEC)
    seen = []
    original = kernels.plain.fake_quantize_activations
    kernels.plain.fake_quantize_activations = lambda x: seen.append(x.shape) or original(x)
    try:
        evaluate_losses(prepared, tokens)
    finally:
        kernels.plain.fake_quantize_activations = original
    products_of_a_head = {"none": 0, "parallel": 4, "sequential": 5, "token_conditioned": 1}[kind]
    assert len(seen) == 4 * SHAPE.num_layers + 1 + model.depth * (
        products_of_a_head + 1
    )  # and one output for each


@each_kind
@tied_or_not
def test_straight_through_gradients_are_those_of_the_rounded_model(plain, kind, tied):
    """With the mask `pass` the master weights receive exactly what the rounded weights would."""
    model = build(kind, tied)
    clone = with_rounded_parameters(model)
    prepare_qat(model, QuantizationSpec(activations="none", straight_through="pass"))
    tokens, weights = text(model), np.full(model.depth, 0.3)
    losses = [accumulate_gradients(m, tokens, weights) for m in (model, clone)]
    assert losses[0].tobytes() == losses[1].tobytes()
    for (name, parameter), (_, expected) in zip(
        model.named_parameters(), clone.named_parameters(), strict=True
    ):
        assert np.array_equal(parameter.grad, expected.grad) and parameter.grad.any(), name


def test_the_mask_of_the_spec_stops_gradients_of_clipped_weights(plain):
    def gradient(mask):
        model = prepare_qat(build(), QuantizationSpec(straight_through=mask))
        accumulate_gradients(model, text(model), np.empty(0))
        return model.blocks[0].feed_forward.gate_up.weight

    passed, stopped = gradient("pass"), gradient("round-clip")
    inside = Q4_0.straight_through_mask(passed.data, "round-clip")
    assert not inside.all() and np.array_equal(stopped.grad, passed.grad * inside)


def test_switching_the_kernels_switches_those_of_a_packed_model():
    model = prepare_qat(build(), SPEC)
    tokens, packed = text(model), convert(model)
    outputs(packed, tokens)  # with compiled kernels, where there are any
    kernels.use("plain")
    try:
        assert same_bits(outputs(packed, tokens), outputs(model, tokens))
    finally:
        kernels.use("auto")


def test_compiled_products_agree_with_the_fake_quantized_ones_up_to_the_order_of_additions():
    """Product by product: through a whole model, a last bit can tip an activation over to its next code."""
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


# ---------------------------------------------------------------------------------------------------------------- preparing


@each_kind
@tied_or_not
def test_preparing_keeps_every_parameter_and_its_name(kind, tied):
    model = build(kind, tied)
    before = dict(model.named_parameters())
    assert prepare_qat(model, SPEC) is model
    after = dict(model.named_parameters())
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)
    assert not any(isinstance(module, Linear | Embedding) for _, module in model.named_modules())


@each_kind
@tied_or_not
def test_trunk_heads_and_tables_get_the_grids_of_the_spec(kind, tied):
    model = prepare_qat(
        build(kind, tied), QuantizationSpec(weights="q8_0", embedding="q4_0", heads="q4_0")
    )
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedMatrix):
            in_trunk_block = name.removeprefix("trunk.").startswith("blocks.")
            assert module.grid is (Q8_0 if in_trunk_block else Q4_0), name
            assert dict(model.named_parameters())[f"{module.name}.weight"] is module.weight
    model = prepare_qat(build(kind, tied), SPEC)
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedMatrix):
            assert module.grid is grid_by_name(f"{name}.weight"), name


@pytest.mark.parametrize("flat_first", [True, False])
def test_the_optimizer_moves_prepared_models_whether_flat_before_or_after(plain, flat_first):
    model = build("token_conditioned")
    if flat_first:
        flat = FlatParameters(model)
        prepare_qat(model, SPEC)
    else:
        prepare_qat(model, SPEC)
        flat = FlatParameters(model)
    tokens, weights, optimizer = text(model), np.full(DEPTH, 0.3), AdamW(flat)
    losses = []
    for _ in range(12):
        flat.gradients[...] = 0
        losses.append(accumulate_gradients(model, tokens, weights)[0])
        optimizer.step(1e-2)
    assert losses[-1] < 0.5 * losses[0]
    reference = prepare_qat(build("token_conditioned"), SPEC)
    for (_, parameter), (_, moved) in zip(
        reference.named_parameters(), model.named_parameters(), strict=True
    ):
        parameter.data = moved.data.copy()
    assert same_bits(outputs(model, tokens), outputs(reference, tokens))


def test_a_replica_of_a_prepared_model_rounds_the_shared_weights(plain):
    model = prepare_qat(build(), SPEC)
    replica = replicate(model)
    model.embedding.weight.data[...] *= 3
    assert same_bits(outputs(model, text(model)), outputs(replica, text(model)))


@pytest.mark.parametrize(
    ("size", "value", "name"),
    [("intermediate_size", 40, "blocks.0.feed_forward.down"), ("hidden_size", 48, "embedding")],
)
def test_rows_that_are_not_whole_groups_are_an_error_that_names_the_module_and_nothing_is_swapped(
    size, value, name
):
    model = Transformer(replace(SHAPE, **{size: value}), np.random.default_rng(0))
    with pytest.raises(
        UserError, match=rf"^{name}.weight has shape \(\d+, {value}\), .* multiples of 32 long"
    ):
        prepare_qat(model, SPEC)
    assert isinstance(model.embedding, Embedding) and isinstance(
        model.blocks[0].attention.qkv, Linear
    )


def test_weights_that_are_not_finite_are_an_error_that_names_them():
    model = prepare_qat(build("sequential"), SPEC)
    model.heads.steps[1].join.weight.data[3, 4] = np.inf
    for use in (convert, lambda m: outputs(m, text(m))):
        with pytest.raises(
            UserError, match=r"heads\.steps\.1\.join\.weight holds values that are not finite"
        ):
            use(model)


def test_preparing_or_converting_at_the_wrong_time_is_an_error():
    model = build()
    with pytest.raises(ValueError, match="call prepare_qat on the model first"):
        convert(model)
    prepare_qat(model, SPEC)
    for quantized in (model, convert(model)):
        with pytest.raises(ValueError, match="already quantized"):
            prepare_qat(quantized, SPEC)


@pytest.mark.parametrize(
    "field", ["weights", "embedding", "heads", "activations", "straight_through"]
)
def test_a_spec_that_names_something_unknown_is_an_error_that_lists_what_is_known(field):
    with pytest.raises(UserError, match="unknown .* 'int3': use"):
        QuantizationSpec(**{field: "int3"})


# --------------------------------------------------------------------------------------------------------------- converting


def test_a_converted_model_does_not_change_when_training_goes_on(plain):
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
def test_rounding_only_gives_what_preparing_and_converting_gives_and_leaves_the_model_alone(
    plain, kind, tied
):
    model, tokens = build(kind, tied), text(build(kind, tied))
    before = outputs(model, tokens)
    rounded = round_to_nearest(model, SPEC)
    assert same_bits(outputs(model, tokens), before)
    assert same_bits(outputs(rounded, tokens), outputs(prepare_qat(model, SPEC), tokens))


def test_a_packed_table_decodes_the_rows_that_are_looked_up():
    model = build()
    packed = round_to_nearest(model, SPEC).embedding
    assert isinstance(packed, PackedEmbedding)
    tokens = np.array([[3, 3, 10], [0, 5, 1]])
    assert np.array_equal(
        packed(tokens).data, Q8_0.fake_quantize(model.embedding.weight.data)[tokens]
    )


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


# ------------------------------------------------------------------------------------------------------------------ storing


@each_kind
@tied_or_not
def test_a_packed_model_is_rebuilt_from_its_arrays(plain, kind, tied):
    packed = round_to_nearest(build(kind, tied), SPEC)
    arrays = {name: array.copy() for name, array in stored_arrays(packed).items()}
    rebuilt = restore(build(kind, tied, seed=7), SPEC, arrays)
    assert same_bits(outputs(rebuilt, text(packed)), outputs(packed, text(packed)))
    assert stored_arrays(rebuilt).keys() == arrays.keys()


def test_stored_blocks_decode_to_the_weights_that_training_saw():
    model = prepare_qat(build("parallel"), SPEC)
    arrays = stored_arrays(convert(model))
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedMatrix):
            assert (
                packing.dequantize(module.grid, arrays[f"{name}.packed"]).tobytes()
                == module.rounded().data.tobytes()
            )


def test_arrays_of_another_model_are_refused():
    arrays = stored_arrays(round_to_nearest(build(), SPEC))
    missing = {name: array for name, array in arrays.items() if name != "final_norm.weight"}
    other_grid = {**arrays, "embedding.packed": arrays["embedding.packed"][:, :18]}
    left_over = {**arrays, "output.packed": arrays["embedding.packed"]}
    for wrong, complaint in (
        (missing, "final_norm.weight is missing"),
        (other_grid, r"embedding.packed is uint8 of shape \(11, 18\)"),
        (left_over, "the file holds output.packed"),
    ):
        with pytest.raises(UserError, match=complaint):
            restore(build(), SPEC, wrong)


def test_bytes_and_bits_count_scales_norms_and_shared_matrices_once():
    width, inner, vocabulary = SHAPE.hidden_size, SHAPE.intermediate_size, SHAPE.vocabulary_size
    body = 2 * (
        width * 2 * width + width * width + 3 * width * inner
    )  # qkv is twice as wide: 4 + 2 + 2 heads of 8
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


@pytest.mark.parametrize("activations", ["int8", "int8-token", "none"])
@pytest.mark.parametrize("scales", SCALES)
def test_a_rounded_product_is_the_product_of_what_is_rounded_and_passes_gradients_as_each_rounding_does(
    scales, activations
):
    grid = grid_named("q4_1" if scales == "learned-offset" else "q4_0")
    matrix = learned(grid=grid.name, scales=scales, activations=activations).blocks[0].attention.qkv
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 3, 32)).astype(np.float32), requires_grad=True)
    gradient = rng.standard_normal((2, 3, len(matrix.weight.data))).astype(np.float32)
    y = matrix.matmul(x)
    y.backward(gradient)
    found = [y.data, x.grad, *(operand.grad.copy() for operand in matrix.operands)]

    seen = Tensor(round_activations(x.data, activations), requires_grad=True)
    for operand in matrix.operands:
        operand.grad = None
    expected = LinearMatMul().apply(seen, matrix.rounded())
    expected.backward(gradient)
    assert same_bits(
        found, [expected.data, seen.grad, *(operand.grad for operand in matrix.operands)]
    )


@pytest.mark.parametrize("mask", MASKS)
def test_a_rounded_lookup_is_a_lookup_in_what_is_rounded_and_passes_gradients_as_the_mask_says(
    mask,
):
    table = prepare_qat(
        Embedding(11, 32, np.random.default_rng(0)),
        QuantizationSpec(embedding="q4_0", straight_through=mask),
    )
    tokens, found = np.array([[3, 3, 0], [10, 1, 3]]), []
    gradient = np.random.default_rng(1).standard_normal((2, 3, 32)).astype(np.float32)
    for lookup in (table, lambda tokens: EmbeddingLookup(tokens).apply(table.rounded())):
        table.weight.grad, looked_up = None, lookup(tokens)
        looked_up.backward(gradient)
        found.append([looked_up.data, table.weight.grad])
    assert same_bits(*found)


def most_memory_of_a_step(**settings):
    """(bytes beyond what the trainer holds between steps, its weights)."""
    recipe, corpus = preset("quick", **settings), open_corpus()
    trainer = training.Trainer(recipe, None, choose_device("cpu"), 1)
    size = dict(
        seed=0,
        batch_size=recipe.batch_size,
        context_length=recipe.context_length,
        depth=recipe.draft_depth,
    )
    first, second = (corpus.batch(i, **size) for i in range(2))
    trainer.advance(first)
    tracemalloc.start()
    try:
        trainer.advance(second)
        return tracemalloc.get_traced_memory()[1], trainer.flat.data.size
    finally:
        tracemalloc.stop()
        trainer.close()


@pytest.mark.parametrize("heads", ["none", "sequential"])
def test_a_step_through_rounding_needs_at_most_a_bit_a_weight_more_memory_than_one_without(heads):
    settings = {"heads": heads, "draft_depth": 0 if heads == "none" else 2}
    most, weights = most_memory_of_a_step(**settings)
    assert most_memory_of_a_step(quantization="qat", **settings)[0] <= most + weights / 8


@pytest.mark.parametrize(
    ("scales", "grid", "names"),
    [
        ("learned-offset", "q4_1", {"log_steps", "offsets"}),
        ("learned-bound", "q4_0", {"log_steps"}),
    ],
)
def test_a_recipe_chooses_what_is_learned_of_the_grids(scales, grid, names):
    """LSQ+ and PACT from the recipe: parameters are made, begin somewhere better than zero, and move in every step."""
    recipe = preset("tiny", heads="parallel", draft_depth=1, quantization="qat", weight_grid=grid, head_grid=grid,
                    weight_scales=scales, batch_size=4, tokens=32 * 32)  # fmt: skip
    trainer, corpus = training.Trainer(recipe, None, choose_device("cpu"), 1), open_corpus()
    states = []
    for step in range(3):
        trainer.advance(
            corpus.batch(step, seed=0, batch_size=4, context_length=recipe.context_length, depth=1)
        )
        parameters = dict(trainer.model.named_parameters())
        states.append(
            {
                k: p.data.copy()
                for k, p in parameters.items()
                if k.split(".")[-1] in {"log_steps", "offsets"}
            }
        )
    trainer.close()
    linears = [
        name
        for name, module in trainer.model.named_modules()
        if isinstance(module, FakeQuantizedLinear)
    ]
    assert states[0].keys() == {f"{linear}.{name}" for linear in linears for name in names}
    for name, first in states[0].items():
        begins_at_zero = name.rsplit(".", 1)[0].endswith(("attention.output", "feed_forward.down"))
        assert first.any() != begins_at_zero, name  # there is no better step for zeros
        assert np.isfinite(states[2][name]).all() and not np.array_equal(first, states[2][name]), (
            name
        )


def test_one_recipe_gives_everything_its_own_rounding():
    """Trunk, table, output, heads, activations and cache: each as the recipe says, in training and in what is deployed."""
    recipe = preset("tiny", heads="sequential", draft_depth=2, quantization="qat", tied_embeddings=False,
                    weight_grid="int3-ggml-signed-g32", embedding_grid="q8_0",
                    output_grid="int6-full-mid-g16", head_grid="q4_1", activations="int8-token", kv_cache="int4")  # fmt: skip
    model = prepare_qat(build_model(recipe, np.random.default_rng(0)), quantization_spec(recipe))
    packed = convert(model)

    def grid_of(name):
        if name.startswith("heads."):
            return "q4_1"
        return {"trunk.embedding": "q8_0", "trunk.output": "int6-full-mid-g16"}.get(
            name, "int3-ggml-signed-g32"
        )

    for each, kind in ((model, FakeQuantizedMatrix), (packed, PackedMatrix)):
        matrices = {name: m for name, m in each.named_modules() if isinstance(m, kind)}
        assert len(matrices) > 4
        assert {name: m.grid.name for name, m in matrices.items()} == {
            name: grid_of(name) for name in matrices
        }
        caches = {
            type(block.attention)
            for block in [*each.trunk.blocks, *(head.block for head in each.heads.steps)]
        }
        assert caches == {AttentionWithQuantizedCache}
    assert {m.activations for _, m in packed.named_modules() if isinstance(m, PackedMatrix)} == {
        "int8-token"
    }


def test_a_matrix_alone_is_stored_without_a_dot_in_front_and_restored_from_there():
    table = prepare_qat(Embedding(11, 32, np.random.default_rng(0)), SPEC)
    packed = convert(table)
    arrays = stored_arrays(packed)
    assert list(arrays) == ["packed"]
    restored = restore(Embedding(11, 32, np.random.default_rng(1)), SPEC, arrays)
    assert restored.dequantize().tobytes() == packed.dequantize().tobytes()


def test_what_is_left_over_in_a_file_is_listed():
    arrays = stored_arrays(round_to_nearest(build(), SPEC)) | {"b": np.zeros(1), "a": np.zeros(1)}
    with pytest.raises(
        UserError,
        match="^the file holds a, b, which this model does not have: it belongs to another model",
    ):
        restore(build(), SPEC, arrays)


def test_learned_weights_that_are_not_finite_are_an_error_that_names_them():
    model = learned()
    matrix = model.blocks[0].attention.qkv
    matrix.weight.data[1, 2] = np.nan
    for use in (matrix.rounded, matrix.encode):
        with pytest.raises(
            UserError, match=r"^blocks\.0\.attention\.qkv\.weight holds values that are not finite"
        ):
            use()


@pytest.mark.parametrize(
    ("scales", "grid"), [("learned", "q4_1"), ("learned-offset", "q4_0"), ("learned-bound", "q6_k")]
)
def test_room_is_refused_for_what_a_grid_does_not_have(scales, grid):
    model = Transformer(
        replace(SHAPE, hidden_size=256, intermediate_size=256), np.random.default_rng(0)
    )
    with pytest.raises(UserError, match=f"^{grid} "):
        add_learned_step_parameters(model, QuantizationSpec(weights=grid, scales=scales))


def counted(kernel, names, monkeypatch):
    calls = []
    for name in names:
        original = getattr(kernel, name)
        monkeypatch.setattr(
            kernel,
            name,
            lambda *given, _name=name, _do=original: (calls.append(_name), _do(*given))[1],
        )
    return calls


@pytest.mark.parametrize(
    ("spec", "prepared_by"),
    [
        (QuantizationSpec(), "prepare_q4_0"),
        (QuantizationSpec(activations="none"), "prepare_f32"),
        (QuantizationSpec(activations="int8-token"), "prepare_f32"),
    ],
)
def test_a_packed_matrix_is_laid_out_once_for_products_that_fit_it(
    plain, spec, prepared_by, monkeypatch
):
    linear = convert(prepare_qat(build(), spec)).blocks[0].attention.qkv
    calls = counted(kernels.plain, ["prepare_q4_0", "prepare_q8_0", "prepare_f32"], monkeypatch)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32))
    first, second = linear(x).data, linear(x).data
    assert calls == [prepared_by] and same_bits([first], [second])


@pytest.mark.parametrize("activations", ["int8", "int8-token", "none"])
@pytest.mark.parametrize("weights", ["q4_0", "q8_0", "q4_1", "int3-restricted-g16", "nf4-channel"])
def test_columns_of_a_packed_matrix_are_those_of_its_values(plain, weights, activations):
    x = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    grid, weight = (
        grid_named(weights),
        np.random.default_rng(1).standard_normal((5, 96)).astype(np.float32),
    )
    matrix = PackedMatrix(grid, packing.quantize(grid, weight), activations)
    for first, last in ((0, 96), (0, 32), (32, 96), (64, None)):
        prepared = matrix.prepare(kernels.plain, first, last)
        seen = round_activations(np.ascontiguousarray(x[:, first:last]), activations)
        expected = seen @ grid.fake_quantize(weight)[:, first:last].T
        found = kernels.plain.linear(np.ascontiguousarray(x[:, first:last]), prepared)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    known = activations == "none" or (activations == "int8" and weights in GRIDS)
    assert matrix.is_exact_on(kernels.plain) == known


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


@pytest.mark.parametrize(("scales", "bound"), [("learned", False), ("learned-bound", True)])
def test_a_model_learns_its_steps_by_the_rule_of_its_spec(scales, bound):
    matrix = learned(grid="int2-restricted-g32", scales=scales).blocks[0].attention.qkv
    gradient = np.random.default_rng(0).standard_normal(matrix.weight.shape).astype(np.float32)
    matrix.rounded().backward(gradient)
    operation = FakeQuantizeLearned(matrix.grid, bound=bound)
    operation.forward(matrix.weight.data, matrix.log_steps.data)
    assert (
        np.array_equal(matrix.log_steps.grad, operation.backward(gradient)[1])
        and matrix.log_steps.grad.any()
    )
