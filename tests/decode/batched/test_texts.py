"""Many texts at once: each is the text that its request gives alone."""

from pathlib import Path

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.decode.batched import texts as texts_module
from minimtp.decode.batched.texts import OneByOne, TextGenerator, TextRequest
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.errors import UserError
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.kernels.both import needs_numba

SAMPLINGS = [
    GREEDY,
    SamplingParams(0.8),
    SamplingParams(1.2, top_p=0.7),
    SamplingParams(1.0, top_k=3),
    SamplingParams(0.7, top_k=1),
]


def generate_texts(model, requests, **options):
    return TextGenerator(model).generate(requests, **options)


def generate_one_by_one(model, requests):
    return OneByOne(model).generate(requests, 1, lambda tokens: None)


def random_model(kind="float", context=96, seed=0):
    """Return a random model, as if it had been loaded, in float32 or packed."""
    recipe = Recipe(
        context_length=context, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
        intermediate_size=64, vocabulary_size=257, tokens=4096, batch_size=2,
        tied_embeddings=False,
    )  # fmt: skip
    model = build_model(recipe, np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data[...] = 0.4 * rng.standard_normal(parameter.shape)
    if kind != "float":
        model = convert(prepare_qat(model, QuantizationSpec(**{"weights": "q4_0"} | SPECS[kind])))
    return LoadedRun(Path("model"), model, ByteTokenizer(), recipe)


SPECS = {"int4": {}, "inexact": {"activations": "int8-token"}}


def some_requests(count=14, seed=0):
    rng = np.random.default_rng(seed)
    return [
        TextRequest(
            rng.integers(0, 256, int(rng.integers(1, 70))).tolist(),
            int(rng.integers(1, 40)),
            SAMPLINGS[number % len(SAMPLINGS)],
            seed=number,
        )
        for number in range(count)
    ]


@needs_numba
@pytest.mark.parametrize("kind", ["float", "int4"])
@pytest.mark.parametrize("threads, places", [(1, 32), (1, 3), (2, 2)])
def test_each_text_equals_the_text_of_its_request_alone(kind, threads, places, monkeypatch):
    model, requests = random_model(kind), some_requests()
    alone = [generate_texts(model, [request])[0] for request in requests]
    monkeypatch.setattr(texts_module, "MAX_PLACES", places)
    assert generate_texts(model, requests, threads=threads) == alone
    assert generate_texts(model, requests[::-1], threads=threads) == alone[::-1]


@pytest.mark.parametrize("kind", ["float", "int4", "inexact"])
def test_a_greedy_text_is_that_of_a_decoder_and_ends_where_it_ends(kind):
    model = random_model(kind)
    requests = [TextRequest(r.prompt, r.max_new_tokens) for r in some_requests(20)]
    requests += [TextRequest([5] * 90, 40), TextRequest([6] * 96, 3)]  # end with the context
    decoder = Decoder(model, DraftConfig("none"))
    for request, text in zip(requests, generate_texts(model, requests), strict=True):
        generation = decoder.generate(request.prompt, max_new_tokens=request.max_new_tokens)
        assert text.tokens == list(generation)
        assert text.ended == (generation.reason == "stop")


@needs_numba
@pytest.mark.parametrize("kv_cache", ["float16", "int8"])
def test_a_greedy_text_with_a_rounded_cache_is_that_of_a_decoder_with_one(kv_cache):
    model = random_model("int4")
    requests = [TextRequest(r.prompt, r.max_new_tokens) for r in some_requests()]
    decoder = Decoder(model, DraftConfig("none"), kv_cache=kv_cache)
    found = TextGenerator(model, kv_cache).generate(requests)
    for request, text in zip(requests, found, strict=True):
        expected = decoder.generate(request.prompt, max_new_tokens=request.max_new_tokens)
        assert text.tokens == list(expected)


def test_a_text_ends_at_an_end_token_and_the_next_takes_its_place(monkeypatch):
    model = random_model()
    requests = [TextRequest(r.prompt, 30, SamplingParams(1.0), n) for n, r in
                enumerate(some_requests(8))]  # fmt: skip
    whole = generate_texts(model, requests)
    ends = {text.tokens[7] for text in whole}
    monkeypatch.setattr(ByteTokenizer, "end_tokens", tuple(ends))
    monkeypatch.setattr(texts_module, "MAX_PLACES", 2)
    advanced = []
    found = generate_texts(model, requests, advance=advanced.append)
    for before, text in zip(whole, found, strict=True):
        stop = next(i for i, token in enumerate(before.tokens) if token in ends)
        assert text == (before.tokens[: stop + 1], True, None)
    assert sum(advanced) == sum(len(text.tokens) for text in found)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_follow_up_comes_after_an_answer_that_ends_and_the_model_goes_on(monkeypatch, one_by_one):
    model = random_model()
    requests = [TextRequest(r.prompt, 12) for r in some_requests(30)]
    whole = generate_texts(model, requests)
    end = whole[0].tokens[5]
    monkeypatch.setattr(ByteTokenizer, "end_tokens", (end, 256))
    follow_up = (end, 40, 41)
    asked = [TextRequest(r.prompt, 12, follow_up=follow_up) for r in requests]
    if one_by_one:
        found = generate_one_by_one(model, asked)
    else:
        found = generate_texts(model, asked, threads=2)
    followed = 0
    for request, answer, text in zip(requests, generate_texts(model, requests), found, strict=True):
        longer = [*request.prompt, *answer.tokens, 40, 41]
        if not answer.ended or answer.tokens[-1] != end or len(longer) > 96:
            assert text == answer
            continue
        followed += 1
        second = generate_texts(model, [TextRequest(longer, 12)])[0]
        tokens = [*answer.tokens, 40, 41, *second.tokens]
        assert text == (tokens, second.ended, len(answer.tokens))
    assert followed and any(len(text.tokens) > 14 for text in found)


def test_samples_follow_the_seed_and_the_sampling():
    model = random_model()
    requests = [
        TextRequest([1, 2, 3], 20, sampling, seed)
        for sampling in (SamplingParams(1.0), SamplingParams(0.6), SamplingParams(1.0, top_k=5))
        for seed in (1, 2)
    ]
    found = generate_texts(model, requests)
    assert len({tuple(text.tokens) for text in found}) == len(requests)
    assert generate_texts(model, requests) == found


def test_only_tokens_that_top_k_keeps_are_sampled():
    model = random_model()
    requests = [TextRequest([n], 1, SamplingParams(1.0, top_k=2), n) for n in range(60)]
    decoder = Decoder(model, DraftConfig("none"))
    for request, text in zip(requests, generate_texts(model, requests), strict=True):
        target = decoder.target.clone()
        logits = target.forward(np.array(request.prompt)).logits[-1]
        assert text.tokens[0] in np.argsort(-logits)[:2]


def test_plain_kernels_generate_too():
    model, requests = random_model(), some_requests(5)
    kernels.use("plain")
    try:
        alone = [generate_texts(model, [request])[0] for request in requests]
        assert generate_texts(model, requests) == alone
    finally:
        kernels.use("auto")


def test_no_request_gives_no_text():
    assert generate_texts(random_model(), []) == []


@pytest.mark.parametrize(
    "prompt, message", [([], "empty"), ([1] * 97, "97 tokens"), ([257], "257"), ([-1], "-1")]
)
def test_a_prompt_that_cannot_be_continued_is_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        generate_texts(random_model(), [TextRequest([1], 5), TextRequest(prompt, 5)])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_broken_model_is_one_sentence_in_every_thread(threads):
    model = random_model()
    model.model.final_norm.weight.data[:] = np.nan
    with pytest.raises(UserError, match="not a number"):
        generate_texts(model, some_requests(6), threads=threads)


def test_an_error_in_one_thread_ends_the_others():
    model, calls = random_model(), []

    def interrupt(tokens):
        calls.append(tokens)
        if len(calls) == 3:
            raise KeyboardInterrupt

    requests = [TextRequest([1], 90, SamplingParams(1.0), n) for n in range(200)]
    with pytest.raises(KeyboardInterrupt):
        generate_texts(model, requests, threads=2, advance=interrupt)
    assert len(calls) < 50


def test_a_request_for_no_token_is_an_error():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, not 0"):
        TextRequest([1], 0)


def test_a_follow_up_that_does_not_fit_the_context_is_left_out():
    model = random_model(context=64)
    end = model.tokenizer.end_token
    plain, asked = (
        generate_texts(model, [TextRequest([1, 2], 20, follow_up=follow_up)])
        for follow_up in ((), [end, *[7] * 69])
    )
    assert plain == asked
    with pytest.raises(UserError, match="token 999"):
        generate_texts(model, [TextRequest([1, 2], 20, follow_up=[end, 999])])
