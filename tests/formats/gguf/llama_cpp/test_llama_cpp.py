"""llama.cpp computes the same logits, texts and tokens from our GGUF files."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimtp
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp import decoder as in_this_process
from minimtp.bench.baselines.llama_cpp.decoder import LlamaDecoder, decoder_of
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess
from minimtp.decode.drafters.deploy import deploy
from minimtp.engine.module import replace_modules
from minimtp.formats.export import export
from minimtp.formats.gguf.writer import write_gguf
from minimtp.formats.load import load
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer
from tests.formats.gguf.helpers import (
    BYTES,
    AsInGgml,
    needs_gguf,
    needs_llama,
    needs_tokenizers,
    unusual_texts,
)
from tests.helpers.strategies import models


@needs_llama
@needs_gguf
@settings(max_examples=12)
@given(model=models(quantization="none"))
def test_in_full_precision_llama_cpp_computes_the_same_logits_after_any_rollback(model):
    """Both sum some hundred float32 products in another order.

    So logits may differ by 1e-5 of the largest logit.
    """
    ours, theirs = deploy(model.trunk)[0], decoder_of(model, exact=True)
    assert (theirs.vocabulary_size, theirs.context_length) == (
        ours.vocabulary_size,
        ours.context_length,
    )
    rng, context_length = np.random.default_rng(4), model.config.context_length
    for rows in (1, context_length - 1, 1, context_length // 2, 2, context_length):
        keep = int(rng.integers(0, min(ours.length, context_length - rows) + 1))
        for target in (ours, theirs):
            target.truncate(keep)
        tokens = rng.integers(0, 257, rows)
        mine, other = ours.forward(tokens).logits, theirs.forward(tokens).logits
        assert ours.length == theirs.length == keep + rows
        np.testing.assert_allclose(
            other, mine, rtol=0, atol=1e-5 * max(1.0, float(np.abs(mine).max()))
        )
    with pytest.raises(ValueError, match="do not fit a context"):
        theirs.forward(tokens)


@needs_llama
@needs_gguf
@pytest.mark.parametrize("grid", ["q4_0", "q8_0"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_with_a_packed_model_llama_cpp_computes_the_logits_of_the_stored_blocks(grid, tied):
    """The reference multiplies the stored numbers by inputs rounded as in llama.cpp.

    If an error in the last bit rounds an input to another code, the logits differ by up to 3 % of
    the largest logit. This may happen in a few of 40 short texts. Our logits differ as much in all
    texts, because only llama.cpp rounds the scales of inputs to float16.
    """
    recipe = preset("quick", num_layers=2, context_length=64, tied_embeddings=tied)
    rng = np.random.default_rng(5)
    model = build_model(recipe, rng)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.05 * rng.standard_normal(
            parameter.data.shape, np.float32
        )
    model = convert(prepare_qat(model, QuantizationSpec(weights=grid, embedding="q8_0")))
    theirs, ours = decoder_of(model, exact=True), deploy(model)[0]
    plain = replace_modules(
        model, lambda _, module: AsInGgml(module) if isinstance(module, PackedMatrix) else None
    )
    off = []
    for text in rng.integers(0, 257, (40, 3)):
        reference = plain.logits(plain.hidden(text[None])).data[0]
        for target in (theirs, ours):
            target.truncate(0)
            off.append(
                np.abs(target.forward(text).logits - reference).max() / np.abs(reference).max()
            )
    assert max(off) < 0.03
    assert np.quantile(off[::2], 0.75) < 1e-5


@needs_gguf
@pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama_cpp is not in this Python"
)
def test_older_names_of_the_llama_cpp_functions_are_supported(monkeypatch, tmp_path):
    api = in_this_process.library()
    newer = {
        "llama_model_load_from_file",
        "llama_init_from_model",
        "llama_model_free",
        "llama_model_n_ctx_train",
        "llama_model_get_vocab",
        "llama_vocab_n_tokens",
        "llama_get_memory",
    }
    older = SimpleNamespace(
        **{
            name: getattr(api, name)
            for name in dir(api)
            if name[:6] == "llama_" and name not in newer
        }
    )
    older.llama_load_model_from_file = lambda *a: api.llama_model_load_from_file(*a)
    older.llama_new_context_with_model = lambda *a: api.llama_init_from_model(*a)
    older.llama_free_model = api.llama_model_free
    older.llama_n_ctx_train = api.llama_model_n_ctx_train
    older.llama_n_vocab = lambda model: api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    older.llama_tokenize = lambda model, *others: api.llama_tokenize(
        api.llama_model_get_vocab(model), *others
    )
    older.llama_kv_self_seq_rm = lambda context_length, *others: api.llama_memory_seq_rm(
        api.llama_get_memory(context_length), *others
    )
    model, tokens = build_model(preset("tiny"), np.random.default_rng(0)), np.arange(9)
    write_gguf(tmp_path / "model.gguf", model, BYTES, "model")
    found = []
    for library in (api, older):
        monkeypatch.setattr(in_this_process, "library", lambda library=library: library)
        decoder = LlamaDecoder(tmp_path / "model.gguf")
        decoder.forward(tokens)
        decoder.truncate(4)
        found.append(
            (
                decoder.forward(tokens).logits.tobytes(),
                decoder.tokenize("both"),
                decoder.vocabulary_size,
            )
        )
    assert found[0] == found[1] and found[0][1:] == (list(b"both"), 257)


@needs_llama
@needs_gguf
def test_llama_cpp_generates_the_same_text(folder):
    for name, tie in (("float", 1e-4), ("qat", 0.03)):
        run = minimtp.load(folder / name)
        ours, theirs = deploy(run.model)[0], decoder_of(run.model, exact=True)
        text = BYTES.encode("roses are").tolist()
        while len(text) < ours.context_length:
            for target in (ours, theirs):
                target.truncate(0)
            mine, other = (target.forward(np.array(text)).logits[-1] for target in (ours, theirs))
            if mine.argmax() != other.argmax():  # only two nearly equal logits may differ in order
                assert mine.max() - mine[other.argmax()] < tie * np.abs(mine).max()
            text.append(int(mine.argmax()))


@needs_llama
@needs_gguf
def test_the_tokenizer_of_llama_cpp_gives_the_same_tokens_for_any_text(folder, tmp_path):
    export(load(folder / "float"), tmp_path / "model.gguf")
    llama = LlamaProcess(tmp_path / "model.gguf")
    assert [llama.piece(token) for token in range(256)] == [bytes([token]) for token in range(256)]
    assert llama.piece(BYTES.end_token) == b""

    @given(unusual_texts)
    def check(text):
        assert llama.tokenize(text) == BYTES.encode(text).tolist()

    check()
    for text in (
        "a  b\n\n\tc \u2581d",
        "<|endoftext|>",
        "\0\x01\x7f",
        "".join(map(chr, range(1, 0x800))),
        "\U0010ffff\ufffd",
    ):
        assert llama.tokenize(text) == BYTES.encode(text).tolist()


@needs_llama
@needs_gguf
@needs_tokenizers
@settings(max_examples=60)
@given(text=st.one_of(st.text("the cats on1'm\n ,äå\U0001f389"), st.just("<tab>the cat sat")))
def test_the_tokenizer_of_llama_cpp_gives_the_tokens_of_a_tokenizer_file(bpe_in_llama, text):
    tokenizer, llama = bpe_in_llama
    assert llama.tokenize(text) == tokenizer.encode(text).tolist()


@pytest.fixture(scope="module")
def bpe_in_llama(bpe, tmp_path_factory):
    tokenizer = FileTokenizer(json.dumps(bpe))
    path = tmp_path_factory.mktemp("bpe") / "model.gguf"
    recipe = preset("tiny", vocabulary_size=tokenizer.vocabulary_size)
    write_gguf(path, build_model(recipe, np.random.default_rng(0)), tokenizer, "bpe")
    return tokenizer, LlamaProcess(path)
