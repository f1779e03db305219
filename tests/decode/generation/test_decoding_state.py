"""After every round, all decoding state equals what is computed from scratch on the committed
tokens.

The state is the cache of the trunk, the caches and states of the heads, and the cache of a draft
model. The tests vary acceptance, draft lengths, stops, the end of the context, and batches. They
use float64, so tokens fed in pieces and tokens fed at once agree up to a small rounding error.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.batch import row_seed, start_batch
from minimtp.decode.drafters.combined import CombinedDrafter
from minimtp.decode.drafters.heads import head_drafter
from minimtp.decode.drafters.heads.eagle3 import Eagle3Drafter
from minimtp.decode.drafters.heads.sequential import SequentialModule
from minimtp.decode.drafters.model import ModelDrafter
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from tests.decode.drafters.helpers import SHAPE, model_with

KINDS = ["parallel", "sequential", "token_conditioned", "eagle3", "model", "ngram", "combined"]
OTHERS = ("model", "ngram", "combined")  # with the heads, if any, of a token-conditioned model
TOLERANCE = 1e-10  # float64 sums of 64 terms, through one block with weights of magnitude one
PLAIN = {}


class CorrectedDrafter:
    """Replaces many drafts of a drafter by the next tokens of the target.

    Otherwise nearly all drafts would be rejected, because the heads are untrained. The drafter must
    also work if the verified drafts differ from those that it made and stored.
    """

    min_confidence = 0.0
    reads_hidden = True

    def __init__(self, drafter, answers, right):
        self.drafter, self.answers, self.right = drafter, answers, right
        self.max_depth, self.position = drafter.max_depth, 0

    def clone(self):
        return CorrectedDrafter(self.drafter.clone(), self.answers, self.right)

    def reset(self, first_token):
        self.position = 1
        self.prompt = [first_token]
        self.drafter.reset(first_token)

    def commit(self, hidden, tokens):
        self.prompt += tokens.tolist()
        self.drafter.commit(hidden, tokens)

    def draft(self, depth, rule):
        drafts, scores = self.drafter.draft(depth, rule)
        drafts = [int(draft) for draft in drafts] or [0] * depth
        known = self.answers(self.prompt)
        random = np.random.default_rng(len(self.prompt))
        for index in range(len(drafts)):
            if index < len(known) and random.random() < self.right:
                drafts[index] = known[index]
        return drafts, None


class RandomPolicy:
    """Plans a random draft depth for a few rounds."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def choose(self, max_drafts, length, statistics):
        drafts = int(self.random.integers(0, max_drafts + 1))
        return DraftPlan(drafts, rounds=int(self.random.integers(1, 4)))


def decoder(kind, context_length):
    model = model_with("token_conditioned" if kind in OTHERS else kind)
    target = ModelRunner(model.trunk, context_length, layers=model.layers)
    if kind == "model":
        return target, ModelDrafter(
            ModelRunner(model_with("parallel", seed=5).trunk, max(3, context_length - 2)), 4
        )
    if kind == "ngram":
        return target, NgramDrafter(4, min_length=1)
    heads = head_drafter(model.heads, target)
    return target, CombinedDrafter(heads) if kind == "combined" else heads


def assert_equal_caches(cache, expected, what):
    rows = slice(cache.length)
    assert cache.length <= expected.length, what
    np.testing.assert_allclose(
        cache.keys[..., rows], expected.keys[..., rows], rtol=0, atol=TOLERANCE, err_msg=what
    )
    np.testing.assert_allclose(
        cache.values[:, rows], expected.values[:, rows], rtol=0, atol=TOLERANCE, err_msg=what
    )


def check(target, drafter, tokens):
    """Compare the state of target and drafter with that of clones that see all `tokens` at once."""
    fresh = target.clone()
    hidden = fresh.forward(np.array(tokens[:-1])).hidden
    assert target.length == len(tokens) - 1
    assert_equal_caches(target.cache, fresh.cache, "the trunk's cache")
    if drafter.prompt != tokens:  # in a pause: the drafter receives them with the next draft
        assert drafter.prompt == tokens[: len(drafter.prompt)]
        return
    drafter = drafter.drafter
    if isinstance(drafter, CombinedDrafter):
        lookup = drafter._lookup
        assert lookup._tokens[lookup._start :] == tokens
        drafter._backlog.deliver()
        drafter = drafter._heads
    if isinstance(drafter, NgramDrafter):
        assert [ord(letter) for letter in drafter._text] == tokens
    elif isinstance(drafter, ModelDrafter):
        if len(tokens) <= drafter.model.context_length:
            assert drafter.model.length <= len(tokens) - 1
            fresh = drafter.model.clone()
            fresh.forward(np.array(tokens[:-1]))
            assert_equal_caches(drafter.model.cache, fresh.cache, "the draft model's cache")
    elif isinstance(drafter, Eagle3Drafter):
        check_eagle3(drafter, hidden, tokens)
    elif hasattr(drafter, "_heads"):
        check_heads(drafter, hidden, tokens)
    else:
        np.testing.assert_allclose(drafter._hidden[0], hidden[-1], rtol=0, atol=TOLERANCE)
        assert drafter._pending == tokens[-1]


