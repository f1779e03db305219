"""Text generated with drafts equals plain decoding, token for token, for every kind of head and
every weight format.

The slow tests use MINIMTP_TEXTS prompts (default: 10):

    MINIMTP_TEXTS=1000 pytest -n0 -s -m slow tests/decode/generation/test_exactness.py
"""

import os
from collections import Counter

import pytest

import minimtp
from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.bench.agreement import TIE
from minimtp.bench.decode.weight_formats import ROUNDED
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.registry import RULES
from minimtp.decode.sampling.gumbel_noise import GumbelNoise
from minimtp.decode.sampling.params import SamplingParams
from minimtp.engine.module import map_parameters
from minimtp.model.config import ModelConfig
from minimtp.model.heads import MultiTokenModel
from minimtp.model.transformer import Transformer
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.training.presets import PRESETS
from minimtp.training.recipe import Recipe
from tests.helpers.heads import KINDS, heads_of

CONFIG = ModelConfig(
    vocabulary_size=61,
    context_length=96,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)
compiled = pytest.mark.skipif(
    kernels.describe()[0] != "cpu",
    reason="Numba is missing: plain float32 results depend on the number of rows",
)


def decoder(kind, form, config=CONFIG):
    rng = np.random.default_rng(3)
    model = MultiTokenModel(Transformer(config, rng), heads_of(kind, 5, config, rng))
    dtype = np.float64 if form == "float64" else np.float32
    map_parameters(
        model, lambda array: (array + 0.3 * rng.standard_normal(array.shape)).astype(dtype)
    )
    form, _, kv_cache = form.partition(", cache ")
    model = round_to_nearest(model, ROUNDED[form]) if form in ROUNDED else model
    return deploy(model, kv_cache=kv_cache or None)


def generated(target, drafter, prompt, **options):
    """Return the whole text, including the prompt."""
    run = start_generation(target, drafter, prompt, GenerationOptions(**options))
    list(run)
    return run.tokens


def count_equal(kind, form, prompts, rule, sampling):
    """Return the number of random prompts with the same text with and without drafts.

    Each text ends with the context.
    """
    target, drafter = decoder(kind, form)
    rng, equal = np.random.default_rng(4), 0
    for seed in range(prompts):
        prompt = rng.integers(0, CONFIG.vocabulary_size, rng.integers(1, 20))
        options = {"max_new_tokens": 90, "sampling": sampling, "seed": seed, "rule": rule}
        depth = int(rng.integers(1, drafter.max_depth + 1))
        plain, drafted = (
            generated(target, drafter, prompt, draft_depth=d, **options) for d in (0, depth)
        )
        equal += plain == drafted
    return equal


