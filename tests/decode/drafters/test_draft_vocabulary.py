"""A head that drafts only some of the tokens: the text stays the target's own, by every rule."""

import itertools

import pytest

from minimtp.backend import numpy as np
from minimtp.decode.drafters.heads import head_drafter
from minimtp.decode.generation import Generation, Limits
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.block import BlockRule
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.registry import RULES, make_rule
from minimtp.decode.rules.rule import VocabularyScores
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.heads import MultiTokenModel
from minimtp.model.transformer import Transformer
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from tests.helpers.heads import WITH_LAYERS, heads_of
from tests.helpers.table_models import every_outcome, exact_distribution, total_variation

PROMPT, DEPTH = [1, 0, 2], 4
KINDS = ["token_conditioned", WITH_LAYERS, "eagle3"]


def model_with(ids, vocabulary_size=4, dtype=np.float64, seed=0, tied=True, kind=KINDS[0]):
    """Return a small model of random weights, whose head drafts the tokens `ids` (None: all)."""
    config = ModelConfig(
        vocabulary_size=vocabulary_size, context_length=24, num_layers=1, hidden_size=32,
        num_heads=2, num_kv_heads=1, intermediate_size=64, tied_embeddings=tied,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    size = None if ids is None else len(ids)
    heads = heads_of(kind, DEPTH, config, rng, draft_vocabulary_size=size)
    model = MultiTokenModel(Transformer(config, rng), heads)

    def random(array):
        if array.ndim == 1:
            return rng.uniform(0.5, 1.5, array.shape).astype(dtype)
        return (array.shape[1] ** -0.5 * rng.standard_normal(array.shape)).astype(dtype)

    map_parameters(model, random)
    if ids is not None:
        heads.draft_vocabulary.ids.data = np.array(ids, np.int32)
    return model


class TableOf:
    """The logits of a trunk after any text, for `exact_distribution`."""

    def __init__(self, trunk):
        self.trunk, self.table = trunk, {}

    def logits(self, prefix):
        prefix = tuple(prefix)
        if prefix not in self.table:
            runner = ModelRunner(self.trunk)
            self.table[prefix] = runner.forward(np.array(prefix)).logits[-1]
        return self.table[prefix]


def drafter_after(model, text):
    drafter = head_drafter(model.heads, ModelRunner(model.trunk, layers=model.layers))
    drafter.reset(text[0])
    drafter.commit(model.trunk_states(np.array([text[:-1]])).data[0], np.array(text[1:]))
    return drafter


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "params",
    [SamplingParams(), SamplingParams(0.7, top_k=2), SamplingParams(1.3, top_p=0.8)],
    ids=["plain", "top-k", "top-p"],
)
@pytest.mark.parametrize("nodes", [0, 3], ids=["chain", "tree"])
@pytest.mark.parametrize("rule", [TokenRule, BlockRule, Match])
@pytest.mark.parametrize("ids", [[1, 3], [2]], ids=str)
def test_text_drafted_from_some_tokens_has_exactly_the_targets_distribution(
    ids, rule, nodes, params, kind
):
    model = model_with(ids, kind=kind)
    runner = ModelRunner(model.trunk, layers=model.layers)
    drafted = []

    def text(rng):
        drafter = head_drafter(model.heads, runner)
        limits = Limits(3, draft_depth=2, tree_nodes=nodes)
        run = Generation(DecodingStates(runner, drafter), PROMPT, rule(params, rng), limits)
        rounds = list(run.rounds())
        drafted.extend(token for round_ in rounds for token in round_.drafts)
        return tuple(token for round_ in rounds for token in round_.tokens)

    found = every_outcome(text)
    expected = exact_distribution(TableOf(model.trunk), params, PROMPT, 3)
    assert total_variation(found, expected) <= 1e-12
    assert drafted and set(drafted) <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("tree", [0, 7])
@pytest.mark.parametrize("rule", ["shared-noise", "match"])
def test_the_same_seed_gives_the_same_text_when_only_some_tokens_are_drafted(
    rule, tree, dtype, kind
):
    model = model_with(range(0, 40, 3), vocabulary_size=40, dtype=dtype, kind=kind)
    for seed, sampling in itertools.product(
        range(4), [GREEDY, SamplingParams(0.8), SamplingParams(1.0, top_k=9)]
    ):
        options = {"max_new_tokens": 18, "sampling": sampling, "seed": seed, "rule": rule}
        runner = ModelRunner(model.trunk, layers=model.layers)
        plain = list(start_generation(runner, None, [1, 2], GenerationOptions(**options)))
        drafter = head_drafter(model.heads, runner)
        options |= {"tree": tree, "draft_depth": 3}
        run = start_generation(runner, drafter, [1, 2], GenerationOptions(**options))
        assert list(run) == plain and sum(run.statistics.drafted) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_drafts_and_logits_are_those_of_the_training_code_at_the_rows_of_the_vocabulary(tied, kind):
    ids, text = [0, 3, 4, 11, 12, 19], [3, 1, 4, 1, 5]
    model = model_with(ids, vocabulary_size=20, tied=tied, kind=kind)
    drafts = drafter_after(model, text).draft(DEPTH, Greedy())[0]
    for k in range(DEPTH):
        known = [*text[1:], *drafts[:k], *[0] * DEPTH]
        following = np.array([[known[row : row + DEPTH] for row in range(len(text) - 1)]])
        with no_grad():
            hidden = model.trunk_states(np.array([text[:-1]]))
            states = list(model.heads.states(hidden, following, model.trunk))
            logits = model.draft_logits(states[k]).data[0, -1]
            every = model.logits(states[k]).data[0, -1]
        np.testing.assert_allclose(logits, every[ids], rtol=1e-12)
        assert drafts[k] == ids[int(logits.argmax())]


