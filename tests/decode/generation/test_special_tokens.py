"""Begin tokens, several end tokens, and stop strings that name a special token, in generation."""

import importlib.util
import json
from pathlib import Path

import pytest

from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.model.loaded import LoadedModel
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.tokenizers.content import TokenizerSettings
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer
from tests.training.tokenizers.test_pieces import pieces_content
from tests.training.tokenizers.test_text_survives import content

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)


def always(token, tokenizer):
    """Return a model that continues every text with this token."""
    recipe = preset("tiny", vocabulary_size=tokenizer.vocabulary_size, tied_embeddings=False)
    model = build_model(recipe, None)
    for name, parameter in model.named_parameters():
        parameter.data[...] = 1.0 if "norm" in name or name == "embedding.weight" else 0.0
    model.output.weight.data[token] = 1.0
    return LoadedModel(Path("model"), model, tokenizer)


def generated(loaded, prompt="the", **options):
    decoder = Decoder(loaded, DraftConfig("none", length=0))
    generation = decoder.generate(prompt, max_new_tokens=5, **options)
    return list(generation), generation


@pytest.fixture(scope="module")
def chat():
    settings = TokenizerSettings(end_token=None, begin_tokens=(7,))
    return FileTokenizer(json.dumps(content()), settings)


def test_a_stop_string_that_is_the_name_of_a_special_token_ends_the_text(chat):
    mark = chat.special_tokens["<|im_end|>"]
    tokens, generation = generated(always(mark, chat))
    assert tokens == [mark] * 5 and generation.reason == "length"
    tokens, generation = generated(always(mark, chat), stop="<|im_end|>")
    assert tokens == [mark] and generation.reason == "stop"
    tokens, generation = generated(always(mark, chat), stop=["<|im_end|><|im"])
    assert tokens == [mark] * 2 and generation.reason == "stop"


def test_every_end_token_of_the_model_ends_the_text(chat):
    mark = chat.special_tokens["<|im_end|>"]
    settings = TokenizerSettings(end_tokens=(mark,))
    ending = FileTokenizer(json.dumps(content()), settings)
    assert generated(always(mark, ending))[0] == [mark]


def test_a_prompt_begins_with_the_begin_tokens_and_the_prefix_of_the_tokenizer(chat):
    _, generation = generated(always(9, chat))
    assert generation.tokens[: generation.statistics.prompt_tokens] == [7, *chat.encode("the")]
    spelt = FileTokenizer(json.dumps(pieces_content()), TokenizerSettings(begin_tokens=(1,)))
    _, generation = generated(always(9, spelt))
    prompt = generation.tokens[: generation.statistics.prompt_tokens]
    assert prompt == [1, *spelt.encode(" the")] and spelt.decode(prompt) == " the"
