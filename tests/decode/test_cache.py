"""The key/value cache compared with a list of rows."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.decode.cache import Int8KeyValueCache, KeyValueCache, TreeRows, bytes_for, enlarged
from minimtp.decode.model_runner import ModelRunner
from minimtp.kernels import plain
from minimtp.kernels.plain.cache import KEY_PANEL, decoded, joined_panels
from tests.decode.drafters.helpers import SHAPE, model_with

LAYERS, CONTEXT, HEADS, HEAD_DIM = 2, 40, 2, 4  # two panels of keys


def append(cache, rows):
    """Append rows (T, layers, heads, head_dim) as keys, and the negated rows as values."""
    before = cache.length
    for layer in range(LAYERS):
        cache.write(layer, rows[:, layer], -rows[:, layer])
        check_length(cache, before, f"write of {len(rows)} rows must not change it")
    cache.extend(len(rows))
    check_length(cache, before + len(rows), f"extend({len(rows)}) must add to it")


def check_length(cache, expected, action):
    assert cache.length == expected, f"the length is {cache.length}, expected {expected}: {action}"


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, CONTEXT)), max_size=20), st.integers(0, 2**32)
)
def test_after_any_appends_and_truncations_the_cache_holds_the_rows_of_a_plain_list(
    own, steps, seed
):
    rng, expected = np.random.default_rng(seed), []
    cache = own(KeyValueCache)(LAYERS, CONTEXT, HEADS, HEAD_DIM)
    for is_append, count in steps:
        if is_append and len(expected) + count <= CONTEXT:
            rows = rng.standard_normal((count, LAYERS, HEADS, HEAD_DIM)).astype(np.float32)
            append(cache, rows)
            expected += list(rows)
        elif count <= len(expected):
            cache.truncate(count)
            del expected[count:]
            check_length(cache, count, f"truncate({count}) must set it")
        assert len(cache) == cache.length == len(expected)
        for layer in range(LAYERS):
            keys, values = cache.layer(layer)
            wanted = np.array([row[layer] for row in expected]).reshape(-1, HEADS, HEAD_DIM)
            found = joined_panels(keys)[:, :, : cache.length].transpose(2, 0, 1)  # (T, G, C)
            np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(values[: cache.length], -wanted)


def test_writing_to_the_cache_and_truncating_it_allocate_no_memory(own):
    cache = own(KeyValueCache)(LAYERS, CONTEXT, HEADS, HEAD_DIM)
    keys, values = cache.layer(1)
    append(cache, np.ones((5, LAYERS, HEADS, HEAD_DIM), np.float32))
    cache.truncate(2)
    assert (
        np.shares_memory(cache.layer(1)[0], cache.keys)
        and cache.layer(1)[0] is keys
        and cache.layer(1)[1] is values
    )
    assert cache.nbytes == LAYERS * (2 * KEY_PANEL + CONTEXT) * HEADS * HEAD_DIM * 4
    # Attention may read rows beyond the length and give them the weight 0, but 0 * NaN is NaN.
    assert np.isfinite(cache.keys).all() and np.isfinite(cache.values).all()


def test_write_returns_the_views_of_its_layer_and_does_not_change_the_length(own):
    """Attention reads the rows through what `write` returns."""
    cache = own(KeyValueCache)(LAYERS, CONTEXT, HEADS, HEAD_DIM)
    rows = np.arange(3 * HEADS * HEAD_DIM, dtype=np.float32).reshape(3, HEADS, HEAD_DIM)
    for first in range(0, 36, 3):
        written = cache.write(1, rows, -rows)
        assert written is not None, "write returned nothing"
        keys, values = written
        for view, stored in zip(written, cache.layer(1), strict=True):
            assert view.shape == stored.shape, (
                f"write returned an array {view.shape}, expected the whole layer, {stored.shape}"
            )
            assert np.shares_memory(view, stored), (
                "write returned a copy, expected the views of its layer, so that no row is copied"
            )
        found = joined_panels(keys)[:, :, first : first + 3].transpose(2, 0, 1)  # (T, G, C)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_array_equal(values[first : first + 3], -rows)
        check_length(cache, first, "write must not change it")
        cache.extend(3)


@contextmanager
def must_raise(call):
    """Fail with the call's name if the block raises no ValueError.

    The message of the error is not compared: a reader may write another.
    """
    try:
        yield
    except ValueError:
        return
    raise AssertionError(f"{call} must raise a ValueError")


@pytest.mark.parametrize(("used", "rows"), [(0, CONTEXT + 1), (CONTEXT - 2, 3), (CONTEXT, 1)])
def test_rows_beyond_the_context_are_rejected_and_leave_the_cache_unchanged(own, used, rows):
    cache = own(KeyValueCache)(LAYERS, CONTEXT, HEADS, HEAD_DIM)
    append(cache, np.ones((used, LAYERS, HEADS, HEAD_DIM), np.float32))
    before = cache.keys.copy(), cache.values.copy()
    more = np.full((rows, HEADS, HEAD_DIM), 7, np.float32)
    with must_raise(f"write of {rows} rows after {used}, in a cache for {CONTEXT},"):
        cache.write(0, more, more)
    with must_raise(f"extend({rows}) with {used} rows, in a cache for {CONTEXT},"):
        cache.extend(rows)
    check_length(cache, used, "an error must leave it unchanged")
    np.testing.assert_array_equal(cache.keys, before[0])
    np.testing.assert_array_equal(cache.values, before[1])


def test_extending_a_cache_by_a_negative_number_of_rows_is_an_error(own):
    cache = own(KeyValueCache)(LAYERS, CONTEXT, HEADS, HEAD_DIM)
    append(cache, np.ones((3, LAYERS, HEADS, HEAD_DIM), np.float32))
    with must_raise("extend(-1)"):
        cache.extend(-1)
    check_length(cache, 3, "an error must leave it unchanged")


@pytest.mark.parametrize("length", [-1, 4])
def test_truncating_a_cache_to_a_negative_or_larger_length_is_an_error(own, length):
    cache = own(KeyValueCache)(LAYERS, CONTEXT, HEADS, HEAD_DIM)
    append(cache, np.ones((3, LAYERS, HEADS, HEAD_DIM), np.float32))
    with must_raise(f"truncate({length}) with 3 rows"):
        cache.truncate(length)
    check_length(cache, 3, "an error must leave it unchanged")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cache_arrays_begin_at_a_cpu_cache_line(dtype):
    caches = [KeyValueCache(2, 5, 1, 6, dtype) for _ in range(4)]
    assert not any(
        array.ctypes.data % 64 for cache in caches for array in (cache.keys, cache.values)
    )


TEXT = np.random.default_rng(5).integers(0, SHAPE.vocabulary_size, SHAPE.context_length)


def rows_of(trunk, text):
    """Compute keys and values (T, G, C) of the first block from their definition.

    Keys and values are matmuls of the normalized embeddings. Keys are also rotated.
    """
    block, heads = trunk.blocks[0], SHAPE.num_heads
    normed, _ = plain.rms_norm(
        trunk.embedding.weight.data[text], block.attention_norm.weight.data, SHAPE.norm_eps
    )
    joined = (normed @ block.attention.qkv.weight.data.T).reshape(1, len(text), -1, SHAPE.head_dim)
    rotated = plain.rotate(
        joined[:, :, : heads + SHAPE.num_kv_heads],
        *block.attention.rotary.tables(len(text), normed),
    )
    return rotated[0, :, heads:], joined[0, :, heads + SHAPE.num_kv_heads :]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(passes=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_a_forward_pass_writes_the_same_cache_rows_as_the_write_method(dtype, passes):
    """In decoding, the kernel writes into views of the cache, the cache only counts the rows, and
    later rows overwrite rejected ones.
    """
    trunk = model_with("parallel", dtype).trunk
    runner, (keys, values) = ModelRunner(trunk), rows_of(trunk, TEXT)
    expected = runner.cache.clone()
    for fed, rejected in passes:
        start, stop = runner.length, min(runner.length + fed, SHAPE.context_length)
        if start == stop:
            break
        runner.forward(TEXT[start:stop])
        expected.write(0, keys[start:stop], values[start:stop])
        expected.extend(stop - start)
        for cache in (runner.cache, expected):
            cache.truncate(max(start, stop - rejected))
    tolerance = 1e-4 if dtype is np.float32 else 1e-12  # sums of 32 terms, in another order
    np.testing.assert_allclose(runner.cache.keys, expected.keys, rtol=0, atol=tolerance)
    np.testing.assert_allclose(runner.cache.values, expected.values, rtol=0, atol=tolerance)
    assert runner.length == expected.length


@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_an_int8_cache_returns_its_rows_to_within_half_a_step(seed, counts):
    rng, before = np.random.default_rng(seed), []
    cache = Int8KeyValueCache(LAYERS, CONTEXT, HEADS, HEAD_DIM)
    assert type(cache.clone()) is Int8KeyValueCache and cache.clone().nbytes == cache.nbytes
    for count in counts:
        rows = rng.standard_normal((count, LAYERS, HEADS, HEAD_DIM)).astype(np.float32)
        rows[..., 0] *= 1000  # of a channel that is always large
        append(cache, rows)
        before += list(rows)
    larger = enlarged(cache, 2 * CONTEXT)
    assert larger.nbytes == bytes_for(cache, 2 * CONTEXT) and cache.nbytes == bytes_for(
        cache, CONTEXT
    )
    for layer, found in itertools.product(range(LAYERS), (cache, larger)):
        keys, values = decoded(*found.layer(layer), found.steps[layer])
        rows = np.array([row[layer] for row in before])  # (T, G, C)
        found_keys = joined_panels(keys)[..., : len(rows)].transpose(2, 0, 1)
        # The float16 step is off by up to 2^-11 of itself, so the largest code by 127 / 2048 steps.
        allowed = (0.5 + 127 / 2048) * 1.01 * np.abs(rows).max(axis=-1, keepdims=True) / 127
        assert (np.abs(found_keys - rows) <= allowed).all()
        assert (np.abs(values[: len(rows)] + rows) <= allowed).all()


@pytest.mark.parametrize("kind", [KeyValueCache, Int8KeyValueCache])
def test_the_accepted_rows_of_a_tree_continue_the_cache_in_the_next_panel(kind):
    cache, tree_rows = kind(LAYERS, CONTEXT, HEADS, HEAD_DIM), 4
    append(cache, np.ones((KEY_PANEL - 1, LAYERS, HEADS, HEAD_DIM), np.float32))
    tree, accepted = TreeRows(cache, tree_rows), np.array([0, 2, 3])
    numbers = np.arange(tree_rows, dtype=tree.keys.dtype)[:, None, None]
    tree.keys[:], tree.values[:] = numbers, -numbers
    if tree.steps is not None:
        tree.steps[:] = numbers
    tree.append_to_cache(accepted)
    at = slice(KEY_PANEL - 1, KEY_PANEL + 2)
    assert (joined_panels(cache.keys)[..., at] == accepted).all()
    assert (cache.values[:, at] == -accepted[:, None, None]).all()
    if cache.steps is not None:
        assert (cache.steps[..., at] == accepted).all()
