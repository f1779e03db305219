"""Decoding at any context length: memory follows the text, and the text does not depend on the
context or on when the cache grew.
"""

import tracemalloc
from pathlib import Path

import pytest

from minimtp.backend import numpy as np
from minimtp.decode import cache as kv_cache
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.decode.model_runner import ModelRunner
from minimtp.errors import UserError
from minimtp.model.loaded import LoadedModel
from minimtp.training.build import build_model
from minimtp.training.tokenizers.tokenizer import ByteTokenizer
from tests.training.helpers import recipe_of

CONTEXTS = (2, 7, 64, 2_400, 8_192, 65_537, 1_000_000)
HEADS = ("none", "parallel", "sequential", "token_conditioned", "eagle3")
PROMPT = "roses are red, "


def loaded(context: int, heads: str = "none", **changes: object) -> LoadedModel:
    """Return a random model with this context length."""
    depth = {} if heads == "none" else {"heads": heads, "draft_depth": 3}
    recipe = recipe_of(context_length=context, batch_size=1, tokens=context, **depth, **changes)
    model = build_model(recipe, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data[...] = 0.3 * rng.standard_normal(parameter.shape)
    return LoadedModel(Path("run"), model, ByteTokenizer())


def text_of(decoder: Decoder, prompt: str = PROMPT, count: int = 40) -> list[int]:
    generation = decoder.generate(prompt, max_new_tokens=count)
    return [*generation]


@pytest.mark.parametrize("heads", HEADS)
def test_a_long_context_takes_no_memory_and_gives_the_text_of_a_short_one(heads):
    expected = text_of(Decoder(loaded(64, heads), DraftConfig(length=3 * (heads != "none"))))
    for context in (2_400, 65_537, 1_000_000):
        model = loaded(context, heads)
        tracemalloc.start()
        found = text_of(Decoder(model, DraftConfig(length=3 * (heads != "none"))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == expected
        assert peak < 5e6, f"{peak:,} bytes for a context of {context}"


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_text_ends_at_its_context_or_the_prompt_is_refused_in_one_sentence(context):
    decoder = Decoder(loaded(context))
    if context < len(PROMPT):
        with pytest.raises(UserError, match=f"the prompt has 15 tokens.*context holds {context}"):
            text_of(decoder)
        return
    assert len(text_of(decoder, count=60)) == min(60, context + 1 - len(PROMPT))


@pytest.mark.parametrize("drafter", [*HEADS[1:], "ngram", "model"])
def test_texts_do_not_depend_on_when_the_cache_grows(drafter, monkeypatch):
    """The cache starts with room for 1, 4, 16 or 256 positions. The texts have about 120."""
    model = loaded(200, drafter if drafter in HEADS else "none")
    expected = text_of(Decoder(model, DraftConfig("none")), count=100)
    for room in (1, 4, 16, 256):
        monkeypatch.setattr(kv_cache, "FIRST_ROOM", room)
        small = loaded(200) if drafter == "model" else drafter
        decoder = Decoder(model, DraftConfig("heads" if drafter in HEADS else small, 3))
        assert text_of(decoder, count=100) == expected
        assert text_of(decoder, count=100) == expected  # with the cache that is now larger
        batch = decoder.generate_batch([PROMPT, PROMPT], max_new_tokens=100)
        for _ in batch:
            pass
        assert [row.tokens[len(PROMPT) :] for row in batch.rows] == [expected] * 2


@pytest.mark.parametrize("heads", ["parallel", "sequential", "token_conditioned", "eagle3"])
def test_trees_do_not_depend_on_when_the_cache_grows(heads, monkeypatch):
    model = loaded(200, heads)
    expected = text_of(Decoder(model, DraftConfig("none")), count=100)
    for room in (1, 4, 256):
        monkeypatch.setattr(kv_cache, "FIRST_ROOM", room)
        assert text_of(Decoder(model, DraftConfig("heads", 3, tree=8)), count=100) == expected


def test_room_doubles_and_ends_at_the_context():
    rooms = [kv_cache.room_for(n, 1000) for n in (1, 256, 257, 512, 513, 1000)]
    assert rooms == [256, 256, 512, 512, 1000, 1000]
    runner = ModelRunner(loaded(1000).model)
    for length in range(1, 1001, 111):
        runner.forward(np.zeros(length - runner.length, np.int64))
        assert runner.cache.context_length == kv_cache.room_for(length, 1000)
        assert runner.cache.nbytes == runner.cache_bytes(length)
    with pytest.raises(ValueError, match="1003 rows do not fit a context of 1000"):
        runner.forward(np.zeros(3, np.int64))
        runner.forward(np.zeros(1003 - runner.length, np.int64))


def test_a_smaller_context_can_be_requested_and_a_larger_one_is_refused():
    model = loaded(8_192)
    assert len(text_of(Decoder(model, context_length=20))) == 21 - len(PROMPT)
    with pytest.raises(UserError, match="context_length must be .* at least 1, not 0"):
        Decoder(model, context_length=0)
    with pytest.raises(UserError, match="context must be 1 to 8192 tokens.*not 8193"):
        Decoder(model, context_length=8_193)
