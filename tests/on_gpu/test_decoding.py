"""Text generated on a device is the text generated on the host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import choose_device, gpu_pool_bytes, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.batch import start_batch
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.model import ModelDrafter
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.decode.logits_processors import RepetitionPenalty
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.policy.adaptive import AdaptivePolicy
from minimtp.decode.policy.cost import Costs
from minimtp.decode.rules.registry import make_rule
from minimtp.decode.sampling.gumbel_noise import BLOCK, GumbelNoise
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.engine.module import replicate
from minimtp.errors import UserError
from tests.helpers.heads import KINDS, WITH_LAYERS
from tests.on_gpu.cases import (
    CONFIG,
    FORMATS,
    equal_up_to_a_tie,
    in_format,
    model_with,
    moved,
    with_both_kernels,
)


@pytest.mark.parametrize(
    ("kind", "name", "choice"),
    with_both_kernels(
        [(kind, name) for kind in ("none", *KINDS, "limited") for name in FORMATS],
        quick=[
            ("none", "trained int4"),
            ("token_conditioned", "float32"),
            (WITH_LAYERS, "trained int4"),
            ("limited", "trained int4"),
            ("parallel", "int4"),
            ("sequential", "int4"),
            ("eagle3", "int4"),
        ],
    ),
)
def test_every_kind_of_heads_and_weight_format_generates_the_text_of_the_host(
    device, choose_kernels, kind, name, choice
):
    choose_kernels(choice, device)
    model = model_with(kind)
    host, host_drafter = deploy(in_format(replicate(model), name))
    target, drafter = deploy(in_format(moved(model, device), name))
    greedy, narrow, wide = SamplingParams(0.0), SamplingParams(0.9, 20, 0.95), SamplingParams(0.8)
    cases = [
        (greedy, "token", 0),
        (narrow, "shared-noise", 0),
        (wide, "token", 0),
        (greedy, "token", 7),
        (wide, "shared-noise", 7),
        (wide, "block", 7),
    ]
    for seed, (sampling, rule, tree) in enumerate(cases):
        runs = [
            start_generation(
                t,
                d,
                [3, 1, 4, 1, 5],
                GenerationOptions(
                    max_new_tokens=12, sampling=sampling, rule=rule, seed=seed, tree=tree
                ),
            )
            for t, d in ((host, host_drafter), (target, drafter))
        ]
        for run in runs:
            list(run)
        assert len(runs[1].tokens) == len(runs[0].tokens)
        if sampling.greedy:
            assert equal_up_to_a_tie(host, runs[1].tokens, runs[0].tokens)
        elif rule == "shared-noise":  # only a tie within 1e-6 of a random score could differ
            assert runs[1].tokens == runs[0].tokens


@pytest.mark.parametrize("choice", ["plain", "auto"])
@pytest.mark.parametrize("feature", ["n-gram", "small model", "adaptive", "penalty", "batch"])
def test_every_feature_of_decoding_generates_the_text_of_the_host(
    device, choose_kernels, feature, choice
):
    choose_kernels(choice, device)
    texts = []
    for chosen in (choose_device("cpu"), device):
        target, drafter = deploy(moved(model_with("token_conditioned"), chosen))
        options, policy = dict(max_new_tokens=10, sampling=SamplingParams(0.8), seed=4), None
        if feature == "n-gram":
            drafter = NgramDrafter()
        elif feature == "small model":
            drafter = ModelDrafter(
                deploy(moved(model_with("none", seed=5), chosen))[0], max_depth=3
            )
        elif feature == "adaptive":
            policy = AdaptivePolicy(Costs(target, drafter.max_depth), drafter.max_depth)
        elif feature == "penalty":
            options["logits_processors"] = [RepetitionPenalty(1.4)]
        if feature == "batch":
            batch = start_batch(
                DecodingStates(target, drafter), [[3, 1, 4], [1, 5]], GenerationOptions(**options)
            )
            list(batch)
            texts.append([row.tokens for row in batch.rows])
        else:
            generation = start_generation(
                target, drafter, [3, 1, 4, 3, 1], GenerationOptions(**options), policy
            )
            list(generation)
            texts.append(generation.tokens)
    assert texts[1] == texts[0]  # only a tie within 1e-6 of a random score could differ


@pytest.mark.parametrize("choice", ["plain", "auto"])
@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(0.0), SamplingParams(0.7), SamplingParams(0.7, 5), SamplingParams(0.7, 0, 0.9)],
    ids=str,
)
def test_a_nan_logit_raises_an_error_only_if_its_row_is_used(
    device, choose_kernels, choice, sampling
):
    choose_kernels(choice, device)
    logits = device.xp.asarray(np.random.default_rng(0).standard_normal((2, 61)).astype(np.float32))
    rule = make_rule("shared-noise", sampling, 1, 61, 5)
    logits[1, 7] = np.nan
    first = rule.verify(logits[:1], [], None)[1]
    rule = make_rule("shared-noise", sampling, 1, 61, 5)
    assert rule.verify(logits, [first + 1], None) == (0, first)  # the row with the NaN is not used
    with pytest.raises(UserError, match="not a number"):
        make_rule("shared-noise", sampling, 1, 61, 5).verify(logits, [first], None)


@given(position=st.integers(0, 300), count=st.integers(1, 140))
def test_noise_on_the_device_equals_noise_on_the_host(device, position, count):
    noise = GumbelNoise(3, 5)
    found = [to_numpy(noise.rows(position + shift, count, device.xp)) for shift in (0, 1)]
    assert np.array_equal(found[0], noise.rows(position, count))
    assert np.array_equal(found[1], noise.rows(position + 1, count))


def test_a_long_text_keeps_a_window_of_noise_and_one_graph_per_number_of_tokens(
    device, choose_kernels
):
    choose_kernels("auto", device)
    target, drafter = deploy(moved(model_with("token_conditioned"), device), context_length=400)
    generation = start_generation(
        target,
        drafter,
        [3, 1, 4],
        GenerationOptions(max_new_tokens=300, sampling=SamplingParams(0.8), draft_depth=2),
    )
    held = []
    for _ in generation:
        assert len(generation._rule.noise._windows[device.xp].noise) <= 4 * BLOCK
        held.append(gpu_pool_bytes())
    assert held[-1] - held[100] <= 4 * BLOCK * CONFIG.vocabulary_size * 8
    # Passes over 3 tokens, including prefill, and over 1 or 2 at the end of the text.
    assert target._trunk.graphs.recorded() <= 3 and drafter._step.graphs.recorded() <= 2


def test_the_memory_pool_of_the_device_has_a_limit_below_its_memory(device):
    choose_device("cuda")
    limit = device.xp.get_default_memory_pool().get_limit()
    assert 0 < limit < device.xp.cuda.runtime.memGetInfo()[1]
