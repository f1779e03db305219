"""Drafted text is the model's own: token for token, for every kind of head, in the precision that really runs.

The slow proofs take MINIMTP_TEXTS prompts, 10 if it is not set:

    MINIMTP_TEXTS=1000 pytest -n0 -s -m slow tests/decode/test_exactness.py
"""

import os

import pytest

import minimtp
from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.bench.agreement import TIE
from minimtp.bench.decode.weight_formats import ROUNDED
from minimtp.decode.decoder import deploy
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.options import start_generation
from minimtp.decode.rules.registry import RULES
from minimtp.decode.sampling import GumbelNoise, SamplingParams
from minimtp.engine.module import map_parameters
from minimtp.model.config import ModelConfig
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.transformer import Transformer
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.training.presets import PRESETS
from minimtp.training.recipe import Recipe

SHAPE = ModelConfig(
    vocabulary_size=61,
    context_length=96,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)
compiled = pytest.mark.skipif(
    kernels.describe()[0] != "cpu", reason="Numba is missing: plain float32 products vary by shape"
)


def decoder(kind, form, shape=SHAPE):
    rng = np.random.default_rng(3)
    model = MultiTokenModel(Transformer(shape, rng), HEADS[kind](5, shape, rng))
    dtype = np.float64 if form == "float64" else np.float32
    map_parameters(
        model, lambda array: (array + 0.3 * rng.standard_normal(array.shape)).astype(dtype)
    )
    return deploy(round_to_nearest(model, ROUNDED[form]) if form in ROUNDED else model)


def count_equal(kind, form, prompts, rule, law):
    """How many of `prompts` random prompts, continued to the context's end, read the same with and without drafts."""
    target, drafter = decoder(kind, form)
    rng, equal = np.random.default_rng(4), 0
    for seed in range(prompts):
        prompt = rng.integers(0, SHAPE.vocabulary_size, rng.integers(1, 20))
        texts = []
        for depth in (0, int(rng.integers(1, drafter.max_depth + 1))):
            run = start_generation(
                target,
                drafter,
                prompt,
                max_new_tokens=90,
                sampling=law,
                seed=seed,
                draft_depth=depth,
                rule=rule,
            )
            list(run)
            texts.append(run.tokens)
        equal += texts[0] == texts[1]
    return equal


COMPILED = ["float32", *ROUNDED]
FORMS = ["float64", *(pytest.param(form, marks=compiled) for form in COMPILED)]
each_rule = pytest.mark.parametrize(
    ("rule", "temperature"), [("token", 0.0), ("shared-noise", 0.7), ("shared-noise", 1.3)]
)
TEXTS = int(os.environ.get("MINIMTP_TEXTS", 10))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", HEADS)
def test_greedy_text_is_the_same_with_and_without_drafts(kind, form):
    assert count_equal(kind, form, 4, "token", SamplingParams(0.0)) == 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", HEADS)
