"""The CUDA kernels agree with the plain kernels.

Without a GPU the sources are compiled for the host and run thread by thread (`cuda_on_host.h`):
this tests indices, barriers and arithmetic, but not the hardware. With `pytest -m gpu` the same
tests run on the GPU. The tolerances are those of the compiled CPU kernels. If nvcc is installed,
every source is also compiled for real devices.
"""

import inspect
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.kernels import cuda, plain
from minimtp.kernels.cuda import packed_linear as cuda_products
from minimtp.kernels.cuda import source as cuda_source
from minimtp.kernels.ggml import blocks, five_bits
from minimtp.kernels.plain.cache import KEY_PANEL, key_panels
from tests.helpers.strategies import matmul_sizes, weight_matrices
from tests.helpers.tolerances import COMPARISONS, KERNELS, assert_close
from tests.kernels.both import normal
from tests.kernels.samples import results, samples, terms

pytestmark = pytest.mark.usefixtures("cuda_sources")
few = settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def there(device, value):
    return device.xp.asarray(value) if isinstance(value, np.ndarray) else value


def on_device(function, arguments, device):
    """Return the `results` of the function on the device, copied to the host."""
    arguments = [
        there(device, argument.copy() if isinstance(argument, np.ndarray) else argument)
        for argument in arguments
    ]
    result = function(*arguments)
    if result is None:
        result = tuple(a for a in arguments if isinstance(a, device.xp.ndarray))
    return [to_numpy(part) for part in (result if isinstance(result, tuple) else (result,))]


def test_every_function_has_a_cuda_counterpart_with_the_same_parameters():
    public = {
        name
        for name, f in vars(plain).items()
        if inspect.isfunction(f) and f.__module__.startswith(plain.__name__)
    }
    assert {name for name in public if not name.startswith(("_", "require"))} == set(cuda.__all__)
    for name in cuda.__all__:
        theirs, ours = (
            inspect.signature(getattr(cuda, name)),
            inspect.signature(getattr(plain, name)),
        )
        assert [*theirs.parameters] == [*ours.parameters], name


@pytest.mark.parametrize("name", KERNELS)
@few
@given(seed=st.integers(0, 2**32))
def test_a_cuda_kernel_gives_the_float64_result_up_to_rounding(device, name, seed):
    arguments = samples(np.random.default_rng(seed))[name]
    exact = results(getattr(plain, name), arguments, np.float64)
    found = on_device(getattr(cuda, name), arguments, device)
    for true, result in zip(exact, found, strict=True):
        assert result.shape == true.shape
        if result.dtype.kind == "f":
            assert result.dtype == np.float32
            scale = max(np.abs(true).max(initial=1e-30), terms(name, arguments))
            assert_close(result, true, KERNELS[name], scale)


@pytest.mark.parametrize(
    "name", ["fake_quantize_q4_0", "fake_quantize_q8_0", "fake_quantize_activations"]
)
@few
@given(x=weight_matrices())
def test_rounding_on_the_device_has_the_bits_of_the_plain_function(device, name, x):
    assert (
        to_numpy(getattr(cuda, name)(there(device, x))).tobytes()
        == getattr(plain, name)(x).tobytes()
    )


@few
@given(x=weight_matrices(max_magnitude=3e38))
def test_activations_rounded_on_the_device_have_the_bits_of_the_plain_function(device, x):
    for ours, theirs in zip(
        cuda.quantize_activations(there(device, x)), plain.quantize_activations(x), strict=True
    ):
        assert ours.dtype == theirs.dtype and to_numpy(ours).tobytes() == theirs.tobytes()