SAMPLINGS = [SamplingParams(0.6), SamplingParams(1.0), SamplingParams(0.8, top_k=6, top_p=0.7)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", [GREEDY, *SAMPLINGS], ids=str)
@pytest.mark.parametrize("rule", ["shared-noise", "match"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_chains_and_trees_of_some_tokens_equal_those_sampled_token_by_token(
    rule, sampling, dtype, kind
):
    model = model_with(range(1, 40, 2), vocabulary_size=40, dtype=dtype, kind=kind)
    drafter = drafter_after(model, [3, 1, 4, 1, 5])
    for seed in range(20):
        whole, asked = (make_rule(rule, sampling, seed, 40, 5) for _ in range(2))
        asked.perturbed_argmax = lambda depth, xp=np: None
        for least in (0.0, 0.02):
            drafter.min_confidence = least
            drafts = list(drafter.draft(DEPTH, whole)[0])
            assert drafts == list(drafter.draft(DEPTH, asked)[0])
            one, other = (drafter.draft_tree(9, DEPTH, by, least) for by in (whole, asked))
            assert (one.tokens, one.depths) == (other.tokens, other.depths)
            assert all(token % 2 for token in [*drafts, *one.tokens[1:]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_chains_sampled_in_one_call_have_scores_of_the_vocabulary_alone(
    rule, sampling, dtype, kind
):
    ids = list(range(1, 40, 2))
    model = model_with(ids, vocabulary_size=40, dtype=dtype, kind=kind)
    drafter = drafter_after(model, [3, 1, 4, 1, 5])
    for seed in range(20):
        whole, asked = (make_rule(rule, sampling, seed, 40, 5) for _ in range(2))
        asked.softmax_points = lambda depth: None
        drafts, scores = drafter.draft(DEPTH, whole)
        expected, rows = drafter.draft(DEPTH, asked)
        assert drafts.tolist() == expected.tolist() and set(drafts) <= set(ids)
        assert scores.tokens.tolist() == ids
        assert scores.scores.tolist() == rows[:, ids].tolist()
        assert scores[:2].scores.shape == (2, len(ids))
        logits = np.random.default_rng(seed).standard_normal((DEPTH + 1, 40)).astype(dtype)
        assert whole.verify(logits, drafts, scores) == asked.verify(logits, expected, rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_vocabulary_of_all_tokens_drafts_what_a_head_without_one_drafts(rule, kind):
    for seed in range(5):
        drafts = []
        for ids in (None, range(20)):
            drafter = drafter_after(model_with(ids, 20, kind=kind), [3, 1, 4, 1, 5])
            by = make_rule(rule, SamplingParams(0.9), seed, 20, 5)
            drafted, scores = drafter.draft(DEPTH, by)
            scores = scores.scores if isinstance(scores, VocabularyScores) else scores
            drafts.append([np.asarray(part).tolist() for part in (drafted, scores)])
            by = make_rule(rule, SamplingParams(0.9), seed, 20, 5)
            drafts[-1].append(list(drafter.draft_tree(9, DEPTH, by, 0.0).tokens))
        assert drafts[0] == drafts[1]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_of_the_output_are_copied_as_they_are_and_draft_the_same_text(kind):
    model = model_with(range(0, 40, 3), 40, np.float32, kind=kind)
    packed = round_to_nearest(model, QuantizationSpec())
    ids = packed.heads.draft_vocabulary.ids.data
    assert ids.tolist() == list(range(0, 40, 3))
    selected = packed.trunk.output_matrix.select(ids)
    assert np.array_equal(selected.packed, packed.trunk.embedding.packed[ids])
    runner = ModelRunner(packed.trunk, layers=packed.layers)
    plain = list(start_generation(runner, None, [1, 2], GenerationOptions(max_new_tokens=18)))
    drafter = head_drafter(packed.heads, runner)
    run = start_generation(runner, drafter, [1, 2], GenerationOptions(max_new_tokens=18))
    assert list(run) == plain and sum(run.statistics.drafted) > 0
