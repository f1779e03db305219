"""Keys and values that are stored as int8 codes: what is stored, and attention to it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.plain.cache import KEY_PANEL, as_stored, decoded, key_panels
from minimtp.kernels.plain.decoding.block import TreeArrays
from minimtp.quant.qat.kv_cache import encode_rows
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import (
    GROUPS,
    HAS_NUMBA,
    ROOM,
    cpu,
    each_kernel,
    needs_numba,
    normal,
    random_trunk,
    trunk_step_input,
)

if HAS_NUMBA:
    from minimtp.kernels.cpu.decoding.attention import attend
    from minimtp.kernels.cpu.decoding.stored_rows import store_row

MAGNITUDES = [0.0, 1e-45, 1e-30, 1e-9, 1e-5, 1.0, 3.7, 1e4, 8.3e6, 1e30]
ODD = [[0.0, np.nan, 1.0], [np.inf, 1.0, -1.0], [-np.inf, np.nan, 0.0], [0.0, -0.0, 0.0]]


def stored(rows):
    """Return the codes (T, C) and steps (T,) that the compiled code stores of rows (T, C)."""
    codes, steps = np.empty(rows.shape, np.int8), np.empty((1, len(rows)), np.float32)
    for t, row in enumerate(rows):
        store_row(row, codes[t], steps, 0, t)
    return codes, steps[0]


@needs_numba
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 70), st.sampled_from(MAGNITUDES))
def test_compiled_code_stores_the_codes_and_steps_of_plain_code(seed, rows, head_dim, magnitude):
    x = normal(np.random.default_rng(seed), rows, head_dim) * np.float32(magnitude)
    codes, steps = stored(x)
    expected_codes, expected_steps = as_stored(x[:, None], "int8")
    assert codes.tobytes() == expected_codes.tobytes()
    assert steps.tobytes() == expected_steps.tobytes()


@pytest.mark.parametrize("row", ODD, ids=str)
def test_numbers_that_are_not_finite_stay_so_or_become_the_largest(row):
    x = np.array([row], np.float32)
    codes, steps = as_stored(x[:, None], "int8")
    values = codes[:, 0] * steps
    if np.isnan(x).any():
        assert np.isnan(values).all()
    else:
        assert np.isfinite(values).all() and (np.sign(values) == np.sign(x)).all(where=np.isinf(x))
    if HAS_NUMBA:
        compiled = stored(x)
        np.testing.assert_array_equal(compiled[0] * compiled[1], values[0][None])


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40), st.sampled_from([1e-4, 1, 90]))
def test_an_int8_cache_stores_what_training_with_one_rounds_to(seed, rows, head_dim, magnitude):
    x = normal(np.random.default_rng(seed), rows, 2, head_dim) * np.float32(magnitude)
    codes, steps = as_stored(x, "int8")
    expected_codes, expected_steps = encode_rows(x.reshape(-1, head_dim), "int8")
    assert codes.tobytes() == expected_codes.tobytes()
    assert steps.tobytes() == expected_steps.tobytes()


@needs_numba
@given(st.integers(0, 2**32), st.integers(1, 16), st.integers(0, 90), st.sampled_from([4, 12, 64]))
@settings(max_examples=30)
def test_attention_to_codes_equals_attention_to_their_numbers(seed, rows, start, head_dim):
    rng, groups, shared, scale = np.random.default_rng(seed), 2, 3, 0.3
    room = start + rows
    q = normal(rng, rows, groups * shared, head_dim)
    keys, values = (
        rng.integers(-127, 128, shape).astype(np.int8)
        for shape in ((groups, key_panels(room), head_dim, KEY_PANEL), (room, groups, head_dim))
    )
    steps = rng.uniform(0.001, 0.01, (2, groups, key_panels(room) * KEY_PANEL)).astype(np.float32)
    by_group = q.reshape(rows, groups, shared, head_dim).swapaxes(0, 1)
    by_group = np.ascontiguousarray(by_group).reshape(groups, -1, head_dim)
    found = np.empty_like(q)
    attend(by_group, keys, values, start, scale, steps, 0, groups, found)
    numbers = (part.astype(np.float64) for part in decoded(keys, values, steps))
    expected = plain.cached_attention(q.astype(np.float64), *numbers, start, scale)
    assert_close(found, expected, COMPARISONS["attention"])


def int8_step_input(rows):
    """Return the arguments of `trunk_step` before `tree`, with int8 caches, and their steps."""
    x, keys, values, start, cosine, sine = trunk_step_input(rows)
    steps = np.zeros((len(keys), 2, GROUPS, keys.shape[2] * KEY_PANEL), np.float32)
    codes = np.empty(keys.shape, np.int8), np.empty(values.shape, np.int8)
    for layer in range(len(keys)):
        for position in range(ROOM):
            panel, place = divmod(position, KEY_PANEL)
            key, key_step = as_stored(keys[layer, :, panel, :, place][None], "int8")
            value, value_step = as_stored(values[layer, position][None], "int8")
            codes[0][layer, :, panel, :, place], codes[1][layer, position] = key[0], value[0]
            steps[layer, 0, :, position], steps[layer, 1, :, position] = key_step[0], value_step[0]
    return (x, *codes, start, cosine, sine), steps


@needs_numba
@pytest.mark.parametrize("rows", [1, 7])
def test_a_compiled_step_with_int8_caches_is_near_the_plain_step(rows):
    """A difference in the last bit of a key or value can change a code, so all is only near."""
    found = []
    for kernel in (plain, cpu):
        (x, keys, values, *rest), steps = int8_step_input(rows)
        trunk = kernel.prepare_trunk(*random_trunk(kernel, ["f32"] * 3))
        logits, hidden = kernel.trunk_step(x, trunk, keys, values, *rest, steps=steps)
        stored_keys = [decoded(*cache)[0] for cache in zip(keys, values, steps, strict=True)]
        found.append((logits, hidden, *stored_keys))
    for expected, result in zip(*found, strict=True):
        assert np.abs(result - expected).max() < 2e-2 * np.abs(expected).max()


@each_kernel
@pytest.mark.parametrize("damage", ["missing", "too short", "for floats"])
def test_steps_that_do_not_fit_the_cache_are_an_error(kernel, damage):
    (x, keys, values, *rest), steps = int8_step_input(2)
    if damage == "for floats":
        keys, values = keys.astype(np.float32), values.astype(np.float32)
    steps = {"missing": None, "too short": steps[..., :-1], "for floats": steps}[damage]
    trunk = kernel.prepare_trunk(*random_trunk(kernel, ["f32"] * 3))
    with pytest.raises(ValueError, match="a step for each key and value"):
        kernel.trunk_step(x, trunk, keys, values, *rest, steps=steps)


@needs_numba
def test_a_tree_in_an_int8_cache_without_steps_is_an_error():
    (x, keys, values, *rest), steps = int8_step_input(2)
    rows = np.empty((len(keys), 2, GROUPS, keys.shape[3]), np.int8)
    tree = TreeArrays(np.array([[0, 2, rest[0]]]), rows, rows.copy())
    trunk = cpu.prepare_trunk(*random_trunk(cpu, ["f32"] * 3))
    with pytest.raises(ValueError, match="a tree in an int8 cache needs steps"):
        cpu.trunk_step(x, trunk, keys, values, *rest, tree, steps)