PREPARE = {
    "f32": lambda kernel, weight, move: kernel.prepare_f32(move(weight)),
    "f16": lambda kernel, weight, move: kernel.prepare_f16(
        move(weight.astype(np.float16).view(np.uint8))
    ),
    "q4_0": lambda kernel, weight, move: kernel.prepare_q4_0(
        move(blocks.pack_q4_0(*blocks.encode_q4_0(weight)))
    ),
    "q4_1": lambda kernel, weight, move: kernel.prepare_q4_1(
        move(blocks.pack_q4_1(*blocks.encode_q4_1(weight)))
    ),
    "q5_0": lambda kernel, weight, move: kernel.prepare_q5_0(
        move(five_bits.pack_q5_0(*five_bits.encode_q5_0(weight)))
    ),
    "q5_1": lambda kernel, weight, move: kernel.prepare_q5_1(
        move(five_bits.pack_q5_1(*five_bits.encode_q5_1(weight)))
    ),
    "q8_0": lambda kernel, weight, move: kernel.prepare_q8_0(
        move(blocks.pack_q8_0(*blocks.encode_q8_0(weight)))
    ),
}


@pytest.mark.parametrize("kind", PREPARE)
@few
@given(sizes=matmul_sizes())
def test_a_linear_layer_on_the_device_agrees_with_plain_and_each_row_does_not_depend_on_the_others(
    device, kind, sizes
):
    rows, outputs, columns, seed = sizes
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, columns), normal(rng, outputs, columns)
    exact = plain.linear(x.astype(np.float64), PREPARE[kind](plain, weight, lambda a: a))
    prepared = PREPARE[kind](cuda, weight, lambda a: there(device, a))
    found = to_numpy(cuda.linear(there(device, x), prepared))
    assert_close(
        found, exact, COMPARISONS["product"], np.abs(x).max() * np.abs(weight).max() * columns
    )
    if rows <= cuda_products.MAX_FLOAT_ROWS or kind != "f32":
        row = int(rng.integers(rows))
        assert (
            to_numpy(cuda.linear(there(device, x[row : row + 1].copy()), prepared)).tobytes()
            == found[row].tobytes()
        )


@few
@given(
    rows=st.integers(1, 16),
    start=st.integers(0, 300),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**32),
)
def test_attention_of_a_token_has_the_same_bits_alone_and_with_other_tokens(
    device, rows, start, groups, seed
):
    rng, room = np.random.default_rng(seed), start + rows
    head_dim = 2 * int(rng.integers(1, 65))
    q, keys, values = (
        normal(rng, rows, 2, head_dim),
        normal(rng, groups, key_panels(room), head_dim, KEY_PANEL),
        normal(rng, room, groups, head_dim),
    )
    ours = [there(device, array) for array in (q, keys, values)]
    together = to_numpy(cuda.cached_attention(*ours, start, 0.3))
    true = plain.cached_attention(
        *(array.astype(np.float64) for array in (q, keys, values)), start, 0.3
    )
    assert_close(together, true, KERNELS["cached_attention"], np.abs(true).max())
    token = int(rng.integers(rows))
    alone = cuda.cached_attention(
        there(device, q[token : token + 1].copy()), *ours[1:], start + token, 0.3
    )
    assert to_numpy(alone)[0].tobytes() == together[token].tobytes()
    # the position is read from the device, as in a graph
    at = device.xp.asarray(np.array([start], np.int32))
    assert to_numpy(cuda.cached_attention(*ours, at, 0.3)).tobytes() == together.tobytes()


