"""Rotation, causal softmax, RMS norm and cached attention follow their definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.plain.cache import KEY_PANEL, joined_panels, key_panels
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import each_kernel, normal


@pytest.fixture
def own(own):
    """As in conftest.py, and a function that returns nothing fails with a sentence."""

    def checked(thing):
        function = own(thing)

        def call(*arguments):
            result = function(*arguments)
            assert result is not None, f"{thing.__name__} returned None: is a `return` missing?"
            return result

        return call

    return checked


def angles(length, pairs, seed=0):
    return np.random.default_rng(seed).uniform(-9, 9, (length, pairs))


def test_cached_attention_of_three_tokens_equals_values_computed_by_hand(own):
    # Lesson 3, by hand: one head, C = 2, and a scale of 1 / sqrt(2).
    q = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[2.0, 0.0]]])  # (T, 1, C)
    keys = np.array([[[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]]])  # (1, 1, C, 3): one panel
    values = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])  # (S, 1, C)
    found = own(plain.cached_attention)(q, keys, values, 0, 2**-0.5)
    # Token 2 scores 0 and 1 / sqrt(2); token 3 scores sqrt(2), 0 and 0.
    second = 1 / (1 + np.exp(-(2**-0.5)))
    third = np.exp(2**0.5) / (np.exp(2**0.5) + 2)
    rest = (1 - third) / 2
    expected = [[[1.0, 0.0]], [[1 - second, second]], [[third + rest, 2 * rest]]]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_cached_attention_of_each_head_equals_a_sum_over_the_positions_it_may_see(
    own, seed, rows, start, kv_heads, share, head_dim
):
    random, heads = np.random.default_rng(seed), kv_heads * share
    q = random.standard_normal((rows, heads, head_dim))
    keys = random.standard_normal((kv_heads, 3, head_dim, 4))  # three panels of four positions
    values = random.standard_normal((start + rows + 2, kv_heads, head_dim))
    values[start + rows :] = np.nan  # written later
    for position in range(start + rows, 12):
        keys[:, position // 4, :, position % 4] = np.nan
    by_position = np.concatenate([keys[:, panel] for panel in range(3)], axis=2)  # (G, C, 12)
    found = own(plain.cached_attention)(q, keys, values, start, 0.3)
    assert found.shape == q.shape, f"the result must have the shape of q, not {found.shape}"
    assert not np.isnan(found).any(), "the result has NaN: you read positions after start + T - 1"
    for t in range(rows):
        for head in range(heads):
            keys_seen = by_position[head // share, :, : start + t + 1]  # (C, seen)
            weights = np.exp(0.3 * q[t, head] @ keys_seen)
            expected = weights @ values[: start + t + 1, head // share] / weights.sum()
            np.testing.assert_allclose(
                found[t, head],
                expected,
                rtol=1e-9,
                atol=1e-9,
                err_msg=f"token {t} of {rows}, head {head} of {heads}, {kv_heads} key/value heads",
            )


def test_cached_attention_of_large_scores_does_not_overflow_or_change_its_arguments(own):
    # If the maximum included another row, or a position that the token may not see, then exp(900 -
    # 1800) would be 0 for the first token, and its sum too.
    keys, values = np.array([[[[30.0, 60.0]]]]), np.array([[[1.0]], [[2.0]]])
    arguments = np.full((2, 1, 1), 30.0), keys, values
    copies = [argument.copy() for argument in arguments]
    found = own(plain.cached_attention)(*copies, 0, 1.0)  # scores of 900, and of 900 and 1800
    np.testing.assert_allclose(found.ravel(), [1.0, 2.0], rtol=1e-12)
    for argument, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(copy, argument)


def test_a_rotation_by_60_degrees_per_position_equals_values_computed_by_hand(own):
    # Lesson 3, by hand: the vector (1, 0) at positions 0 to 3, and one head.
    x = np.tile([1.0, 0.0], (1, 4, 1, 1))  # (B, T, H, C)
    angle = np.radians([[0], [60], [120], [180]])  # (T, C/2)
    rotated = own(plain.rotate)(x, np.cos(angle), np.sin(angle))
    expected = [[1, 0], [0.5, 0.75**0.5], [-0.5, 0.75**0.5], [-1, 0]]
    message = "rows: positions 0 to 3, columns: channels 0 and 1"
    np.testing.assert_allclose(rotated[0, :, 0], expected, rtol=0, atol=1e-15, err_msg=message)


@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_a_rotation_turns_each_adjacent_pair_as_a_complex_number(
    own, seed, batch, length, heads, pairs
):
    x = np.random.default_rng(seed).standard_normal((batch, length, heads, 2 * pairs))
    angle = angles(length, pairs, seed)
    rotated = own(plain.rotate)(x, np.cos(angle), np.sin(angle))
    expected = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]  # (B, T, H, pairs)
    for name, first, part in (("even", 0, expected.real), ("odd", 1, expected.imag)):
        message = f"the {name} channels, x[..., {first}::2]"
        np.testing.assert_allclose(
            rotated[..., first::2], part, rtol=0, atol=1e-14, err_msg=message
        )


def test_a_rotation_changes_neither_its_argument_nor_the_length_of_a_vector(own):
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 4))
    before, angle = x.copy(), angles(3, 2)
    rotated = own(plain.rotate)(x, np.cos(angle), np.sin(angle))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose((rotated**2).sum(-1), (x**2).sum(-1), rtol=1e-13)


def test_after_rotation_the_product_of_a_query_and_a_key_depends_only_on_their_distance(own):
    query, key = np.random.default_rng(1).standard_normal((2, 6))
    angle = np.arange(12)[:, None] * 10000.0 ** (-np.arange(3) / 3)  # position times frequency

    def at(vector, position):
        return own(plain.rotate)(
            vector.reshape(1, 1, 1, 6), np.cos(angle[[position]]), np.sin(angle[[position]])
        ).ravel()

    assert at(query, 3) @ at(key, 1) == pytest.approx(at(query, 11) @ at(key, 9), abs=1e-13)
    assert at(query, 3) @ at(key, 1) != pytest.approx(at(query, 4) @ at(key, 1), abs=1e-3)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 5), st.sampled_from([0.25, 1.0]))
def test_the_gradient_of_the_causal_softmax_equals_a_difference_quotient(
    own, seed, matrices, length, scale
):
    random = np.random.default_rng(seed)
    scores, direction, gradient = random.standard_normal((3, matrices, length, length))
    above, below = (
        (plain.causal_softmax(scores + h * direction, scale) * gradient).sum()
        for h in (1e-6, -1e-6)
    )
    received = own(plain.causal_softmax_backward)(
        gradient.copy(), plain.causal_softmax(scores.copy(), scale), scale
    )
    assert float((received * direction).sum()) == pytest.approx(
        float(above - below) / 2e-6, rel=1e-6, abs=1e-8
    )


def test_the_gradient_of_the_causal_softmax_equals_values_computed_by_hand(own):
    probabilities = np.array([[[1.0, 0.0], [0.25, 0.75]]])
    gradient = np.array([[[5.0, 7.0], [1.0, 2.0]]])
    # Row 2: the mean gradient is 0.25 * 1 + 0.75 * 2 = 1.75; 0.25 * (1 - 1.75) and 0.75 * (2 -
    # 1.75), times 10.
    received = own(plain.causal_softmax_backward)(gradient, probabilities, 10.0)
    np.testing.assert_allclose(received, [[[0.0, 0.0], [-1.875, 1.875]]], rtol=1e-14)


def test_the_gradient_of_the_causal_softmax_overwrites_its_first_argument_only(own):
    probabilities = np.array([[[1.0, 0.0], [0.25, 0.75]]])
    gradient, before = np.array([[[5.0, 7.0], [1.0, 2.0]]]), probabilities.copy()
    received = own(plain.causal_softmax_backward)(gradient, probabilities, 10.0)
    assert np.shares_memory(received, gradient), "the result must be `grad` itself, overwritten"
    np.testing.assert_allclose(gradient, [[[0.0, 0.0], [-1.875, 1.875]]], rtol=1e-14)
    np.testing.assert_array_equal(probabilities, before)


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 8))
def test_the_gradients_of_rms_norm_equal_difference_quotients(seed, rows, width):
    random = np.random.default_rng(seed)
    x, direction, gradient = random.standard_normal((3, rows, width))
    weight, turn = random.standard_normal((2, width))

    def loss(step, along_x, along_weight):
        y, _ = plain.rms_norm(
            x + step * along_x * direction, weight + step * along_weight * turn, 1e-2
        )
        return float((y * gradient).sum())

    dx, dweight = plain.rms_norm_backward(gradient, x, weight, plain.rms_norm(x, weight, 1e-2)[1])
    assert dx.shape == x.shape and dweight.shape == weight.shape
    slopes = [(loss(1e-6, *along) - loss(-1e-6, *along)) / 2e-6 for along in ((1, 0), (0, 1))]
    assert float((dx * direction).sum()) == pytest.approx(slopes[0], rel=1e-6, abs=1e-7)
    assert float((dweight * turn).sum()) == pytest.approx(slopes[1], rel=1e-6, abs=1e-7)


def test_the_gradient_of_rms_norm_is_orthogonal_to_the_row():
    # Except for epsilon, scaling the row does not change the result. So the gradient has no
    # component along the row.
    x, gradient = np.random.default_rng(3).standard_normal((2, 5, 16))
    weight = np.ones(16)
    dx, _ = plain.rms_norm_backward(gradient, x, weight, plain.rms_norm(x, weight, 0.0)[1])
    np.testing.assert_allclose((dx * x).sum(axis=-1), 0.0, atol=1e-14)


@each_kernel
def test_causal_softmax_is_zero_above_the_diagonal_and_sums_to_one_below(kernel):
    scores = normal(np.random.default_rng(1), 5, 37, 37, spread=100)
    scores[0, 3, 5:] = np.nan  # the future must have no effect
    p = kernel.causal_softmax(scores, 3.0)
    assert not np.triu(p, 1).any() and (p >= 0).all()
    assert_close(p.sum(axis=-1), np.ones((5, 37)), COMPARISONS["rows of a softmax"])


@each_kernel
def test_rotating_by_the_negative_angles_undoes_a_rotation(kernel):
    rng = np.random.default_rng(3)
    x, angles = normal(rng, 2, 5, 3, 14), rng.uniform(-9, 9, (5, 7))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    rotated = kernel.rotate(x, cos, sin)
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    assert_close(rotated[..., 0::2] + 1j * rotated[..., 1::2], pairs, COMPARISONS["rotated"])
    assert_close(kernel.rotate(rotated, cos, -sin), x, COMPARISONS["rotated"])


@each_kernel
def test_cached_attention_equals_a_loop_over_rows_and_heads(kernel):
    rng = np.random.default_rng(4)
    rows, heads, groups, head_dim, start = 5, 6, 2, 12, 29
    q, keys, values = (
        normal(rng, rows, heads, head_dim),
        normal(rng, groups, 2, head_dim, KEY_PANEL),
        normal(rng, 40, groups, head_dim),
    )
    length = start + rows
    keys[:, 1, :, length - KEY_PANEL :] = values[length:] = np.nan  # not written yet
    found = kernel.cached_attention(q, keys, values, start, 0.3)
    keys = joined_panels(keys)
    for t in range(rows):
        for head in range(heads):
            group, past = head // (heads // groups), start + t + 1
            weights = np.exp(0.3 * q[t, head].astype(np.float64) @ keys[group, :, :past])
            expected = weights @ values[:past, group] / weights.sum()
            assert_close(found[t, head], expected, COMPARISONS["attention"])


@each_kernel
@pytest.mark.parametrize("head_dim", [4, 32, 40])
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_attention_to_a_float16_cache_has_the_bits_of_a_float32_cache_with_the_same_numbers(
    kernel, head_dim, rows
):
    rng, length = np.random.default_rng(head_dim), 70
    q = normal(rng, rows, 6, head_dim)
    keys = normal(rng, 2, key_panels(length), head_dim, KEY_PANEL).astype(np.float16)
    values = normal(rng, length, 2, head_dim).astype(np.float16)
    for start in (0, 31, length - rows):
        found, expected = (
            kernel.cached_attention(q, *cache, start, 0.3)
            for cache in ((keys, values), (keys.astype("float32"), values.astype("float32")))
        )
        assert found.dtype == np.float32 and found.tobytes() == expected.tobytes()
