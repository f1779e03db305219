"""Both kinds of kernels, all formats, and random matrices and blocks for the kernel tests."""

import importlib.util
from functools import partial

import pytest

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.ggml import blocks, five_bits
from minimtp.kernels.plain.cache import KEY_PANEL, key_panels
from minimtp.kernels.plain.decoding.block import BlockWeights

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(
    not HAS_NUMBA, reason="Numba is not installed, so there are no compiled kernels to test"
)
if HAS_NUMBA:
    from minimtp.kernels import cpu
else:
    cpu = None
each_kernel = pytest.mark.parametrize(
    "kernel", [pytest.param(plain, id="plain"), pytest.param(cpu, id="cpu", marks=needs_numba)]
)


def normal(rng, *shape, spread=1.0):
    return (spread * rng.standard_normal(shape)).astype(np.float32)


MIXTURE = ("q5_0", "q4_0", "q8_0", "q4_1")  # of the matrices of a block
FORMATS = ["f32", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]


each_format = pytest.mark.parametrize("format_", FORMATS)


def prepared(kernel, format_, weight):
    if format_ == "f32":
        return kernel.prepare_f32(weight)
    return getattr(kernel, f"prepare_{format_}")(packed(format_, weight))


def packed(format_, weight):
    """Return the blocks of a weight matrix, uint8 (N, bytes per row)."""
    encode, pack = (operation(format_, name) for name in ("encode", "pack"))
    return pack(*encode(weight))


def operation(format_, name):
    """Return the function "encode", "pack" or "unpack" of a format of blocks."""
    return getattr(five_bits if format_.startswith("q5") else blocks, f"{name}_{format_}")


def rounded(format_, weight):
    """Return the values that the blocks of a weight matrix hold, float32 (N, K)."""
    codes, scales, *minima = operation(format_, "unpack")(packed(format_, weight))
    return (blocks.decode_with_minimum if minima else blocks.decode)(codes, scales, *minima)


WIDTH, HEADS, GROUPS, CHANNELS, INNER, ROOM = 64, 4, 2, 16, 96, 40


FAMILIES = ("llama", "qwen2", "qwen3")  # nothing, biases, or a norm in each query and key head


def random_block(kernel, format_, matrices=None, head_dim=CHANNELS, family="llama"):
    """Return a block for `kernel`. If given, the kernels `matrices` prepare its matrices."""
    weights = random_weights(matrices or kernel, format_, head_dim, family)
    return kernel.prepare_block(weights, HEADS, 1e-5)


def random_weights(kernel, format_, head_dim=CHANNELS, family="llama", seed=10):
    """Return the weights of a block, with matrices that `kernel` prepares.

    format_: of all four matrices, or one for each.
    """
    rng = np.random.default_rng(seed)
    joined = (HEADS + 2 * GROUPS) * head_dim
    shapes = (joined, WIDTH), (WIDTH, HEADS * head_dim), (2 * INNER, WIDTH), (WIDTH, INNER)
    formats = [format_] * 4 if isinstance(format_, str) else format_
    qkv, output, gate_up, down = (
        prepared(kernel, name, normal(rng, *s, spread=0.3))
        for name, s in zip(formats, shapes, strict=True)
    )
    weights = BlockWeights(normal(rng, WIDTH), qkv, output, normal(rng, WIDTH), gate_up, down)
    if family == "qwen2":
        weights = weights._replace(qkv_bias=normal(rng, joined))
    elif family == "qwen3":
        norms = {"query_norm": normal(rng, head_dim), "key_norm": normal(rng, head_dim)}
        weights = weights._replace(**norms)
    return weights


def random_trunk(kernel, formats, matrices=None, family="llama"):
    """Return arguments of `prepare_trunk`: a different block per format, and the output matrix."""
    matrices = matrices or kernel
    made = [
        random_weights(matrices, format_, CHANNELS, family, seed)
        for seed, format_ in enumerate(formats, 23)
    ]
    rng = np.random.default_rng(22)
    output = prepared(matrices, "q8_0", normal(rng, 70, WIDTH))
    blocks = [partial(lambda weights: weights, weights) for weights in made]
    return blocks, normal(rng, WIDTH), output, HEADS, 1e-5


def trunk_step_input(rows):
    rng = np.random.default_rng(29)
    caches = [random_cache(rng) for _ in range(3)]
    angles = rng.uniform(-9, 9, (rows, CHANNELS // 2))
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return (
        normal(rng, rows, WIDTH),
        *(np.stack(part) for part in zip(*caches, strict=True)),
        7,
        cosine,
        sine,
    )


def random_cache(rng, head_dim=CHANNELS):
    keys = normal(rng, GROUPS, key_panels(ROOM), head_dim, KEY_PANEL)
    return keys, normal(rng, ROOM, GROUPS, head_dim)


def run_block(kernel, block, x, start, head_dim=CHANNELS):
    """Run a block with a random cache. Return its output, and the cached keys and values."""
    rng = np.random.default_rng(11)
    x, (keys, values) = x.copy(), random_cache(rng, head_dim)
    angles = rng.uniform(-9, 9, (ROOM, head_dim // 2))[start : start + len(x)]
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    kernel.transformer_block(x, block, keys, values, start, cosine, sine)
    return x, keys, values
