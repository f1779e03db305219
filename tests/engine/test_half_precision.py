"""float16 weights: the grid f16, matmuls with it on every kernel, and decoding."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import SamplingParams
from minimtp.engine.module import map_parameters, replicate
from minimtp.errors import UserError
from minimtp.kernels import plain
from minimtp.kernels.cuda import packed_linear as cuda_products
from minimtp.model.heads import HEADS
from minimtp.model.matrix import bits_per_weight
from minimtp.quant import packing
from minimtp.quant.grids import F16, MASKS, grid_named
from minimtp.quant.packed_matrix import PackedMatrix, stored_arrays
from minimtp.quant.ptq.methods import METHODS, quantize_after_training, round_to_nearest
from minimtp.quant.qat.convert import convert, restore
from minimtp.quant.qat.prepare import add_learned_step_parameters, prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.on_gpu.cases import equal_up_to_a_tie, model_with, moved

HALVES = QuantizationSpec(weights="f16", embedding="f16", heads="f16")
weights = st.integers(0, 2**32).map(lambda seed: _weights(seed))


def _weights(seed):
    """Return float16 numbers of all magnitudes, and numbers next to and halfway between them."""
    rng = np.random.default_rng(seed)
    halves = rng.integers(0, 0x7BFF, (3, 8)).astype(np.uint16)
    below, above = (
        bits.view(np.float16).astype(np.float32) for bits in (halves, halves + np.uint16(1))
    )
    above[~np.isfinite(above)] = F16.max_magnitude
    parts = [
        below,
        (below + above) / 2,
        np.nextafter(below, above),
        rng.standard_normal((3, 8)).astype(np.float32),
    ]
    return np.concatenate(parts, axis=1) * rng.choice([-1, 1], (3, 32)).astype(np.float32)


def halved(model):
    """Return a float32 copy of the model with every matrix rounded to float16."""
    copy = replicate(model)
    map_parameters(
        copy, lambda a: a.astype(np.float16).astype(np.float32) if a.ndim == 2 else a.copy()
    )
    return copy


@given(weights)
def test_f16_rounds_a_weight_to_the_nearest_float16_and_keeps_float16_weights(x):
    rounded = F16.fake_quantize(x)
    assert rounded.dtype == np.float32
    assert rounded.tobytes() == x.astype(np.float16).astype(np.float32).tobytes()
    assert F16.fake_quantize(rounded).tobytes() == rounded.tobytes()
    assert np.array_equal(F16.nearest(x, F16.encode(x)[1]), F16.encode(x)[0])
    assert F16.fake_quantize(x.astype(np.float64)).dtype == np.float64


@given(weights)
def test_packed_f16_weights_are_the_bytes_of_little_endian_float16_numbers(x):
    packed = packing.quantize(F16, x)
    assert packed.dtype == np.uint8 and packed.shape == (3, 64)
    assert packed.tobytes() == x.astype("<f2").tobytes()
    assert packing.matrix_shape(F16, packed) == x.shape
    assert packing.dequantize(F16, packed).tobytes() == F16.fake_quantize(x).tobytes()
    assert packing.pack(F16, *packing.unpack(F16, packed)).tobytes() == packed.tobytes()


def test_weights_without_a_finite_float16_nearby_are_rejected():
    for value, message in (
        (65505.0, "at most 65504"),
        (np.inf, "not finite"),
        (np.nan, "not finite"),
    ):
        with pytest.raises(UserError, match=f"qkv.*{message}"):
            F16.encode(np.array([[1.0, value]], np.float32), "qkv")


def test_f16_masks_stop_gradients_only_beyond_the_largest_float16():
    x = np.array([[1.0, -65504.0, 7e4]], np.float32)
    assert [F16.straight_through_mask(x, mask) is None for mask in MASKS] == [True, False, False]
    for mask in MASKS[1:]:
        assert F16.straight_through_mask(x, mask).tolist() == [[True, True, False]]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "rtn"])
def test_methods_that_choose_scales_reject_f16(method):
    batches = [np.arange(40, dtype=np.int64).reshape(2, 20) % 61]
    with pytest.raises(UserError, match="f16 has no scales"):
        quantize_after_training(model_with("none"), HALVES, method, batches)


@pytest.mark.parametrize("scales", ["learned", "learned-offset", "learned-bound"])
def test_learned_scales_reject_f16(scales):
    with pytest.raises(UserError, match="f16"):
        add_learned_step_parameters(
            model_with("none"), QuantizationSpec("f16", "f16", "f16", scales=scales)
        )


@pytest.mark.parametrize("activations", ["int8", "int8-token", "none"])
def test_an_f16_matrix_does_not_round_its_inputs(activations):
    x, weight = (
        np.random.default_rng(seed).standard_normal((5, 24)).astype(np.float32) for seed in (0, 1)
    )
    matrix = PackedMatrix(grid_named("f16"), packing.quantize(F16, weight), activations)
    kernel = kernels.for_array(x)
    assert matrix.activations == "none" and matrix.is_exact_on(kernel)
    for first, last in ((0, 24), (3, 19), (8, None)):
        part = np.ascontiguousarray(x[:, first:last])
        for chosen in (plain, kernel):
            found = chosen.linear(part, matrix.prepare(chosen, first, last))
            expected = part @ F16.fake_quantize(weight)[:, first:last].T
            assert_close(found, expected, COMPARISONS["product by NumPy"])


def test_an_f16_model_has_16_bits_per_weight_and_is_restored_from_its_arrays():
    model = model_with("token_conditioned")
    packed = round_to_nearest(model, HALVES)
    assert 16 < bits_per_weight(packed) < 16.5  # the norms are float32
    again = restore(model_with("token_conditioned", seed=9), HALVES, stored_arrays(packed))
    tokens = np.arange(12).reshape(1, 12)
    logits = [
        trunk.logits(trunk.hidden(tokens)).data.tobytes() for trunk in (again.trunk, packed.trunk)
    ]
    assert logits[0] == logits[1]


def test_f16_fake_quantized_and_packed_models_equal_the_rounded_float32_model():
    prepared = prepare_qat(model_with("none"), HALVES)
    tokens = np.arange(12).reshape(1, 12)
    expected = halved(model_with("none"))
    packed = convert(prepared)
    logits = expected.logits(expected.hidden(tokens)).data
    for model in (prepared, packed):
        found = model.logits(model.hidden(tokens)).data
        assert_close(found, logits, COMPARISONS["logits, float32"], max(1.0, np.abs(logits).max()))


@pytest.mark.parametrize("kind", ["none", *HEADS])
def test_an_f16_model_generates_the_same_tokens_as_the_rounded_float32_model(kind):
    model = model_with(kind)
    texts = []
    for form in (round_to_nearest(model, HALVES), halved(model)):
        target, drafter = deploy(form)
        for sampling in (SamplingParams(0.0), SamplingParams(0.8)):
            generation = start_generation(
                target,
                drafter,
                [3, 1, 4],
                GenerationOptions(max_new_tokens=16, sampling=sampling, seed=1),
            )
            texts.append(list(generation))
    assert target.rows_at_once and texts[:2] == texts[2:]


@pytest.mark.usefixtures("cuda_sources")
@settings(max_examples=8)
@given(
    rows=st.integers(1, 40),
    outputs=st.integers(1, 50),
    columns=st.integers(1, 70),
    seed=st.integers(0, 2**32),
)
def test_f16_matmuls_of_any_width_match_float64(device, rows, outputs, columns, seed):
    """This includes rows whose size is not a multiple of a 16-byte load."""
    from minimtp.kernels import cuda

    rng = np.random.default_rng(seed)
    x, weight = (rng.standard_normal((n, columns)).astype(np.float32) for n in (rows, outputs))
    packed = device.xp.asarray(packing.quantize(F16, weight))
    there = device.xp.asarray(x)
    expected = x.astype(np.float64) @ F16.fake_quantize(weight).astype(np.float64).T
    size = (columns + 4) * np.abs(x).max() * np.abs(weight).max()
    prepared = cuda.prepare_f16(packed)
    assert prepared.weight.dtype == np.float16 and prepared.nbytes == packed.nbytes
    assert_close(cuda.linear(there, prepared), expected, COMPARISONS["product"], size)
    out = device.xp.ones((rows, outputs), np.float32)
    cuda_products.add_linear(there, prepared, out)
    assert_close(out, 1 + expected, COMPARISONS["product"], size + 1)
    assert_close(
        plain.linear(there, plain.prepare_f16(packed)), expected, COMPARISONS["product"], size
    )


@pytest.mark.parametrize("choice", ["plain", "auto"])
@pytest.mark.parametrize("kind", ["none", "token_conditioned"])
def test_an_f16_model_generates_the_same_tokens_on_the_device_as_on_the_host(
    device, choose_kernels, kind, choice
):
    choose_kernels(choice, device)
    model = round_to_nearest(model_with(kind), HALVES)
    host, host_drafter = deploy(model)
    target, drafter = deploy(round_to_nearest(moved(model_with(kind), device), HALVES))
    if choice == "auto":
        assert (
            target._trunk.output.kind == "f16"
            and target._trunk.blocks[0].weights.qkv.weight.dtype == np.float16
        )
    for sampling in (SamplingParams(0.0), SamplingParams(0.8)):
        both = (host, host_drafter), (target, drafter)
        runs = [
            start_generation(
                t,
                d,
                [3, 1, 4, 1, 5],
                GenerationOptions(max_new_tokens=12, sampling=sampling, seed=2),
            )
            for t, d in both
        ]
        for run in runs:
            list(run)
        if sampling.greedy:
            assert equal_up_to_a_tie(host, runs[1].tokens, runs[0].tokens)
        else:
            assert runs[1].tokens == runs[0].tokens