def test_with_shared_noise_sampled_text_is_the_same_with_and_without_drafts(kind, form):
    assert count_equal(kind, form, 4, "shared-noise", SamplingParams(0.8)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@each_rule
@pytest.mark.parametrize("kind", HEADS)
def test_a_hundred_texts_are_the_same_with_and_without_drafts(kind, form, rule, temperature):
    assert count_equal(kind, form, 100, rule, SamplingParams(temperature)) == 100


@each_rule
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("texts", [10, pytest.param(10 * TEXTS, marks=pytest.mark.slow)])
def test_text_is_the_same_where_most_of_up_to_15_drafts_are_accepted(
    texts, form, rule, temperature
):
    """Untrained heads are nearly always wrong, and then the first row of a pass is all that is used of it. Here the drafts are
    the text itself, one token in twenty replaced."""
    (target, _), rng = decoder("parallel", form), np.random.default_rng(6)
    drafted, accepted, passes = 0, 0, np.zeros(17, int)

    def nearly(tokens, depth, _):
        drafts = plain.tokens[len(tokens) : len(tokens) + rng.integers(1, depth + 1)]
        return [
            (draft + int(rng.random() < 0.05)) % SHAPE.vocabulary_size for draft in drafts
        ], None

    for seed in range(texts):
        prompt = rng.integers(0, SHAPE.vocabulary_size, rng.integers(1, 20))
        options = {
            "max_new_tokens": 90,
            "sampling": SamplingParams(temperature),
            "seed": seed,
            "rule": rule,
        }
        plain = start_generation(target, None, prompt, **options)
        list(plain)
        run = start_generation(target, FunctionDrafter(nearly, 15), prompt, **options)
        list(run)
        assert run.tokens == plain.tokens
        drafted, accepted = (
            drafted + sum(run.statistics.drafted),
            accepted + sum(run.statistics.accepted),
        )
        passes += run.statistics.passes_of_length
    assert accepted > drafted / 2 and passes[2:].all()  # in passes of every length from 2 to 16


LONG = ModelConfig(**{**vars(SHAPE), "context_length": 288, "num_layers": 1})


def partings(form, rule, temperature, texts, new=256):
    """How many texts part from plain decoding, and for each of them how close the two candidates were: (seed, place, margin).

    Every text has a prompt, a kind of head, a draft length, and a chain or a tree of its own. The margin is the difference
    of the two largest scores, noise included, at the first token that differs, relative to the largest logit.
    """
    decoders = {kind: decoder(kind, form, LONG) for kind in HEADS}
    rng, law, found = np.random.default_rng(5), SamplingParams(temperature), []
    for seed in range(texts):
        target, drafter = decoders[list(HEADS)[seed % len(HEADS)]]
        prompt = rng.integers(0, LONG.vocabulary_size, rng.integers(1, 30))
        options = {"max_new_tokens": new, "sampling": law, "seed": seed, "rule": rule}
        plain = start_generation(target, None, prompt, **options)
        depth, tree = int(rng.integers(1, drafter.max_depth + 1)), int(rng.choice([0, 0, 4, 12]))
        drafted = start_generation(target, drafter, prompt, draft_depth=depth, tree=tree, **options)
        list(plain), list(drafted)
        assert len(plain.tokens) == len(drafted.tokens) == len(prompt) + new
        if plain.tokens != drafted.tokens:
            place = next(
                i
                for i, pair in enumerate(zip(plain.tokens, drafted.tokens, strict=True))
                if len(set(pair)) == 2
            )
            target.truncate(0)
            logits = target.forward(np.array(plain.tokens[:place])).logits[-1:]
            noise = 0 if law.greedy else GumbelNoise(seed, LONG.vocabulary_size).rows(place, 1)
            scores = np.sort(((logits if law.greedy else law.scores(logits)) + noise)[0])
            found.append(
                (seed, place, float(scores[-1] - scores[-2]) / float(np.abs(logits).max()))
            )
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "temperature"),
    [("token", 0.0), ("shared-noise", 0.7), ("shared-noise", 1.0), ("match", 1)],
)
def test_in_float64_every_text_of_256_tokens_is_that_of_plain_decoding(rule, temperature):
    assert partings("float64", rule, temperature, TEXTS) == []


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("form", COMPILED)
@pytest.mark.parametrize(("rule", "temperature"), [("token", 0.0), ("shared-noise", 1.0)])
def test_with_compiled_kernels_every_text_of_256_tokens_is_that_of_plain_decoding(
    form, rule, temperature
):
    assert partings(form, rule, temperature, TEXTS) == []


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "temperature"), [("token", 0.0), ("shared-noise", 1.0)])
def test_in_float32_without_them_texts_part_only_where_two_tokens_are_equal_up_to_rounding(
    rule, temperature, monkeypatch
):
    monkeypatch.setattr(kernels, "_choice", "plain")
    found = partings("float32", rule, temperature, TEXTS)
    for seed, place, margin in found:
        print(
            f"text {seed} parts at token {place}: the two candidates differ by {margin:.1e} of the largest logit"
        )
    print(
        f"{len(found)} of {TEXTS} texts part from plain decoding ({rule}, temperature {temperature})"
    )
    assert all(margin <= TIE for _, _, margin in found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model with heads, trained for a few seconds."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    minimtp.train(
        Recipe.from_dict(PRESETS["tiny"] | {"heads": "token_conditioned", "draft_depth": 4}),
        out=folder,
    )
    return minimtp.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("tree", [0, 5])
@pytest.mark.parametrize("rule", RULES)
def test_the_first_tokens_of_a_trained_model_have_the_models_law(trained, rule, tree):
    """Chi-square of 3 tokens among 4 each, against the product of the laws; all but the first are drafted."""
    target, drafter = deploy(trained.model)
    law, prompt, counts = (
        SamplingParams(temperature=1.2, top_k=4),
        trained.tokenizer.encode("def "),
        {},
    )
    for seed in range(100 * TEXTS):
        text = tuple(
            start_generation(
                target,
                drafter,
                prompt,
                max_new_tokens=4,
                sampling=law,
                seed=seed,
                rule=rule,
                tree=tree,
            )
        )[:3]
        counts[text] = counts.get(text, 0) + 1
    expected = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, probability in expected.items():
            target.truncate(0)
            row = law.probabilities(target.forward(np.array([*prompt, *text])).logits[-1:])[0]
            longer |= {(*text, int(token)): probability * row[token] for token in row.nonzero()[0]}
        expected = longer
    assert counts.keys() <= expected.keys()
    cells, rest = [], np.zeros(2)  # cells that expect fewer than 5 texts are one
    for text, probability in expected.items():
        cell = np.array([counts.get(text, 0), 100 * TEXTS * probability])
        cells, rest = (cells, rest + cell) if cell[1] < 5 else ([*cells, cell], rest)
    cells = np.array([*cells, rest] if rest[1] else cells)
    statistic, freedom = ((cells[:, 0] - cells[:, 1]) ** 2 / cells[:, 1]).sum(), len(cells) - 1
    print(f"{rule}, tree {tree}: chi-square {statistic:.1f} with {freedom} degrees of freedom")
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)
