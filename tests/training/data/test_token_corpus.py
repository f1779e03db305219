"""A corpus of ready tokens: it is trained on and resumed as any other."""

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.data.corpus import Corpus, TokenCorpus
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer

RECIPE = Recipe(
    context_length=16, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
    intermediate_size=32, vocabulary_size=257, tokens=2048, batch_size=2,
)  # fmt: skip


def tokens_of(seed):
    return np.random.default_rng(seed).integers(0, 257, 600)


def corpus_of(seed=0, validation=1):
    return TokenCorpus("tokens", tokens_of(seed), tokens_of(validation), ByteTokenizer(), 2)


def test_it_has_the_batches_and_windows_of_a_corpus_of_the_same_tokens():
    documents = [(f"{n}.txt", bytes(65 + (k * n) % 26 for k in range(300))) for n in range(40)]
    text = Corpus("text", documents)
    tokens = TokenCorpus("tokens", text.train, text.validation, ByteTokenizer(), 40)
    for step in range(3):
        batch = dict(seed=1, batch_size=2, sequence_length=32, depth=2)
        assert np.array_equal(text.batch(step, **batch), tokens.batch(step, **batch))
    windows = dict(sequence_length=32, depth=1)
    assert np.array_equal(
        text.validation_windows(500, **windows), tokens.validation_windows(500, **windows)
    )
    assert (text.train_bytes, text.validation_bytes) == (
        tokens.train_bytes,
        tokens.validation_bytes,
    )


def test_its_fingerprint_covers_both_parts_and_where_they_meet():
    found = {corpus_of().fingerprint, corpus_of(2).fingerprint, corpus_of(0, 2).fingerprint}
    joined = np.concatenate([tokens_of(0), tokens_of(1)])
    shifted = TokenCorpus("tokens", joined[:599], joined[599:], ByteTokenizer())
    assert len(found | {shifted.fingerprint}) == 4
    assert corpus_of().fingerprint == corpus_of().fingerprint
    assert corpus_of().describe().startswith("tokens: 2 files, ")


def test_a_run_on_it_is_resumed_with_the_same_tokens_and_with_no_others(tmp_path):
    options = dict(device="cpu", threads=1, report=lambda line: None)
    train(RECIPE, corpus_of(), tmp_path / "whole", **options)
    train(RECIPE, corpus_of(), tmp_path / "parts", stop_at_step=20, **options)
    with pytest.raises(UserError, match="resume with the same text"):
        train(None, corpus_of(3), tmp_path / "parts", Start(resume=True), **options)
    train(None, corpus_of(), tmp_path / "parts", Start(resume=True), **options)
    whole, parts = (checkpoint.read(tmp_path / name) for name in ("whole", "parts"))
    assert all(np.array_equal(a, parts.parameters[name]) for name, a in whole.parameters.items())
    assert parts.corpus["fingerprint"] == corpus_of().fingerprint