@few
@given(
    rows=st.integers(1, 9), vocabulary=st.integers(1, 700), temperature=st.sampled_from([1.0, 0.7,
    3.0]), kind=st.sampled_from(["ties", "noise with ties", "any"]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_the_device_chooses_the_same_tokens_as_the_plain_function(
    device, rows, vocabulary, temperature, kind, seed
):
    rng, noise = np.random.default_rng(seed), None
    logits = rng.integers(0, 4, (rows, vocabulary)).astype(np.float32)
    if kind == "noise with ties":
        noise = rng.integers(0, 3, logits.shape).astype(np.float64)
    elif kind == "any":
        logits, noise = normal(rng, *logits.shape), rng.gumbel(size=logits.shape)
    broken = rng.integers(vocabulary, size=rows)
    logits[::3, broken[::3]] = rng.choice([np.nan, np.inf], len(broken[::3])).astype(np.float32)
    expected = plain.choose(logits, temperature, noise)
    assert (expected[::3] == -1).all() and (expected[1::3] >= 0).all()
    found = cuda.choose(there(device, logits), temperature, there(device, noise))
    assert found.dtype == np.int64 and to_numpy(found).tolist() == expected.tolist()
    wholly = np.full((1, vocabulary), -np.inf, np.float32)
    assert to_numpy(cuda.choose(there(device, wholly), temperature)).tolist() == [-1]


def test_scores_that_tie_on_the_host_tie_on_the_device(device):
    """Logit x with noise 0 has the same score as logit 0 with noise x / temperature."""
    logits = normal(np.random.default_rng(0), 200)
    zeros, quotients = np.zeros(200), logits / np.float32(0.7)
    for first, second in (
        ((logits, zeros), (zeros, quotients)),
        ((zeros, quotients), (logits, zeros)),
    ):
        pairs = [np.stack(part, axis=1) for part in zip(first, second, strict=True)]
        found = cuda.choose(
            there(device, pairs[0].astype(np.float32)),
            0.7,
            there(device, pairs[1].astype(np.float64)),
        )
        assert not to_numpy(found).any()
    nearly = (
        there(device, np.array([[1.0, 1.0 + 1e-12]])),
        there(device, np.ones((1, 2), np.float32)),
    )
    # the sum is computed in float64
    assert to_numpy(cuda.choose(nearly[1], 0.7, nearly[0])).tolist() == [1]


@few
@given(rows=st.integers(1, 9), vocabulary=st.integers(1, 700), seed=st.integers(0, 2**32))
def test_the_probability_of_the_chosen_token_is_its_softmax_probability(
    device, rows, vocabulary, seed
):
    from minimtp.kernels.cuda.sampling import choose_into

    logits = np.random.default_rng(seed).integers(0, 4, (rows, vocabulary)).astype(np.float32)
    probabilities = device.xp.empty(rows, np.float32)
    assert (
        to_numpy(choose_into(there(device, logits), 1.0, None, None, probabilities)).tolist()
        == logits.argmax(axis=1).tolist()
    )
    expected = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    assert_close(
        probabilities, expected, COMPARISONS["largest probability"], (8 + vocabulary) * expected
    )


def test_float32_device_arrays_use_the_cuda_kernels_and_float64_arrays_the_plain_ones(device):
    assert kernels.for_array(device.xp.ones(3, np.float32)) is cuda
    assert kernels.for_array(device.xp.ones(3, np.float64)) is plain
    assert kernels.describe("cuda")[0] == "cuda"


def test_if_the_cuda_compiler_is_unusable_plain_kernels_run_with_one_message(
    device, monkeypatch, capsys
):
    def broken(**options):
        raise RuntimeError("libnvrtc.so.13 not found")

    monkeypatch.setattr("minimtp.kernels._cuda", None)
    monkeypatch.setattr(device.xp, "RawModule", broken)
    monkeypatch.setattr(cuda_source, "compiled", cuda_source.compiled.__wrapped__)
    array = device.xp.ones(3, np.float32)
    assert kernels.for_array(array) is kernels.for_array(array) is plain
    assert capsys.readouterr().err.count("libnvrtc.so.13 not found") == 1
    assert "libnvrtc.so.13 not found" in kernels.describe("cuda")[1]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", cuda_source.NAMES)
@pytest.mark.skipif(
    shutil.which("nvcc") is None,
    reason="nvcc is not installed, so the sources cannot be compiled for real devices",
)
def test_every_source_compiles_for_real_devices_without_a_warning(tmp_path, name, architecture):
    (tmp_path / f"{name}.cu").write_text(cuda_source.source(name))
    command = [
        "nvcc",
        *cuda_source.OPTIONS,
        f"-arch={architecture}",
        "-cubin",
        "-o",
        "out.cubin",
        f"{name}.cu",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr and (tmp_path / "out.cubin").stat().st_size > 0


def test_every_cuda_source_is_listed():
    assert sorted(path.stem for path in cuda_source.FOLDER.glob("*.cu")) == sorted(
        cuda_source.NAMES
    )
