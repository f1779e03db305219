"""Several sequences in one pass: each gets the bits that it would get alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.plain.cache import KEY_PANEL, key_panels
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import (
    CHANNELS,
    FAMILIES,
    GROUPS,
    HEADS,
    WIDTH,
    cpu,
    each_format,
    each_kernel,
    needs_numba,
    normal,
    prepared,
    random_weights,
)

LAYERS, PLACES, ROOM, VOCABULARY = 2, 4, 40, 70


def random_trunk(kernel, format_, family="llama"):
    weights = [lambda: random_weights(kernel, format_, family=family)] * LAYERS
    rng = np.random.default_rng(3)
    output = prepared(kernel, format_, normal(rng, VOCABULARY, WIDTH, spread=0.3))
    return kernel.prepare_trunk(weights, normal(rng, WIDTH), output, HEADS, 1e-5)


def random_caches(seed):
    rng = np.random.default_rng(seed)
    keys = normal(rng, PLACES, LAYERS, GROUPS, key_panels(ROOM), CHANNELS, KEY_PANEL)
    return keys, normal(rng, PLACES, LAYERS, ROOM, GROUPS, CHANNELS)


def random_pass(seed):
    """Return x, stretches, cosine and sine of a pass over some of the places."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(PLACES)[: rng.integers(1, PLACES + 1)]
    counts = rng.choice([1, 1, 1, 2, 5, 9], len(places))
    stops = counts.cumsum()
    starts = [rng.integers(0, ROOM - count + 1) for count in counts]
    stretches = np.stack([stops - counts, stops, places, starts], axis=1).astype(np.int64)
    angles = rng.uniform(-9, 9, (stops[-1], CHANNELS // 2)).astype(np.float32)
    return normal(rng, stops[-1], WIDTH), stretches, np.cos(angles), np.sin(angles)


@needs_numba
@each_format
@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_each_sequence_gets_the_bits_of_a_pass_of_its_own(format_, family, seed):
    trunk = random_trunk(cpu, format_, family)
    x, stretches, cosine, sine = random_pass(seed)
    keys, values = random_caches(seed)
    own_keys, own_values = keys.copy(), values.copy()
    logits, hidden = cpu.batched_trunk_step(x.copy(), trunk, keys, values, stretches, cosine, sine)
    for m, (first, stop, place, start) in enumerate(stretches.tolist()):
        rows = slice(first, stop)
        alone = cpu.trunk_step(
            x[rows].copy(), trunk, own_keys[place], own_values[place], start, cosine[rows],
            sine[rows],
        )  # fmt: skip
        assert alone[0][-1].tobytes() == logits[m].tobytes()
        assert alone[1].tobytes() == hidden[rows].tobytes()
    assert keys.tobytes() == own_keys.tobytes() and values.tobytes() == own_values.tobytes()


@needs_numba
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_the_compiled_pass_computes_what_the_plain_one_defines(seed):
    x, stretches, cosine, sine = random_pass(seed)
    found = []
    for kernel in (plain, cpu):
        keys, values = random_caches(seed)
        results = kernel.batched_trunk_step(
            x.copy(), random_trunk(kernel, "f32"), keys, values, stretches, cosine, sine
        )
        found.append((*results, keys, values))
    for expected, result in zip(*found, strict=True):
        assert_close(result, expected, COMPARISONS["block"])


@needs_numba
@pytest.mark.parametrize(
    "stretches",
    [[(0, 2, 0, 39)], [(0, 2, 4, 0)], [(0, 2, 0, -1)], [(0, 1, 0, 0)], [(0, 1, 0, 0), (0, 2, 1, 0)],
     [(0, 1, 0, 0), (1, 3, 1, 0)], [(0, 0, 0, 0), (0, 2, 1, 0)]],
)  # fmt: skip
def test_rows_that_do_not_fit_the_caches_are_refused(stretches):
    keys, values = random_caches(0)
    angles = np.zeros((2, CHANNELS // 2), np.float32)
    with pytest.raises(ValueError, match="batched_trunk_step"):
        cpu.batched_trunk_step(
            np.zeros((2, WIDTH), np.float32), random_trunk(cpu, "f32"), keys, values,
            np.array(stretches, np.int64), angles, angles,
        )  # fmt: skip


@each_kernel
def test_a_token_is_sampled_as_often_as_its_probability_says(kernel):
    rng = np.random.default_rng(0)
    vocabulary, temperature = 1300, 0.7  # several segments of the compiled sum
    logits = normal(rng, vocabulary, spread=2.0)
    logits[rng.permutation(vocabulary)[:100]] = -np.inf
    weights = np.exp(np.float64(logits) / temperature)
    edges = np.concatenate([[0], (weights / weights.sum()).cumsum()])
    # One point in the middle of the interval of each token that is wide enough for float32.
    tokens = np.flatnonzero(np.diff(edges) > 1e-5)
    points = (edges[tokens] + edges[tokens + 1]) / 2
    found = kernel.sample(
        np.tile(logits, (len(tokens), 1)), np.full(len(tokens), temperature, np.float32), points
    )
    assert len(tokens) > 500 and found.tolist() == tokens.tolist()


@each_kernel
@given(seed=st.integers(0, 2**32), vocabulary=st.sampled_from([1, 7, 511, 512, 513, 1025]))
@settings(max_examples=30)
def test_a_token_without_probability_is_never_sampled(kernel, seed, vocabulary):
    rng = np.random.default_rng(seed)
    logits = np.where(rng.random((8, vocabulary)) < 0.5, -np.inf, normal(rng, 8, vocabulary))
    logits[:, rng.integers(vocabulary)] = 1.0
    points = np.where(rng.random(8) < 0.5, rng.random(8), np.nextafter(1.0, 0.0))
    logits = logits.astype(np.float32)
    tokens = kernel.sample(logits, np.ones(8, np.float32), points)
    assert np.isfinite(logits[np.arange(8), tokens]).all()


@each_kernel
def test_temperature_0_samples_the_first_largest_logit_and_a_broken_row_minus_one(kernel):
    logits = np.array([[1, 3, 3, 0], [0, np.nan, 0, 0], [0, np.inf, 0, 0]] * 2, np.float32)
    temperatures = np.array([0, 0, 0, 1, 1, 1], np.float32)
    tokens = kernel.sample(logits, temperatures, np.full(6, 0.999999)).tolist()
    assert tokens[:3] == [1, -1, -1] and tokens[4:] == [-1, -1] and tokens[3] == 3