COMPILED = ["float32", *ROUNDED, "int4, cache float16", "int4, cache int8"]
FORMS = ["float64", *(pytest.param(form, marks=compiled) for form in COMPILED)]
each_rule = pytest.mark.parametrize(
    ("rule", "temperature"), [("token", 0.0), ("shared-noise", 0.7), ("shared-noise", 1.3)]
)
TEXTS = int(os.environ.get("MINIMTP_TEXTS", 10))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_the_same_with_and_without_drafts(kind, form):
    assert count_equal(kind, form, 4, "token", SamplingParams(0.0)) == 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_shared_noise_sampled_text_is_the_same_with_and_without_drafts(kind, form):
    assert count_equal(kind, form, 4, "shared-noise", SamplingParams(0.8)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@each_rule
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_texts_are_the_same_with_and_without_drafts(kind, form, rule, temperature):
    assert count_equal(kind, form, 100, rule, SamplingParams(temperature)) == 100


@each_rule
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("texts", [10, pytest.param(10 * TEXTS, marks=pytest.mark.slow)])
def test_text_is_the_same_if_most_of_up_to_15_drafts_are_accepted(texts, form, rule, temperature):
    """Untrained heads are nearly always wrong, so only the first row of a forward pass is
    used. Here the drafts are the text itself, with one token in twenty replaced.
    """
    (target, _), rng = decoder("parallel", form), np.random.default_rng(6)
    drafted, accepted, passes = 0, 0, np.zeros(17, int)

    def nearly_right(tokens, depth, _):
        drafts = plain[len(tokens) : len(tokens) + rng.integers(1, depth + 1)]
        wrong = [int(rng.random() < 0.05) for _ in drafts]
        size = CONFIG.vocabulary_size
        return [(draft + error) % size for draft, error in zip(drafts, wrong, strict=True)], None

    for seed in range(texts):
        prompt = rng.integers(0, CONFIG.vocabulary_size, rng.integers(1, 20))
        sampling = SamplingParams(temperature)
        options = {"max_new_tokens": 90, "sampling": sampling, "seed": seed, "rule": rule}
        plain = generated(target, None, prompt, **options)
        run = start_generation(
            target, FunctionDrafter(nearly_right, 15), prompt, GenerationOptions(**options)
        )
        list(run)
        assert run.tokens == plain
        drafted += sum(run.statistics.drafted)
        accepted += sum(run.statistics.accepted)
        passes += run.statistics.passes_of_length
    assert (
        accepted > drafted / 2 and passes[2:].all()
    )  # in forward passes over every number of tokens from 2 to 16


LONG = ModelConfig(**{**vars(CONFIG), "context_length": 288, "num_layers": 1})


def divergences(form, rule, temperature, texts, new=256):
    """Return (seed, position, margin) of each text that differs from plain decoding.

    The texts use different prompts, kinds of heads, draft depths, and chains or trees. The margin
    is the difference of the two largest scores, including noise, at the first token that differs,
    relative to the largest logit.
    """
    decoders = {kind: decoder(kind, form, LONG) for kind in KINDS}
    rng, sampling, found = np.random.default_rng(5), SamplingParams(temperature), []
    for seed in range(texts):
        target, drafter = decoders[KINDS[seed % len(KINDS)]]
        prompt = rng.integers(0, LONG.vocabulary_size, rng.integers(1, 30))
        options = {"max_new_tokens": new, "sampling": sampling, "seed": seed, "rule": rule}
        depth, tree = int(rng.integers(1, drafter.max_depth + 1)), int(rng.choice([0, 0, 4, 12]))
        plain = generated(target, None, prompt, **options)
        drafted = generated(target, drafter, prompt, draft_depth=depth, tree=tree, **options)
        assert len(plain) == len(drafted) == len(prompt) + new
        if plain != drafted:
            pairs = zip(plain, drafted, strict=True)
            position = next(i for i, (first, second) in enumerate(pairs) if first != second)
            found.append((seed, position, margin_at(target, plain[:position], sampling, seed)))
    return found


def margin_at(target, text, sampling, seed):
    """Return the margin of the largest score after `text`, relative to the largest logit."""
    target.truncate(0)
    logits = target.forward(np.array(text)).logits[-1:]
    if sampling.greedy:
        scores = np.sort(logits[0])
    else:
        noise = GumbelNoise(seed, LONG.vocabulary_size).rows(len(text), 1)
        scores = np.sort((sampling.scores(logits) + noise)[0])
    return float(scores[-1] - scores[-2]) / float(np.abs(logits).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "temperature"),
    [("token", 0.0), ("shared-noise", 0.7), ("shared-noise", 1.0), ("match", 1)],
)
def test_in_float64_every_text_of_256_tokens_equals_plain_decoding(rule, temperature):
    assert divergences("float64", rule, temperature, TEXTS) == []


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("form", COMPILED)
@pytest.mark.parametrize(("rule", "temperature"), [("token", 0.0), ("shared-noise", 1.0)])
def test_with_compiled_kernels_every_text_of_256_tokens_equals_plain_decoding(
    form, rule, temperature
):
    assert divergences(form, rule, temperature, TEXTS) == []


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "temperature"), [("token", 0.0), ("shared-noise", 1.0)])
def test_with_plain_float32_kernels_texts_differ_only_if_two_tokens_tie_up_to_rounding(
    rule, temperature, monkeypatch
):
    monkeypatch.setattr(kernels, "_choice", "plain")
    found = divergences("float32", rule, temperature, TEXTS)
    for seed, position, margin in found:
        print(f"text {seed} differs at token {position}: margin {margin:.1e} of the largest logit")
    differ = f"{len(found)} of {TEXTS} texts differ from plain decoding"
    print(f"{differ} ({rule}, temperature {temperature})")
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
def test_the_first_tokens_of_a_trained_model_have_the_models_distribution(trained, rule, tree):
    """A chi-square test of 3 tokens among 4 each. All but the first token are drafted."""
    target, drafter = deploy(trained.model)
    prompt = trained.tokenizer.encode("def ")
    sampling = SamplingParams(temperature=1.2, top_k=4)
    counts = Counter()
    for seed in range(100 * TEXTS):
        options = {"sampling": sampling, "seed": seed, "rule": rule, "tree": tree}
        run = start_generation(
            target, drafter, prompt, GenerationOptions(max_new_tokens=4, **options)
        )
        counts[tuple(run)[:3]] += 1
    expected = three_token_distribution(target, prompt, sampling)
    assert counts.keys() <= expected.keys()
    cells, rare = [], np.zeros(2)  # texts with an expected count below 5 share one cell
    for text, probability in expected.items():
        cell = np.array([counts[text], 100 * TEXTS * probability])
        if cell[1] < 5:
            rare += cell
        else:
            cells.append(cell)
    cells = np.array([*cells, rare] if rare[1] else cells)
    statistic, freedom = ((cells[:, 0] - cells[:, 1]) ** 2 / cells[:, 1]).sum(), len(cells) - 1
    print(f"{rule}, tree {tree}: chi-square {statistic:.1f} with {freedom} degrees of freedom")
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def three_token_distribution(target, prompt, sampling):
    """Return {three tokens: probability}, computed with one forward pass per prefix."""
    texts = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, probability in texts.items():
            target.truncate(0)
            logits = target.forward(np.array([*prompt, *text])).logits[-1:]
            row = sampling.probabilities(logits)[0]
            longer |= {(*text, int(token)): probability * row[token] for token in row.nonzero()[0]}
        texts = longer
    return texts