def check_eagle3(drafter, hidden, tokens):
    """Compare the committed rows, and the state of the last, with those of a clone that reads all
    of them at once.
    """
    fresh = drafter.clone()
    fresh.reset(tokens[0])
    fresh.commit(hidden, np.array(tokens[1:]))
    for each in (drafter, fresh):
        each._catch_up()
        assert each._rows == each._head.cache.length == len(tokens) - 1
        assert each._pending == tokens[-1]
    assert_equal_caches(drafter._head.cache, fresh._head.cache, "the head's cache")
    np.testing.assert_allclose(drafter._state, fresh._state, rtol=0, atol=TOLERANCE)


def check_heads(drafter, hidden, tokens):
    """Compare the rows of each head with those of a clone that sees the true hidden states."""
    fresh = drafter.clone()
    fresh.reset(tokens[0])
    fresh.commit(hidden, np.array(tokens[1:]))
    fresh._catch_up()
    for number, (head, expected) in enumerate(
        zip(drafter._heads, fresh._heads, strict=True), start=1
    ):
        # Sequential module k reads k tokens ahead.
        ahead = number - 1 if isinstance(head, SequentialModule) else 0
        assert head.cache.length <= max(0, len(tokens) - 1 - ahead), "a provisional row was kept"
        assert_equal_caches(head.cache, expected.cache, f"the cache of head {number}")
        rows = slice(head.cache.length)
        np.testing.assert_allclose(head.states[rows], expected.states[rows], rtol=0, atol=TOLERANCE)


def plain_text(kind, prompt, context_length):
    """Return the greedy text of the target to the end of the context, computed once."""
    key = kind, tuple(prompt), context_length
    if key not in PLAIN:
        PLAIN[key] = list(
            start_generation(
                decoder(kind, context_length)[0],
                None,
                prompt,
                GenerationOptions(max_new_tokens=context_length),
            )
        )
    return PLAIN[key]


prompts = st.lists(st.integers(0, SHAPE.vocabulary_size - 1), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(
    prompts=st.lists(prompts, min_size=1, max_size=3),
    context_length=st.integers(8, SHAPE.context_length),
    max_new_tokens=st.integers(1, 30),
    depth=st.integers(1, 4),
    right=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    stop_at=st.integers(0, 60),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_after_every_round_all_caches_equal_those_computed_from_scratch(
    kind, prompts, context_length, max_new_tokens, depth, right, stop_at, seed, temperature
):
    target, drafter = decoder(kind, context_length)
    texts = {tuple(prompt): plain_text(kind, prompt, context_length) for prompt in prompts}
    whole = texts[tuple(prompts[0])]
    stop = {whole[stop_at]} if stop_at < len(whole) else set()

    def answers(tokens):
        for prompt, text in texts.items():
            if tuple(tokens) == (*prompt, *text)[: len(tokens)]:
                return text[len(tokens) - len(prompt) :]
        return []

    options = dict(
        max_new_tokens=max_new_tokens,
        sampling=SamplingParams(temperature),
        stop_tokens=stop,
        rule="shared-noise",
    )
    corrected = CorrectedDrafter(drafter, answers, right)
    batch = start_batch(
        DecodingStates(target, corrected, lambda target: RandomPolicy(seed)),
        prompts,
        GenerationOptions(seed=seed, draft_depth=depth, **options),
    )
    for row, _ in batch.rounds():
        if batch.rows[row].reason is None:
            state = batch.rows[row]._state
            check(state.target, state.drafter, batch.rows[row].tokens)
    for row, prompt in enumerate(prompts):
        alone = start_generation(
            decoder(kind, context_length)[0],
            None,
            prompt,
            GenerationOptions(seed=row_seed(seed, row), **options),
        )
        assert list(alone) == batch.rows[row].tokens[len(prompt) :]
        assert alone.reason == batch.rows[row].reason


@pytest.mark.parametrize("accepted", range(5))
def test_a_draft_model_keeps_the_cache_rows_of_accepted_drafts_only(accepted):
    _, drafter = decoder("model", 24)
    fed = []
    forward = drafter.model.forward
    drafter.model.forward = lambda tokens: (fed.append(tokens.tolist()), forward(tokens))[1]
    drafter.reset(1)
    drafter.commit(None, np.array([2, 3]))
    drafts = drafter.draft(4, Greedy())[0].tolist()
    assert fed == [[1, 2, 3], *[[draft] for draft in drafts[:3]]]
    correction = 39 - drafts[min(accepted, 3)]
    drafter.commit(None, np.array([*drafts[:accepted], correction]))
    assert drafter.model.length == 3 + min(accepted, 3)
    fed.clear()
    drafter.draft(1, Greedy())
    assert fed == [[*drafts[3:accepted], correction]]
