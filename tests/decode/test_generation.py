"""The decoding loop on table models: exact text, cuts, ends, statistics, bad input."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.generation import Generation, Limits
from minimtp.decode.logits_processors import RepetitionPenalty
from minimtp.decode.options import start_generation
from minimtp.decode.rules.block import BlockRule
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.registry import RULES
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling import GREEDY, SamplingParams
from minimtp.decode.stopping import Stop
from minimtp.errors import UserError
from tests.table_models import TableTarget, every_outcome, greedy_text, total_variation

PROMPT = [1, 0, 2]


class Watching(FunctionDrafter):
    """Checks what it is told: each hidden row (position, token of TableTarget) against the text it is building up."""

    reads_hidden = True

    def commit(self, hidden, tokens):
        rows = range(len(self.tokens) - 1, len(self.tokens) - 1 + len(tokens))
        super().commit(hidden, tokens)
        assert hidden.tolist() == [[row, self.tokens[row]] for row in rows]


def guessing(target, seed=0, right=0.6, depth=4):
    """A drafter that knows the greedy continuation and errs at random; it may also draft fewer tokens than asked for."""
    random = np.random.default_rng(seed)

    def function(tokens, wanted, rule):
        best = greedy_text(target, tokens, wanted)
        drafts = [
            token if random.random() < right else int(random.integers(target.vocabulary_size))
            for token in best
        ]
        return drafts[: random.integers(wanted + 1)] if random.random() < 0.2 else drafts, None

    return Watching(function, depth)


def sampling(target, other, depth=3):
    """A drafter that draws from the logits of another table, as a small model would."""

    def function(tokens, wanted, rule):
        tokens, scores = list(tokens), []
        for index in range(wanted):
            drawn, score = rule.sample(other.logits(tokens)[None], index)
            tokens.append(int(drawn[0]))
            scores.append(score)
        return tokens[-wanted:], None if scores[0] is None else np.concatenate(scores)

    return Watching(function, depth)


def drafting(*drafts, depth=None):
    """A drafter that proposes the same tokens every round."""
    return Watching(
        lambda tokens, wanted, rule: (list(drafts[:wanted]), None), depth or len(drafts)
    )


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    context_length=st.integers(3, 30),
    max_new_tokens=st.integers(1, 30),
    depth=st.integers(0, 4),
    right=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    stop=st.sets(st.integers(0, 4), max_size=1),
)
def test_greedy_text_ends_caches_and_statistics_are_those_of_plain_decoding(
    seed, context_length, max_new_tokens, depth, right, stop
):
    target = TableTarget(5, context_length, seed)
    drafter = guessing(target, seed, right)
    run = start_generation(
        target, drafter, PROMPT, max_new_tokens=max_new_tokens, draft_depth=depth, stop_tokens=stop
    )
    text = []
    for round_ in run.rounds():
        text += round_.tokens
        assert target.cache == run.tokens[:-1], (
            "the cache holds the committed tokens without the pending one"
        )
        assert run.tokens == [*PROMPT, *text] and round_.position == len(run.tokens) - len(
            round_.tokens
        )
        assert round_.tokens[: round_.accepted] == round_.drafts[: round_.accepted]
        assert depth == 0 or run.reason is not None or drafter.tokens == run.tokens
        assert len(round_.drafts) <= depth

    expected = greedy_text(target, PROMPT, min(max_new_tokens, context_length + 1 - len(PROMPT)))
    reason = "length" if len(expected) == max_new_tokens else "context"
    for index, token in enumerate(expected):
        if token in stop:
            expected, reason = expected[: index + 1], "stop"
            break
    assert (text, run.reason) == (expected, reason)

    counts = run.statistics
    assert counts.emitted == len(text) and counts.prompt_tokens == len(PROMPT)
    assert sum(counts.drafts_of_length) == sum(counts.drafts_accepted) == counts.steps
    assert all(
        accepted <= drafted
        for accepted, drafted in zip(counts.accepted, counts.drafted, strict=True)
    )
    ended_by_a_draft = reason == "stop" and round_.accepted == len(round_.tokens)
    assert counts.emitted == 1 + counts.steps + sum(counts.accepted) - ended_by_a_draft
    if depth == 0:
        assert counts.steps == len(text) - 1 and counts.tokens_per_step == 1.0


@pytest.mark.parametrize(
    ("wrong_at", "tokens_per_round"),
    [(None, 4), (0, 1), (1, 2), (2, 3)],
    ids=["all right", "first wrong", "middle wrong", "last wrong"],
)
def test_a_mismatch_keeps_the_drafts_before_it_and_corrects_it(wrong_at, tokens_per_round):
    target = TableTarget(seed=3)

    def function(tokens, wanted, rule):
        drafts = greedy_text(target, tokens, wanted)
        if wrong_at is not None and wrong_at < wanted:
            drafts[wrong_at] = (drafts[wrong_at] + 1) % 4
        return drafts, None

    run = start_generation(target, Watching(function, 3), PROMPT, max_new_tokens=13)
    rounds = list(run.rounds())
    assert all(len(round_.tokens) == tokens_per_round for round_ in rounds[1:4])
    assert run.tokens[len(PROMPT) :] == greedy_text(target, PROMPT, 13)


@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    most=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_a_prompt_fed_in_pieces_is_continued_as_one_fed_at_once(prompt, most, seed):
    """The drafter is told of the same rows, which it checks; no piece is larger than the target wants them."""
    texts = []
    for rows in (most, len(prompt)):
        target = TableTarget(seed=seed)
        target.max_rows, fed, forward = rows, [], target.forward
        target.forward = lambda tokens, fed=fed, forward=forward: (
            fed.append(len(tokens)),
            forward(tokens),
        )[1]
        run = start_generation(target, guessing(target, seed), prompt, max_new_tokens=6)
        texts.append(list(run))
        pieces = -(-len(prompt) // rows)
        assert sum(fed[:pieces]) == len(prompt) and max(fed[:pieces]) <= rows
    assert texts[0] == texts[1]


class Reciting(TableTarget):
    """Always wants to say the same text, whatever was said."""

    def __init__(self, text, **options):
        super().__init__(**options)
        self.text = text

    def logits(self, prefix):
        return np.eye(self.vocabulary_size)[self.text[len(prefix)]]


@pytest.mark.parametrize("drafts", [[1, 3, 2, 0], [1, 3], [1], [1, 2], [0], []], ids=str)
def test_a_stop_token_ends_the_text_exactly_there_wherever_it_was_drafted(drafts):
    target = Reciting([0, 0, 1, 3, 2, 0, 1, 1], vocabulary_size=4, context_length=8)
    run = start_generation(
        target, drafting(*drafts, depth=4), [0], max_new_tokens=7, stop_tokens=[3]
    )
    rounds = list(run.rounds())
    assert run.tokens == [0, 0, 1, 3] and run.reason == "stop"
    assert target.cache == [0, 0, 1], "the stop token was committed, and stays pending"
    assert rounds[1].drafts == drafts[:2] if drafts[1:2] == [3] else rounds[1].drafts == drafts


def test_a_drafted_stop_token_that_is_rejected_does_not_end_the_text():
    target = Reciting([0, 0, 1, 1, 2, 2], vocabulary_size=4, context_length=6)
    run = start_generation(target, drafting(3, 3), [0], max_new_tokens=4, stop_tokens=[3])
    assert list(run) == [0, 1, 1, 2] and run.reason == "length"


def test_stop_comes_before_length_and_length_before_context():
    def reason(stop, max_new_tokens, context_length):
        run = start_generation(
            TableTarget(1, context_length),
            None,
            [0],
            max_new_tokens=max_new_tokens,
            stop_tokens=stop,
        )
        return len(list(run)), run.reason

    assert reason([0], 1, 1) == (1, "stop")
    assert reason([], 1, 1) == (1, "length")
    assert reason([], 2, 1) == (1, "context")


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_prompt_of_the_whole_context_still_gives_the_one_token_that_follows_it(depth):
    target = TableTarget(context_length=6)
    prompt = [0, 1, 2, 3, 0, 1]
    run = start_generation(target, guessing(target), prompt, max_new_tokens=9, draft_depth=depth)
    assert list(run) == greedy_text(target, prompt, 1) and run.reason == "context"


def test_max_new_one_makes_one_pass_and_drafts_nothing():
    target, drafter = TableTarget(), drafting(0, 1)
    run = start_generation(target, drafter, PROMPT, max_new_tokens=1)
    assert len(list(run.rounds())) == 1 and run.reason == "length"
    assert run.statistics.steps == 0 and run.statistics.tokens_per_step == 1.0
    assert run.statistics.tokens_per_second == 0.0


def test_the_prompt_is_fed_once_and_each_step_feeds_the_pending_token_and_the_drafts():
    fed, target = [], Reciting([0, 0, 1, 1, 2, 2, 3], vocabulary_size=4, context_length=9)
    forward = target.forward
    target.forward = lambda tokens: (fed.append(tokens.tolist()), forward(tokens))[1]
    list(start_generation(target, drafting(1, 2, 0), [0, 0], max_new_tokens=4))
    assert fed == [
        [0, 0],
        [1, 1, 2],
    ]  # 4 - 1 - 1: the last of three drafts could not have been emitted


def test_tokens_stream_one_by_one_and_work_happens_only_when_asked_for():
    target = TableTarget()
    run = start_generation(target, guessing(target, right=1.0), PROMPT, max_new_tokens=12)
    assert target.length == 0
    first = next(run)
    assert target.length == len(PROMPT) and run.statistics.emitted == 1
    second = next(run)
    assert [first, second, *run] == greedy_text(target, PROMPT, 12)
    assert list(run) == [] and run.reason == "length"


def test_a_new_text_starts_from_an_empty_cache():
    target = TableTarget()
    first = list(start_generation(target, guessing(target), PROMPT, max_new_tokens=8))
    assert list(start_generation(target, guessing(target), PROMPT, max_new_tokens=8)) == first


def exact_law(target, law, max_new_tokens, stop):
    """{text: probability} of plain sampling, by multiplying the laws of every prefix."""
    texts = {}

    def extend(text, probability):
        if len(text) == max_new_tokens or (text and text[-1] in stop):
            texts[tuple(text)] = probability
            return
        for token, share in enumerate(law.probabilities(target.logits([*PROMPT, *text])[None])[0]):
            if share > 0:
                extend([*text, token], probability * share)

    extend([], 1.0)
    return texts


@pytest.mark.parametrize(
    "law",
    [SamplingParams(), SamplingParams(0.6, top_k=2), SamplingParams(1.3, top_p=0.8)],
    ids=["plain", "top-k", "top-p"],
)
@pytest.mark.parametrize(("depth", "stop"), [(0, ()), (1, ()), (2, (0,)), (3, ())], ids=str)
@pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
def test_the_law_of_sampled_text_is_exactly_the_targets_with_and_without_drafts(
    kind, law, depth, stop
):
    target, other = TableTarget(3, seed=1, sharpness=1.0), TableTarget(3, seed=2, sharpness=1.0)

    def text(rng):
        drafter = sampling(target, other) if depth else None
        run = Generation(target, drafter, PROMPT, kind(law, rng), Limits(4, depth, stop=Stop(stop)))
        return tuple(run)

    assert total_variation(every_outcome(text), exact_law(target, law, 4, stop)) <= 1e-12


def test_sampling_is_by_shared_noise_where_nothing_else_is_said():
    target, other = TableTarget(sharpness=0.5), TableTarget(seed=1, sharpness=0.5)
    options = {"max_new_tokens": 20, "sampling": SamplingParams(), "seed": 3}
    texts = [
        tuple(start_generation(target, None, PROMPT, **options, rule=rule))
        for rule in ("shared-noise", "token")
    ]
    assert (
        tuple(start_generation(target, sampling(target, other), PROMPT, **options))
        == texts[0]
        != texts[1]
    )


def test_sample_and_match_gives_the_same_text_with_any_drafter_that_draws_nothing():
    for seed in range(25):
        target, other = (
            TableTarget(seed=seed, sharpness=1.0),
            TableTarget(seed=seed + 1, sharpness=1.0),
        )
        drafters = [
            None,
            guessing(target, seed),
            sampling(target, other),
            sampling(target, target),
            drafting(0, 1, 2),
        ]
        options = {
            "max_new_tokens": 20,
            "sampling": SamplingParams(0.8),
            "seed": seed,
            "rule": "match",
        }
        assert (
            len(
                {
                    tuple(start_generation(target, drafter, PROMPT, **options))
                    for drafter in drafters
                }
            )
            == 1
        )


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.3])
def test_with_shared_noise_the_same_seed_gives_the_same_text_with_any_drafter(temperature):
    law = SamplingParams(temperature)
    for seed in range(25):
        target, other = (
            TableTarget(seed=seed, sharpness=1.0),
            TableTarget(seed=seed + 1, sharpness=1.0),
        )
        drafters = [
            None,
            guessing(target, seed),
            sampling(target, other),
            sampling(target, target),
            drafting(0, 1, 2),
        ]
        texts = {
            tuple(
                start_generation(
                    target,
                    drafter,
                    PROMPT,
                    max_new_tokens=20,
                    sampling=law,
                    seed=seed,
                    rule="shared-noise",
                )
            )
            for drafter in drafters
        }
        assert len(texts) == 1


def test_with_shared_noise_a_drafter_that_knows_the_target_is_always_right():
    target = TableTarget(sharpness=1.0)
    run = start_generation(
        target,
        sampling(target, target),
        PROMPT,
        max_new_tokens=21,
        sampling=SamplingParams(),
        seed=4,
        rule="shared-noise",
    )
    assert len(list(run)) == 21 and run.statistics.accepted == run.statistics.drafted
    assert run.statistics.tokens_per_step == 4.0


@pytest.mark.parametrize("rule", RULES)
def test_the_seed_decides_the_text(rule):
    target, other = TableTarget(sharpness=0.5), TableTarget(seed=1, sharpness=0.5)

    def text(seed):
        return tuple(
            start_generation(
                target,
                sampling(target, other),
                PROMPT,
                max_new_tokens=20,
                sampling=SamplingParams(),
                seed=seed,
                rule=rule,
            )
        )

    assert text(0) == text(0)
    assert len({text(seed) for seed in range(5)}) == 5


@pytest.mark.parametrize("rule", RULES)
def test_sampled_text_keeps_the_cache_invariant_and_its_length(rule):
    for seed, (context_length, max_new_tokens) in enumerate(
        itertools.product([3, 4, 7, 30], [1, 2, 5, 12])
    ):
        target, other = (
            TableTarget(context_length=context_length, seed=seed),
            TableTarget(seed=seed + 9),
        )
        run = start_generation(
            target,
            sampling(target, other),
            PROMPT,
            max_new_tokens=max_new_tokens,
            sampling=SamplingParams(),
            seed=seed,
            rule=rule,
        )
        for _ in run.rounds():
            assert target.cache == run.tokens[:-1]
        assert len(run.tokens) - len(PROMPT) == min(
            max_new_tokens, context_length + 1 - len(PROMPT)
        )


@pytest.mark.parametrize(
    "drafts", [[4], [-1], [0, 0, 0, 0]], ids=["unknown token", "negative token", "too many"]
)
def test_a_faulty_drafter_is_an_error_and_not_a_wrong_text(drafts):
    drafter = FunctionDrafter(lambda tokens, depth, rule: (drafts, None), 3)
    with pytest.raises(ValueError, match="FunctionDrafter gave"):
        list(start_generation(TableTarget(), drafter, PROMPT, max_new_tokens=20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": "text"}, "a prompt must be a sequence of token ids"),
        ({"prompt": [0.5]}, "a prompt must be a sequence of token ids"),
        ({"prompt": [[0, 1]]}, "a prompt must be a sequence of token ids"),
        ({"prompt": [0] * 33}, "the prompt has 33 tokens and the model's context is 32"),
        ({"prompt": [0, 4]}, "the prompt contains token 4, but the model knows only 0 to 3"),
        ({"prompt": [-1]}, "the prompt contains token -1"),
        ({"prompt": b"byte"}, "the prompt contains token 98"),
        ({"max_new_tokens": 0}, "the number of new tokens must be"),
        ({"max_new_tokens": 1.5}, "the number of new tokens must be"),
        ({"seed": -1}, "a seed must be"),
        ({"draft_depth": 4}, "this drafter drafts at most 3 tokens"),
        ({"draft_depth": -1}, "draft depth -1 is not possible"),
        ({"drafter": None, "draft_depth": 1}, "there is no drafter"),
        ({"rule": "typical"}, "unknown verification rule 'typical'"),
        ({"tree": -1}, "the number of drafts in a tree must be a whole number"),
        ({"tree": 4}, "a Watching drafts chains only"),
        ({"tree": 33}, "a tree of 33 drafts is larger than the model's context: use at most 32"),
        (
            {"tree": 10**12, "drafter": None},
            "a tree of 1000000000000 drafts is larger than the model's context",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(options, message):
    target = TableTarget()
    options = {
        "drafter": drafting(0, 1, 2),
        "prompt": PROMPT,
        "max_new_tokens": 3,
        "sampling": GREEDY,
    } | options
    with pytest.raises(UserError, match=message) as caught:
        start_generation(target, **options)
    assert "\n" not in str(caught.value) and target.length == 0


class TreeDrafting(Watching):
    """Grows trees from the logits of another table."""

    def __init__(self, other, depth=4):
        super().__init__(None, depth)
        self.other = other

    def draft_tree(self, nodes, depth, rule, min_acceptance):
        def follow(node, parent, path):
            return self.other.logits([*self.tokens, *path])[None]

        return grow(self.tokens[-1], follow, rule, nodes, depth, min_acceptance)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    context_length=st.integers(3, 30),
    max_new_tokens=st.integers(1, 30),
    nodes=st.integers(1, 9),
    same=st.booleans(),
    stop=st.sets(st.integers(0, 4), max_size=1),
)
def test_with_trees_greedy_text_ends_caches_and_statistics_are_those_of_plain_decoding(
    seed, context_length, max_new_tokens, nodes, same, stop
):
    target, nodes = TableTarget(5, context_length, seed), min(nodes, context_length)
    drafter = TreeDrafting(TableTarget(5, context_length, seed if same else seed + 1))
    plain = start_generation(target, None, PROMPT, max_new_tokens=max_new_tokens, stop_tokens=stop)
    expected = list(plain)
    run = start_generation(
        target, drafter, PROMPT, max_new_tokens=max_new_tokens, tree=nodes, stop_tokens=stop
    )
    text = []
    for round_ in run.rounds():
        text += round_.tokens
        assert target.cache == run.tokens[:-1], (
            "the cache holds the committed tokens without the pending one"
        )
        assert run.tokens == [*PROMPT, *text]
        assert run.reason is not None or drafter.tokens == run.tokens
        assert (
            round_.tokens[: round_.accepted] == round_.drafts[: round_.accepted]
            and len(round_.drafts) <= nodes
        )
    assert (text, run.reason) == (expected, plain.reason)
    counts = run.statistics
    assert counts.emitted == len(text)
    assert sum(counts.drafts_of_length) == sum(counts.drafts_accepted) == counts.steps
    if same:
        assert counts.accepted == counts.drafted


@pytest.mark.parametrize(
    "law",
    [SamplingParams(), SamplingParams(0.6, top_k=2), SamplingParams(1.3, top_p=0.8)],
    ids=["plain", "top-k", "top-p"],
)
@pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
def test_with_trees_the_law_of_sampled_text_is_exactly_the_targets(kind, law):
    target, other = TableTarget(3, seed=1, sharpness=1.0), TableTarget(3, seed=2, sharpness=1.0)

    def text(rng):
        drafter = TreeDrafting(other, depth=2)
        return tuple(
            Generation(target, drafter, PROMPT, kind(law, rng), Limits(4, 2, 3, Stop([0])))
        )

    assert total_variation(every_outcome(text), exact_law(target, law, 4, [0])) <= 1e-12


@pytest.mark.parametrize("rule", ["shared-noise", "match"])
def test_with_trees_the_same_seed_gives_the_text_of_plain_decoding(rule):
    for seed in range(25):
        target, other = (
            TableTarget(seed=seed, sharpness=1.0),
            TableTarget(seed=seed + 1, sharpness=1.0),
        )
        options = {
            "max_new_tokens": 20,
            "sampling": SamplingParams(0.9),
            "seed": seed,
            "rule": rule,
        }
        plain = list(start_generation(target, None, PROMPT, **options))
        for nodes, drafts in itertools.product([1, 3, 8], [other, target]):
            run = start_generation(target, TreeDrafting(drafts), PROMPT, tree=nodes, **options)
            assert list(run) == plain
            if drafts is target and rule == "shared-noise":
                assert run.statistics.accepted == run.statistics.drafted


def test_processors_see_the_path_that_leads_to_a_row_of_a_tree():
    for seed, rule in itertools.product(range(10), ["shared-noise", "match"]):
        target, other = (
            TableTarget(seed=seed, sharpness=1.0),
            TableTarget(seed=seed + 1, sharpness=1.0),
        )
        options = {
            "max_new_tokens": 20,
            "sampling": SamplingParams(0.9),
            "seed": seed,
            "rule": rule,
            "logits_processors": [RepetitionPenalty(1.5)],
        }
        plain = list(start_generation(target, None, PROMPT, **options))
        for drafts in (other, target):
            assert (
                list(start_generation(target, TreeDrafting(drafts), PROMPT, tree=6, **options))
                == plain
            )
