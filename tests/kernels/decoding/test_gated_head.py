"""A gated head drafts the same tokens in one call and token by token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.plain.decoding.gated_head import PreparedFeedForward
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import WIDTH, cpu, each_format, each_kernel, needs_numba, normal, prepared

INNER = 96  # of a feed-forward part


def feed_forward_of(rng, kernel, format_):
    """Return a random feed-forward part."""
    shapes = (2 * INNER, WIDTH), (WIDTH, INNER)
    matrices = (prepared(kernel, format_, normal(rng, *shape)) for shape in shapes)
    return PreparedFeedForward(normal(rng, WIDTH), *matrices)


def run_gated_step(kernel, format_, matrices=None, inner=False):
    rng = np.random.default_rng(17)
    norms, part = normal(rng, 2, WIDTH), normal(rng, 1, 2 * WIDTH)
    weights = [
        prepared(matrices or kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, 50)
    ]
    state = normal(rng, 1, WIDTH)
    between = feed_forward_of(rng, matrices or kernel, format_) if inner else None
    step = kernel.prepare_gated_step(
        norms[0], weights[0], norms[1], weights[1], 1e-5, feed_forward=between
    )
    logits, largest = kernel.gated_step(state, part, step)
    return state, logits, largest


@needs_numba
@each_format
@pytest.mark.parametrize("inner", [False, True], ids=["gated step", "with a feed-forward part"])
def test_a_token_drafted_in_one_call_has_the_bits_of_its_kernels_called_one_by_one(
    format_, inner, monkeypatch
):
    state, logits, largest = run_gated_step(cpu, format_, inner=inner)
    for name in ("rms_norm", "linear", "gated_update", "swiglu"):
        monkeypatch.setattr(plain.decoding.gated_head, name, getattr(cpu, name))
    expected_state, expected_logits, expected_largest = run_gated_step(
        plain, format_, matrices=cpu, inner=inner
    )
    assert state.tobytes() == expected_state.tobytes()
    assert logits.tobytes() == expected_logits.tobytes()
    assert_close(largest, expected_largest, COMPARISONS["largest probability, compiled"])


@needs_numba
def test_each_matrix_of_a_drafted_token_may_have_its_own_format(monkeypatch):
    """A table of 8 bits beside a head of 4 bits is the default of rounded models."""
    for name in ("rms_norm", "linear", "gated_update", "swiglu"):
        monkeypatch.setattr(plain.decoding.gated_head, name, getattr(cpu, name))
    rng, found = np.random.default_rng(17), []
    norms, part, state = normal(rng, 3, WIDTH), normal(rng, 1, 2 * WIDTH), normal(rng, 1, WIDTH)
    shapes = (2 * WIDTH, WIDTH), (2 * INNER, WIDTH), (WIDTH, INNER), (50, WIDTH)
    from_state, gate_up, down, output = (
        prepared(cpu, format_, normal(rng, *shape))
        for format_, shape in zip(("q4_0", "q8_0", "q4_1", "f32"), shapes, strict=True)
    )
    between = PreparedFeedForward(norms[2], gate_up, down)
    for kernel in (cpu, plain):
        step = kernel.prepare_gated_step(
            norms[0], from_state, norms[1], output, 1e-5, feed_forward=between
        )
        own = state.copy()
        found.append((kernel.gated_step(own, part, step)[0].tobytes(), own.tobytes()))
    assert found[0] == found[1]


@each_kernel
@each_format
def test_token_parts_computed_on_demand_give_the_same_drafts_as_a_table(kernel, format_):
    rng = np.random.default_rng(19)
    norms, state, noise = normal(rng, 3, WIDTH), normal(rng, 1, WIDTH), rng.gumbel(size=(6, 50))
    sizes = 2 * WIDTH, 50, 2 * WIDTH
    from_state, output, from_token = (
        prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in sizes
    )
    step = kernel.prepare_gated_step(norms[0], from_state, norms[1], output, 1e-5)
    computed = kernel.prepare_token_parts(output, norms[2], from_token, 1e-5)
    table = np.concatenate([computed[np.array([token])] for token in range(50)])

    def drafts(parts):
        yield kernel.gated_draft(state, 3, parts, 6, 0.0, step)
        yield kernel.gated_draft(state, 3, parts, 6, 0.0, step, noise, 0.7)
        yield from kernel.gated_tree(state.copy(), 3, parts, (9, 4, 3), 0.0, 1.5, step, noise, 0.7)

    for one, other in zip(drafts(computed), drafts(table), strict=True):
        assert one.tolist() == other.tolist()


@each_kernel
@each_format
@given(least=st.sampled_from([0.0, 1e-4, 1e-2, 0.2]), token=st.integers(0, 49))
@settings(max_examples=12)
def test_a_greedy_draft_equals_its_tokens_drafted_one_by_one(kernel, format_, least, token):
    rng = np.random.default_rng(17)
    norms, parts, state = normal(rng, 2, WIDTH), normal(rng, 50, 2 * WIDTH), normal(rng, 1, WIDTH)
    weights = [prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, 50)]
    between = feed_forward_of(rng, kernel, format_)
    step = kernel.prepare_gated_step(
        norms[0], weights[0], norms[1], weights[1], 1e-5, feed_forward=between
    )
    drafts = kernel.gated_draft(state, token, parts, 6, least, step)
    confidence, expected = 1.0, []
    for _ in range(6):
        logits, largest = kernel.gated_step(state, parts[token : token + 1], step)
        confidence *= largest
        if confidence < least:
            break
        token = int(logits.argmax())
        expected.append(token)
    assert drafts.tolist() == expected


@each_kernel
@each_format
@given(
    least=st.sampled_from([0.0, 1e-4, 1e-2]),
    token=st.integers(0, 49),
    temperature=st.sampled_from([0.5, 1.0]),
)
@settings(max_examples=12)
def test_a_sampled_draft_and_a_tree_equal_their_tokens_drafted_one_by_one(
    kernel, format_, least, token, temperature
):
    """A tree of width one is the chain. Each further node is the most probable remaining one."""
    rng = np.random.default_rng(18)
    norms, parts, state = normal(rng, 2, WIDTH), normal(rng, 50, 2 * WIDTH), normal(rng, 1, WIDTH)
    weights = [prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, 50)]
    noise = rng.gumbel(size=(6, 50))
    between = feed_forward_of(rng, kernel, format_)
    step = kernel.prepare_gated_step(
        norms[0], weights[0], norms[1], weights[1], 1e-5, feed_forward=between
    )
    drafts = kernel.gated_draft(state, token, parts, 6, least, step, noise, temperature)

    def follow(state, token, depth):
        logits, largest = kernel.gated_step(state, parts[token : token + 1], step)
        return logits[0] / np.float32(temperature) + noise[depth], float(largest)

    confidence, expected, own, last = 1.0, [], state.copy(), token
    for index in range(6):
        scores, largest = follow(own, last, index)
        confidence *= largest
        if confidence < least:
            break
        last = int(scores.argmax())
        expected.append(last)
    assert drafts.tolist() == expected

    tokens, parents = kernel.gated_tree(
        state.copy(), token, parts, (6, 6, 1), 0.0, 1.5, step, noise, temperature
    )
    assert tokens[1 : len(drafts) + 1].tolist() == drafts.tolist() and parents.tolist() == list(
        range(-1, 6)
    )
    tokens, parents = kernel.gated_tree(
        state.copy(), token, parts, (9, 4, 3), least, 1.5, step, noise, temperature
    )
    states, chances, depths, left = [state], [1.0], [0], {}
    for node in range(len(tokens)):
        if node:
            assert left[parents[node], tokens[node]] == max(left.values()) >= least
            chances.append(left.pop((parents[node], tokens[node])))
            states.append(states[parents[node]])
            depths.append(depths[parents[node]] + 1)
        if depths[node] < 4:
            states[node] = states[node].copy()
            scores, _ = follow(states[node], int(tokens[node]), depths[node])
            beliefs = np.exp(1.5 * (scores - scores.max()))
            most_likely = np.argsort(-scores, kind="stable")[:3]
            left |= {
                (node, int(i)): chances[node] * float(beliefs[i] / beliefs.sum())
                for i in most_likely
            }
    assert len(tokens) == 10 or max(left.values(), default=0) < least


@each_kernel
@each_format
@given(
    least=st.sampled_from([0.0, 1e-4, 1e-2]),
    seed=st.integers(0, 100),
    temperature=st.sampled_from([0.5, 1.0]),
    some=st.booleans(),
)
@settings(max_examples=12)
def test_a_draft_sampled_at_points_equals_its_tokens_sampled_one_by_one(
    kernel, format_, least, seed, temperature, some
):
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.permutation(50)[:20]) if some else np.arange(50)
    norms, parts, state = normal(rng, 2, WIDTH), normal(rng, 50, 2 * WIDTH), normal(rng, 1, WIDTH)
    weights = [
        prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, len(ids))
    ]
    step = kernel.prepare_gated_step(
        norms[0], weights[0], norms[1], weights[1], 1e-5, ids if some else None
    )
    token, points = int(rng.integers(50)), rng.random(6)
    drafts, scores = kernel.gated_sampled_draft(
        state, token, parts, 6, least, step, points, temperature
    )
    confidence, expected, rows = 1.0, [], []
    for point in points:
        logits, largest = kernel.gated_step(state, parts[token : token + 1], step)
        confidence *= largest
        if confidence < least:
            break
        rows.append(logits[0] / np.float32(temperature))
        token = int(ids[kernel.sample(rows[-1][None], np.ones(1, np.float32), point[None])[0]])
        expected.append(token)
    assert drafts.tolist() == expected and scores.dtype == np.float32
    assert scores.tolist() == [row.tolist() for row in rows]


@each_kernel
def test_gated_step_returns_the_largest_probability_of_its_logits(kernel):
    _, logits, largest = run_gated_step(kernel, "f32")
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    assert_close(largest, 1 / exponentials.sum(), COMPARISONS["largest probability, float64"])


@each_kernel
@each_format
@given(seed=st.integers(0, 100), temperature=st.sampled_from([0.5, 1.0]))
@settings(max_examples=12)
def test_some_tokens_are_drafted_as_if_they_were_all_and_then_named(
    kernel, format_, seed, temperature
):
    """Nothing but the names of the tokens differs from a step whose output has only their rows."""
    rng = np.random.default_rng(seed)
    tokens = np.sort(rng.permutation(50)[:20])
    norms, parts, state = normal(rng, 2, WIDTH), normal(rng, 50, 2 * WIDTH), normal(rng, 1, WIDTH)
    weights = [prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, 20)]
    noise, first = rng.gumbel(size=(6, 50)), int(rng.integers(50))
    matrices = norms[0], weights[0], norms[1], weights[1], 1e-5
    some, every = (kernel.prepare_gated_step(*matrices, *ids) for ids in ((tokens,), ()))
    # The step that knows of 20 tokens needs the parts of these tokens, and of the first one.
    few, start = np.concatenate([parts[tokens], parts[first : first + 1]]), 20
    for seen, restricted in ((None, None), (noise, np.ascontiguousarray(noise[:, tokens]))):
        drafts = kernel.gated_draft(state, first, parts, 6, 0.0, some, seen, temperature)
        named = kernel.gated_draft(state, start, few, 6, 0.0, every, restricted, temperature)
        assert drafts.tolist() == tokens[named].tolist()
        sizes = (9, 4, 3), 0.0, 1.5
        tree = kernel.gated_tree(state.copy(), first, parts, *sizes, some, seen, temperature)
        other = kernel.gated_tree(state.copy(), start, few, *sizes, every, restricted, temperature)
        assert tree[0][1:].tolist() == tokens[other[0][1:]].tolist()
        assert tree[0][0] == first and tree[1].tolist() == other[1].tolist()
