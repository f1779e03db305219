"""The decoder of a loaded model: measured costs are shared by all texts, and kernels are loaded
early.
"""

import json

import pytest

from minimtp.backend import numpy as np
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.decode.policy import cost
from minimtp.decode.sampling.params import SamplingParams
from minimtp.errors import UserError
from minimtp.model.loaded import LoadedModel
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.decode.drafters.helpers import SHAPE, model_with
from tests.kernels.both import needs_numba


class ByteNumbers(ByteTokenizer):
    """A tokenizer whose texts are bytes below the vocabulary size."""

    vocabulary_size = SHAPE.vocabulary_size
    end_token = SHAPE.vocabulary_size - 1
    end_tokens = (end_token,)


@pytest.fixture
def run():
    return LoadedModel("nowhere", model_with("token_conditioned"), ByteNumbers())


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """stored() returns the stored costs by bucket. Buckets are small, and a forward
    pass takes one second per cached row.
    """
    monkeypatch.setenv("MINIMTP_CACHE", str(tmp_path))
    monkeypatch.setattr(cost, "MEASURED", (1, 2))
    monkeypatch.setattr(cost, "FIRST_BUCKET", 6)
    monkeypatch.setattr(cost, "BUCKET_GROWTH", 2)
    measure = cost.measure

    def seconds(target):
        return [float(target.length) for _ in measure(target)]

    monkeypatch.setattr(cost, "measure", seconds)
    return lambda: json.loads(next(tmp_path.iterdir()).read_text())["seconds"]


@pytest.mark.parametrize("prompts", [[23, 5], [1, 13], [1, 4, 16], [20, 23, 7]], ids=str)
def test_the_costs_for_each_row_of_a_batch_are_measured_after_its_own_cached_rows(
    run, stored, prompts
):
    """A text that fills its context has no room to measure a forward pass.

    A short text cannot measure the forward passes of a long one.
    """
    batch = Decoder(run).generate_batch(
        [bytes(length) for length in prompts], max_new_tokens=20, stop=()
    )
    list(batch)
    assert [len(row.tokens) > length for row, length in zip(batch.rows, prompts, strict=True)]
    for end, seconds in stored().items():
        assert int(end) // 2 <= seconds[0] < int(end) or int(end) == 6


@pytest.mark.parametrize("draft", ["heads", "none"])
@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (10**12, f"larger than the model's context: use at most {SHAPE.context_length} drafts"),
        ("8", "tree must be a whole number"),
    ],
)
def test_a_tree_larger_than_the_context_is_rejected_before_memory_is_allocated_for_it(
    run, draft, tree, message
):
    with pytest.raises(UserError, match=message):
        Decoder(run, DraftConfig(draft, tree=tree))


@pytest.mark.parametrize("drafter", ["typo", "", "models/other", b"ngram", 3, None], ids=repr)
def test_a_drafter_that_does_not_exist_is_refused_with_the_ones_that_do(drafter):
    names = "drafter must be one of auto, heads, ngram, combined, none, a loaded model"
    with pytest.raises(UserError, match=names):
        DraftConfig(drafter)


def test_a_users_function_is_called_only_for_texts_that_are_generated(run):
    seen = []

    def function(tokens, depth, rule):
        seen.append(list(tokens))
        return [0] * depth, None

    decoder = Decoder(run, DraftConfig(function, length=3))
    for prompt in (b"\1\2", b"\3"):
        for temperature in (0.0, 1.0):
            seen.clear()
            generation = decoder.generate(
                prompt, max_new_tokens=6, sampling=SamplingParams(temperature)
            )
            assert not seen
            list(generation)
            assert seen and all(tokens == generation.tokens[: len(tokens)] for tokens in seen)


@needs_numba
def test_without_a_seed_chains_are_verified_by_the_block_rule_and_with_one_by_shared_noise(
    monkeypatch,
):
    compiled = LoadedModel("nowhere", model_with("token_conditioned", np.float32), ByteNumbers())
    decoder = Decoder(compiled, DraftConfig(length=3))
    assert (decoder.rule_for(None), decoder.rule_for(0)) == ("block", "shared-noise")
    assert Decoder(compiled, DraftConfig(length=3, tree=4)).rule_for(None) == "shared-noise"
    assert Decoder(compiled, DraftConfig(length=3, rule="match")).rule_for(None) == "match"

    def text(decoder, **seed):
        options = {"max_new_tokens": 12, "sampling": SamplingParams(1.0), **seed}
        return list(decoder.generate(b"\1\2", **options))

    named = Decoder(compiled, DraftConfig(length=3, rule="shared-noise"))
    assert text(decoder, seed=0) == text(named, seed=0)
    monkeypatch.setattr("minimtp.decode.decoder.randbits", lambda bits: 7)
    named = Decoder(compiled, DraftConfig(length=3, rule="block"))
    assert text(decoder) == text(named, seed=7)
    assert text(decoder, seed=0) == text(Decoder(compiled, None), seed=0)


def test_plain_kernels_verify_by_shared_noise_even_without_a_seed(run):
    assert Decoder(run, DraftConfig(length=3)).rule_for(None) == "shared-noise"  # float64


@pytest.mark.parametrize("rule", ["shared-noise", "token"])
def test_kernels_are_loaded_before_the_first_text_of_a_kind_and_later_texts_start_at_once(
    run, rule
):
    decoder = Decoder(run, DraftConfig(rule=rule))
    drafted, draft = [], decoder.drafter.draft
    decoder.drafter.draft = lambda depth, rule: (drafted.append(rule), draft(depth, rule))[1]
    every_token = [bytes([token]) for token in range(SHAPE.vocabulary_size)]
    for options in (
        {},
        {"sampling": SamplingParams(1.0)},
        {"sampling": SamplingParams(1.0, top_k=3)},
        {"repetition_penalty": 1.1},
    ):
        drafted.clear()
        decoder.generate(b"\1", **options, stop=every_token)
        assert drafted, options
        drafted.clear()
        decoder.generate(b"\1\2", **options)
        decoder.generate_batch([b"\1\2"], **options, stop=b"\3")
        assert not drafted, options
