"""Heads draft the tokens of the training code after any accepted and rejected drafts."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.drafters.heads import head_drafter, token_conditioned
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.registry import RULES, make_rule
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.engine.tensor import no_grad
from minimtp.kernels.plain.cache import joined_panels
from minimtp.model.heads import Heads
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.decode.drafters.helpers import DEPTH, SHAPE, model_with, trained_draft
from tests.helpers.heads import KINDS


def trained_logits(model, tokens, path):
    """Return the logits of the training code after `tokens` and the drafted `path`."""
    rows, k = len(tokens) - 1, len(path)
    known = [*tokens, *path, *[0] * DEPTH]
    with no_grad():
        hidden = model.trunk_states(np.array([tokens[:-1]]))
        following = np.array([[known[row + 1 : row + 1 + DEPTH] for row in range(rows)]])
        states = model.heads.states(hidden, following, model.trunk)
        return model.draft_logits(next(itertools.islice(states, k, None))).data[0, -1]


class Recording(Greedy):
    """Greedy drafting that records its logits."""

    def sample(self, logits, index):
        self.seen = logits if index == 0 else np.concatenate([self.seen, logits])
        return super().sample(logits, index)

    def perturbed_argmax(self, depth, xp=np):
        return None  # so that `sample` is called


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(
    text=st.lists(
        st.integers(0, SHAPE.vocabulary_size - 1), min_size=3, max_size=SHAPE.context_length
    ),
    pieces=st.lists(
        st.tuples(st.integers(1, DEPTH + 3), st.integers(0, DEPTH)), min_size=1, max_size=8
    ),
)
def test_drafts_equal_the_drafts_of_the_training_code_after_any_commits_and_drafts(
    kind, text, pieces
):
    model = model_with(kind)
    hidden = model.trunk_states(np.array([text])).data[0]
    drafter, committed = head_drafter(model.heads, ModelRunner(model.trunk, layers=model.layers)), 0
    drafter.reset(text[0])
    for rows, depth in pieces:
        rows = min(rows, len(text) - 1 - committed)
        if rows == 0:
            break
        # The buffer is reused, as in the decoding loop.
        following = np.array(text[committed + 1 : committed + 1 + rows])
        drafter.commit(hidden[committed : committed + rows], following)
        following[:] = 0
        committed += rows
        depth = min(depth, SHAPE.context_length - committed - 1)
        if depth > 0:
            rule = Recording()
            drafts, scores = drafter.draft(depth, rule)
            expected, logits = trained_draft(model, text[: committed + 1], depth)
            assert scores is None and drafts.tolist() == expected
            np.testing.assert_allclose(
                rule.seen[:depth], logits, rtol=0, atol=1e-10 * np.abs(logits).max()
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context_length", [6, SHAPE.context_length])
@pytest.mark.parametrize("max_new_tokens", [1, 2, 40])
def test_greedy_text_with_heads_equals_plain_text_and_a_drafter_can_be_reused(
    kind, context_length, max_new_tokens
):
    model = model_with(kind)
    runtime = ModelRunner(model.trunk, context_length, layers=model.layers)
    drafter = head_drafter(model.heads, runtime)
    for prompt in ([3], [1, 2, 3, 4, 5, 6]):
        plain = list(
            start_generation(
                runtime, None, prompt, GenerationOptions(max_new_tokens=max_new_tokens)
            )
        )
        fresh = list(
            start_generation(
                runtime,
                head_drafter(model.heads, runtime),
                prompt,
                GenerationOptions(max_new_tokens=max_new_tokens),
            ).rounds()
        )
        run = start_generation(
            runtime, drafter, prompt, GenerationOptions(max_new_tokens=max_new_tokens)
        )
        assert list(run.rounds()) == fresh and run.tokens == prompt + plain
        assert runtime.length == len(run.tokens) - 1
        assert len(plain) == min(max_new_tokens, context_length + 1 - len(prompt))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", [0.0, 0.02])
def test_trees_grow_from_the_logits_of_the_training_code_after_each_path(kind, least):
    model, text = model_with(kind), [3, 1, 4, 1, 5]
    drafter = head_drafter(model.heads, ModelRunner(model.trunk, layers=model.layers))
    drafter.reset(text[0])
    drafter.commit(model.trunk_states(np.array([text[:-1]])).data[0], np.array(text[1:]))

    def follow(node, parent, path):
        return trained_logits(model, text, path)[None]

    for nodes, depth in ((7, 3), (1, 4), (12, DEPTH)):
        tree = drafter.draft_tree(nodes, depth, Greedy(), least)
        expected = grow(5, follow, Greedy(), nodes, depth, least)
        assert (list(tree.tokens), list(tree.depths)) == (
            list(expected.tokens),
            list(expected.depths),
        )
    drafts, _ = drafter.draft(2, Greedy())  # growing a tree does not change the state
    assert drafts.tolist() == trained_draft(model, text, 2)[0]


SAMPLINGS = [SamplingParams(0.6), SamplingParams(1.0), SamplingParams(0.8, top_k=4, top_p=0.7)]


@pytest.mark.parametrize("sampling", [GREEDY, *SAMPLINGS], ids=str)
@pytest.mark.parametrize("rule", ["shared-noise", "match"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_chains_and_trees_equal_those_sampled_token_by_token(rule, sampling, dtype):
    model, text = model_with("token_conditioned", dtype), [3, 1, 4, 1, 5]
    drafter = head_drafter(model.heads, ModelRunner(model.trunk, layers=model.layers))
    drafter.reset(text[0])
    drafter.commit(model.trunk_states(np.array([text[:-1]])).data[0], np.array(text[1:]))
    for seed in range(20):
        whole, asked = (make_rule(rule, sampling, seed, SHAPE.vocabulary_size, 5) for _ in range(2))
        asked.perturbed_argmax = lambda depth, xp=np: None
        for least in (0.0, 0.02):
            drafter.min_confidence = least
            assert list(drafter.draft(DEPTH, whole)[0]) == list(drafter.draft(DEPTH, asked)[0])
            one, other = (drafter.draft_tree(9, DEPTH, by, least) for by in (whole, asked))
            assert (one.tokens, one.depths) == (other.tokens, other.depths)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_chains_sampled_in_one_call_equal_those_sampled_token_by_token(rule, sampling, dtype):
    model, text = model_with("token_conditioned", dtype), [3, 1, 4, 1, 5]
    drafter = head_drafter(model.heads, ModelRunner(model.trunk))
    drafter.reset(text[0])
    drafter.commit(model.hidden(np.array([text[:-1]])).data[0], np.array(text[1:]))
    drafter.min_confidence = 0.0
    for seed in range(20):
        whole, asked = (make_rule(rule, sampling, seed, SHAPE.vocabulary_size, 5) for _ in range(2))
        asked.softmax_points = lambda depth: None
        drafts, scores = drafter.draft(DEPTH, whole)
        expected, rows = drafter.draft(DEPTH, asked)
        assert drafts.tolist() == expected.tolist() and scores.tolist() == rows.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_after_text_drafted_in_trees_the_cache_equals_the_cache_of_plain_decoding(kind, rule):
    model = model_with(kind)
    runtime = ModelRunner(model.trunk, layers=model.layers)
    for sampling in (GREEDY, SamplingParams(0.8)):
        options = {"max_new_tokens": 40, "sampling": sampling, "seed": 1, "rule": rule}
        run = start_generation(
            runtime,
            head_drafter(model.heads, runtime),
            [1, 2, 3],
            GenerationOptions(tree=9, **options),
        )
        for _ in run.rounds():
            fresh, length = ModelRunner(model.trunk, layers=model.layers), runtime.length
            fresh.forward(np.array(run.tokens[:-1]))
            assert fresh.length == length
            np.testing.assert_allclose(
                joined_panels(runtime.cache.keys)[..., :length],
                joined_panels(fresh.cache.keys)[..., :length],
                atol=1e-10,
            )
            np.testing.assert_allclose(
                runtime.cache.values[:, :length], fresh.cache.values[:, :length], atol=1e-10
            )
        assert run.reason == "context"
        if sampling == GREEDY or rule in ("shared-noise", "match"):
            assert run.tokens[3:] == list(
                start_generation(runtime, None, [1, 2, 3], GenerationOptions(**options))
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_sampled_drafts_have_the_scores_that_the_rule_needs(kind, rule):
    model = model_with(kind)
    drafter = head_drafter(model.heads, ModelRunner(model.trunk, layers=model.layers))
    drafter.reset(1)
    drafter.commit(model.trunk_states(np.array([[1, 2, 3]])).data[0], np.array([2, 3, 4]))
    drafts, scores = drafter.draft(
        3, make_rule(rule, SamplingParams(top_k=5), 0, SHAPE.vocabulary_size, 4)
    )
    assert drafts.shape == (3,)
    if rule in ("shared-noise", "match"):
        assert scores is None
    else:
        assert (
            scores.shape == (3, SHAPE.vocabulary_size)
            and ((scores > -np.inf).sum(axis=1) == 5).all()
        )
        assert (scores[np.arange(3), drafts] > -np.inf).all()


@pytest.mark.parametrize("kind", KINDS)
def test_with_shared_noise_heads_do_not_change_the_sampled_text(kind):
    model = model_with(kind)
    runtime = ModelRunner(model.trunk, layers=model.layers)
    for seed in range(5):
        options = {
            "max_new_tokens": 20,
            "sampling": SamplingParams(0.8),
            "seed": seed,
            "rule": "shared-noise",
        }
        plain = list(start_generation(runtime, None, [1, 2], GenerationOptions(**options)))
        assert (
            list(
                start_generation(
                    runtime,
                    head_drafter(model.heads, runtime),
                    [1, 2],
                    GenerationOptions(**options),
                )
            )
            == plain
        )


@pytest.mark.parametrize("kind", ["parallel", "token_conditioned"])
def test_drafts_that_equal_the_targets_tokens_are_all_accepted(kind):
    """The model repeats one token, so heads and trunk predict the same from any state."""
    model = model_with(kind)
    for parameter in model.parameters():
        parameter.data[...] = np.abs(parameter.data) if parameter.data.ndim == 1 else 0.0
    model.trunk.embedding.weight.data[:, 0] = 1.0
    model.trunk.embedding.weight.data[7, 0] = 2.0
    runtime = ModelRunner(model.trunk, layers=model.layers)
    run = start_generation(
        runtime,
        head_drafter(model.heads, runtime),
        [1, 2],
        GenerationOptions(max_new_tokens=21, draft_depth=DEPTH),
    )
    assert list(run) == [7] * 21
    assert (
        run.statistics.accepted == run.statistics.drafted
        and run.statistics.tokens_per_step == DEPTH + 1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_packed_heads_draft_like_fake_quantized_heads(kind):
    model = model_with(kind, np.float32)
    packed = round_to_nearest(model, QuantizationSpec())
    faked = prepare_qat(model, QuantizationSpec())
    text = np.random.default_rng(1).integers(0, SHAPE.vocabulary_size, 9)
    runtime = ModelRunner(packed.trunk, layers=packed.layers)
    drafter = head_drafter(packed.heads, runtime)
    drafter.reset(int(text[0]))
    drafter.commit(runtime.forward(text[:-1]).hidden, text[1:])
    rule = Recording()
    drafts, _ = drafter.draft(1, rule)
    expected, logits = trained_draft(faked, text.tolist(), 1)
    np.testing.assert_allclose(rule.seen[:1], logits, rtol=0, atol=2e-3 * np.abs(logits).max())


@pytest.mark.parametrize("table_share", [0, 10])
def test_the_token_conditioned_head_drafts_with_and_without_a_table_of_token_parts(
    monkeypatch, table_share
):
    monkeypatch.setattr(token_conditioned, "TABLE_SHARE", table_share)
    model = model_with("token_conditioned")
    text = [3, 1, 4, 1, 5]
    drafter = head_drafter(model.heads, ModelRunner(model.trunk, layers=model.layers))
    drafter.reset(text[0])
    drafter.commit(model.trunk_states(np.array([text[:-1]])).data[0], np.array(text[1:]))
    rule = Recording()
    drafts, _ = drafter.draft(DEPTH, rule)
    expected, logits = trained_draft(model, text, DEPTH)
    assert drafts.tolist() == expected
    np.testing.assert_allclose(rule.seen, logits, rtol=0, atol=1e-10 * np.abs(logits).max())


@given(least=st.floats(0.05, 1.0), seed=st.integers(0, 20))
def test_a_draft_ends_when_its_probability_falls_below_min_confidence(least, seed):
    model = model_with("token_conditioned", seed=seed)
    text = [3, 1, 4, 1, 5]
    drafter = head_drafter(model.heads, ModelRunner(model.trunk, layers=model.layers))
    drafter.reset(text[0])
    drafter.commit(model.trunk_states(np.array([text[:-1]])).data[0], np.array(text[1:]))
    everything, logits = trained_draft(model, text, DEPTH)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    belief = np.cumprod(1 / exponentials.sum(axis=1))
    drafter.min_confidence = least
    for rule in (Recording(), Greedy()):  # token by token, and in one call
        drafts, _ = drafter.draft(DEPTH, rule)
        assert list(drafts) == everything[: int((belief >= least).sum())]


@pytest.mark.parametrize("kind", KINDS)
def test_fake_quantized_heads_raise_an_error_until_they_are_converted(kind):
    model = model_with(kind, np.float32)
    runtime = ModelRunner(model.trunk, layers=model.layers)
    prepare_qat(model, QuantizationSpec())
    with pytest.raises(TypeError, match="convert the model first"):
        head_drafter(model.heads, runtime)


def test_a_kind_of_heads_without_a_drafter_raises_an_error():
    with pytest.raises(TypeError, match="no drafter for Heads"):
        head_drafter(Heads(), ModelRunner(model_with("parallel").trunk))
