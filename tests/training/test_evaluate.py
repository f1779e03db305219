"""An evaluation measures bits per byte, accuracy and acceptance, and warns of dead heads."""

import math
from dataclasses import replace

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.module import replicate
from minimtp.errors import UserError
from minimtp.quant.qat.kv_cache import with_cache
from minimtp.training.build import build_model
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate, evaluate_model
from minimtp.training.evaluation import Evaluation, dead_heads
from minimtp.training.run.folder import load_run
from minimtp.training.run.train import train
from tests.training.helpers import CONFIGURATIONS, quiet, recipe_of


def test_an_untrained_model_needs_the_logarithm_of_the_vocabulary_in_bits(corpus):
    model = build_model(recipe_of(), np.random.default_rng(0))
    model.embedding.weight.data[...] = 0  # tied: all logits are equal
    result = evaluate_model(model, corpus, 16, 512)
    assert result.bits_per_byte == pytest.approx(math.log2(257), rel=1e-6)
    assert result.nats == pytest.approx([math.log(257)])
    assert (result.tokens, result.bytes) == (512, 512)


def test_bits_per_byte_are_per_byte_of_text_and_not_per_token():
    documents = Corpus("short documents", [(str(n), b"x" * 9) for n in range(200)])
    model = build_model(recipe_of(), np.random.default_rng(0))
    model.embedding.weight.data[...] = 0
    result = evaluate_model(
        model, documents, 10, 100
    )  # every tenth token ends a document and has no bytes
    assert result.bytes == result.tokens * 9 // 10
    assert result.bits_per_byte == pytest.approx(math.log2(257) / 0.9, rel=1e-6)


def test_only_the_bytes_of_predicted_tokens_are_counted():
    # ten bytes are held out, followed by the end token
    poem = Corpus("poem", [("poem", b"x" * 100)])
    model = build_model(recipe_of(), np.random.default_rng(0))
    result = evaluate_model(model, poem, 10, 10)
    assert (result.tokens, result.bytes) == (10, 9)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_evaluation_does_not_depend_on_the_number_of_threads(corpus, threads):
    model = build_model(recipe_of(heads="parallel", draft_depth=2), np.random.default_rng(0))
    assert evaluate_model(model, corpus, 16, 4000, threads) == evaluate_model(
        model, corpus, 16, 4000, 2
    )


def test_evaluating_a_run_gives_the_last_evaluation_of_its_training(tmp_path):
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue, " * 100)
    for name in ("plain", "token-conditioned, rounded late"):
        result = train(
            recipe_of(**CONFIGURATIONS[name]),
            [tmp_path / "poem.txt"],
            tmp_path / name,
            report=quiet,
        )
        assert evaluate(load_run(tmp_path / name)) == result.evaluation


def test_an_evaluation_with_a_rounded_cache_is_that_of_a_model_that_rounds_and_changes_nothing(
    tmp_path,
):
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue, " * 100)
    train(recipe_of(), [tmp_path / "poem.txt"], tmp_path / "run", report=quiet)
    run = load_run(tmp_path / "run")
    exact = evaluate(run)
    found = {cache: evaluate(run, against=run, kv_cache=cache) for cache in ("float16", "int8")}
    assert 0 < found["float16"].divergence < found["int8"].divergence < 0.01
    rounding = with_cache(replicate(run.model), "int8")
    alone = evaluate(replace(run, model=rounding))
    assert found["int8"].nats == alone.nats != exact.nats
    assert evaluate(run) == exact
    with pytest.raises(UserError, match="was trained with an int8 cache and cannot be"):
        evaluate(replace(run, model=rounding), kv_cache="float16")


def test_a_dead_head_gives_a_warning_that_names_it_and_the_remedies():
    alive, shares = [0.8, None, 0.05], [0.8, 0.049, None, 0.0]
    assert dead_heads(alive) == []
    warnings = dead_heads(shares)
    assert [sentence.split(":")[1] for sentence in warnings] == [
        " head 2 is dead",
        " head 4 is dead",
    ]
    assert (
        "4.9% of its drafts are accepted, under 5%" in warnings[0]
        and "draft at most 1" in warnings[0]
    )
    described = Evaluation(1.0, [0.5] * 5, shares, [1.0] * 5, 8, 8).describe().splitlines()
    assert described[-2:] == warnings
