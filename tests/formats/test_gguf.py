"""GGUF files: what training computed with is what the file holds, byte for byte, and what llama.cpp computes with."""

import errno
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimtp
from minimtp.backend import numpy as np
from minimtp.bench.baselines import llama_cpp as llama_peer
from minimtp.bench.baselines.llama_cpp import LlamaDecoder
from minimtp.cli import main
from minimtp.decode.decoder import deploy
from minimtp.engine.module import Module, replace_modules
from minimtp.engine.tensor import Tensor
from minimtp.errors import UserError
from minimtp.formats.gguf.reader import GgufFile, load_gguf, read_gguf
from minimtp.formats.gguf.vocabulary import tokenizer_of, vocabulary_of
from minimtp.formats.gguf.writer import caveats, export, write_gguf
from minimtp.formats.load import load
from minimtp.quant.grids import BLOCK_GRIDS
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.data.tokenizer import ByteTokenizer, FileTokenizer
from minimtp.training.presets import preset
from tests.strategies import models

BYTES = ByteTokenizer()
needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="needs the extra interop (gguf)"
)
needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)
needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed: no second opinion",
)
unusual_texts = st.one_of(
    st.text(), st.text(" \n\t\r'sdrevlm1a\u2581\u00a0\ufeff\u00e9\u0301\U0001f389\0")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A poem, and runs that learned it: in full precision with heads, and through rounding."""
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "poem.txt").write_bytes(
        b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 60
    )
    small = [
        "--preset",
        "tiny",
        "--tokens",
        "6k",
        "--evaluation-tokens",
        "256",
        "--corpus",
        str(folder / "poem.txt"),
    ]
    assert (
        main(
            [
                "train",
                *small,
                "--heads",
                "parallel",
                "--draft-depth",
                "2",
                "--out",
                str(folder / "float"),
            ]
        )
        == 0
    )
    assert main(["train", *small, "--quantization", "qat", "--out", str(folder / "qat")]) == 0
    return folder


def written(tmp_path, model, tokenizer=BYTES):
    """The file of a model, as the package gguf reads it: (metadata, {tensor: (type, array)})."""
    from gguf import GGUFReader

    write_gguf(tmp_path / "model.gguf", model, tokenizer, "model")
    reader = GGUFReader(tmp_path / "model.gguf")
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    return metadata, {
        tensor.name: (tensor.tensor_type, np.array(tensor.data)) for tensor in reader.tensors
    }


def expected(model):
    """{tensor: the module that it is of, its first row, the row after its last}, in llama.cpp's names."""
    config, trunk = model.config, model.trunk
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    width, inner = config.hidden_size, config.intermediate_size
    found = {
        "token_embd": (trunk.embedding, 0, config.vocabulary_size),
        "output_norm": (trunk.final_norm, 0, width),
    }
    if not config.tied_embeddings:
        found["output"] = trunk.output, 0, config.vocabulary_size
    for i, block in enumerate(trunk.blocks):
        qkv, gate_up = block.attention.qkv, block.feed_forward.gate_up
        found |= {f"blk.{i}.{name}": rows for name, rows in {
            "attn_norm": (block.attention_norm, 0, width), "attn_q": (qkv, 0, queries),
            "attn_k": (qkv, queries, queries + keys), "attn_v": (qkv, queries + keys, queries + 2 * keys),
            "attn_output": (block.attention.output, 0, width), "ffn_norm": (block.feed_forward_norm, 0, width),
            "ffn_gate": (gate_up, 0, inner), "ffn_up": (gate_up, inner, 2 * inner),
            "ffn_down": (block.feed_forward.down, 0, width),
        }.items()}  # fmt: skip
    return {f"{name}.weight": rows for name, rows in found.items()}


def check_tensors(model, tensors):
    from gguf.quants import dequantize

    if any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules()):
        model = convert(model)
    assert tensors.keys() == expected(model).keys()
    for name, (module, first, end) in expected(model).items():
        kind, array = tensors[name]
        if isinstance(module, PackedMatrix):
            assert kind.name.lower() == module.grid.name
            assert array.tobytes() == module.packed[first:end].tobytes(), name
            np.testing.assert_array_equal(dequantize(array, kind), module.dequantize()[first:end])
        else:
            assert kind.name == "F32" and array.shape == module.weight.data[first:end].shape
            assert array.tobytes() == module.weight.data[first:end].tobytes(), name


@needs_gguf
@settings(max_examples=30)
@given(model=models())
def test_every_tensor_of_the_file_is_byte_for_byte_what_decoding_multiplies_by(tmp_path, model):
    metadata, tensors = written(tmp_path, model)
    check_tensors(model, tensors)
    config = model.config
    assert metadata["general.architecture"] == "llama"
    assert (
        metadata["llama.vocab_size"]
        == len(metadata["tokenizer.ggml.tokens"])
        == config.vocabulary_size
    )
    assert (
        metadata["llama.context_length"] == config.context_length
        and metadata["llama.block_count"] == config.num_layers
    )
    assert (
        metadata["llama.embedding_length"] == config.hidden_size
        and metadata["llama.feed_forward_length"] == config.intermediate_size
    )
    assert metadata["llama.attention.head_count"] == config.num_heads
    assert metadata["llama.attention.head_count_kv"] == config.num_kv_heads
    assert metadata["llama.rope.dimension_count"] == config.head_dim
    assert metadata["llama.rope.freq_base"] == np.float32(config.rope_theta)
    assert (metadata["tokenizer.ggml.add_bos_token"], metadata["tokenizer.ggml.add_eos_token"]) == (
        False,
        False,
    )
    assert metadata["tokenizer.ggml.eos_token_id"] == BYTES.end_token
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == np.float32(config.norm_eps)


@needs_gguf
@pytest.mark.parametrize("grid", BLOCK_GRIDS)
def test_every_grid_of_ggmls_is_written_as_its_own_type(tmp_path, grid):
    model = build_model(
        preset("tiny", hidden_size=256, intermediate_size=256, tied_embeddings=False),
        np.random.default_rng(2),
    )
    model = convert(prepare_qat(model, QuantizationSpec(weights=grid, embedding="q8_0", output=grid)))
    metadata, tensors = written(tmp_path, model)
    check_tensors(model, tensors)
    from gguf import LlamaFileType

    assert LlamaFileType(metadata["general.file_type"]).name.lower().startswith(f"mostly_{grid}")
    again = load_gguf(tmp_path / "model.gguf")
    assert (again.packed.weights, again.packed.embedding, again.packed.output) == (
        grid,
        "q8_0",
        grid,
    )


@needs_gguf
def test_half_precision_is_written_as_its_own_halves_and_loaded_as_the_same_numbers(tmp_path):
    model = round_to_nearest(
        build_model(preset("tiny"), np.random.default_rng(0)), QuantizationSpec("f16", "f16", "f16")
    )
    path = tmp_path / "half.gguf"
    write_gguf(path, model, BYTES, "half")
    file = read_gguf(path)
    down = model.blocks[0].feed_forward.down
    assert file.types["blk.0.ffn_down.weight"] == file.types["token_embd.weight"] == "f16"
    assert file.tensors["blk.0.ffn_down.weight"].tobytes() == np.asarray(down.packed).tobytes()
    loaded = load_gguf(path).model
    assert np.array_equal(
        loaded.blocks[0].feed_forward.down.weight.data, file.tensors["blk.0.ffn_down.weight"]
    )
    assert caveats(model) == [
        "this model does not round the inputs of float16 matrices; llama.cpp rounds them to float16"
    ]


@needs_gguf
@pytest.mark.parametrize("scales", ["learned", "learned-bound"])
def test_learned_steps_are_in_the_blocks(tmp_path, scales):
    recipe = preset("tiny", quantization="qat", weight_scales=scales)
    spec = QuantizationSpec(scales=scales)
    model = prepare_qat(build_model(recipe, np.random.default_rng(3)), spec)
    for name, parameter in model.named_parameters():
        if name.endswith("log_steps"):
            parameter.data += 0.2
    _, tensors = written(tmp_path, model)
    check_tensors(model, tensors)


@needs_gguf
@settings(max_examples=15)
@given(model=models())
def test_a_file_that_is_loaded_computes_the_same_bits_and_writes_the_same_file(tmp_path, model):
    write_gguf(tmp_path / "model.gguf", model, BYTES, "model")
    again = minimtp.load(tmp_path / "model.gguf")
    prompt = np.arange(model.config.context_length) % 256
    mine, theirs = (deploy(m)[0].forward(prompt).logits for m in (model.trunk, again.model))
    assert mine.tobytes() == theirs.tobytes()
    assert again.model.config == model.config
    export(again, tmp_path / "again" / "model.gguf")
    assert (tmp_path / "again" / "model.gguf").read_bytes() == (
        tmp_path / "model.gguf"
    ).read_bytes()


@needs_gguf
def test_rope_base_and_epsilon_come_back_as_the_decimals_they_were(tmp_path):
    recipe = preset("tiny", rope_theta=12345.678, norm_eps=3e-6)
    write_gguf(
        tmp_path / "model.gguf", build_model(recipe, np.random.default_rng(0)), BYTES, "model"
    )
    again = load_gguf(tmp_path / "model.gguf").recipe
    assert (again.rope_theta, again.norm_eps) == (12345.678, 3e-6)


@needs_gguf
def test_a_file_of_any_context_that_a_model_can_have_is_loaded(tmp_path):
    context_length = 2**20
    recipe = preset(
        "tiny", num_layers=1, context_length=context_length, batch_size=1, tokens=context_length
    )
    write_gguf(tmp_path / "long.gguf", build_model(recipe, np.random.default_rng(0)), BYTES, "long")
    assert load_gguf(tmp_path / "long.gguf").recipe.context_length == context_length


# ---------------------------------------------------------------------------------------------------------- the vocabulary


def test_each_byte_is_a_token_by_its_gpt_2_spelling_and_nothing_is_ever_merged():
    vocabulary = vocabulary_of(BYTES)
    assert (
        len(set(vocabulary.tokens)) == BYTES.vocabulary_size
        and vocabulary.tokens[BYTES.end_token] == "<|endoftext|>"
    )
    assert (
        vocabulary.tokens[ord("A")] == "A"
        and vocabulary.tokens[ord(" ")] == "\u0120"
        and vocabulary.tokens[10] == "\u010a"
    )
    assert vocabulary.types == [1] * 256 + [3]  # llama.cpp's "normal", and "control" for the end
    left, right = vocabulary.merges[0].split(" ")
    assert len(vocabulary.merges) == 1 and {left, right} == {
        "<|endoftext|>"
    }  # no text is ever cut into such a piece
    assert isinstance(tokenizer_of(vocabulary), ByteTokenizer)


@needs_tokenizers
@given(text=unusual_texts)
def test_the_vocabulary_of_bytes_makes_bytes_of_any_text_in_another_librarys_tokenizer(text):
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = {name: token for token, name in enumerate(vocabulary_of(BYTES).tokens)}
    other = Tokenizer(models.BPE(names, []))
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert other.encode(text).ids == BYTES.encode(text).tolist()


@pytest.fixture(scope="module")
def bpe():
    """The content of a byte-level tokenizer file, with merges, a hole among the ids, and a mark that is not special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    trained.train_from_iterator(
        ["the cat sat on the mat, and the cät's 1234 hats are it's"] * 10, trainer
    )
    trained.add_tokens([AddedToken("<tab>", normalized=False)])
    content = json.loads(trained.to_str())
    content["model"]["vocab"]["<tab>"] = content["added_tokens"][-1]["id"] + 2
    return content


@needs_tokenizers
@given(
    text=st.one_of(
        unusual_texts, st.text("the cats on1'm<|>\n"), st.just("<tab>the cat<|endoftext|>sat")
    )
)
def test_a_tokenizer_file_comes_back_from_its_vocabulary_and_merges(bpe, text):
    tokenizer = FileTokenizer(json.dumps(bpe))
    vocabulary = vocabulary_of(tokenizer)
    again = tokenizer_of(vocabulary)
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert (again.vocabulary_size, again.end_token) == (
        tokenizer.vocabulary_size,
        tokenizer.end_token,
    )
    assert vocabulary_of(again) == vocabulary


@needs_tokenizers
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(normalizer={"type": "NFC"}),
        lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
        lambda content: content["pre_tokenizer"].update(use_regex=False),
        lambda content: content.update(pre_tokenizer={"type": "Whitespace"}),
        lambda content: content.update(pre_tokenizer=None),
        lambda content: content["model"].update(ignore_merges=True),
        lambda content: content["added_tokens"][-1].update(lstrip=True),
    ],
)  # fmt: skip
def test_a_tokenizer_that_llama_cpp_would_read_differently_is_refused(bpe, change):
    content = json.loads(json.dumps(bpe))
    change(content)
    with pytest.raises(UserError, match="which a GGUF file cannot express"):
        vocabulary_of(FileTokenizer(json.dumps(content)))


# ------------------------------------------------------------------------------------------------- refusals and the command


@needs_gguf
def test_the_command_says_what_is_in_the_file_and_what_is_not(folder, tmp_path, capsys):
    out = tmp_path / "new" / "poem.gguf"
    assert main(["export", str(folder / "float"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out}: {out.stat().st_size:,} bytes, 11 tensors (11 in f32)" in said
    assert (
        "note: the 2 prediction heads are not in the file" in said
        and f"llama-completion -m {out}" in said
    )
    assert main(["export", str(folder / "qat"), "--out", str(out)]) == 0  # replaces it
    said = capsys.readouterr().out
    assert "(7 in q4_0, 3 in f32, 1 in q8_0)" in said and "note" not in said
    assert minimtp.export(load(folder / "qat"), tmp_path / "same.gguf").caveats == []
    assert (tmp_path / "same.gguf").read_bytes() == out.read_bytes()


@needs_gguf
def test_a_file_generates_and_evaluates_as_its_run_does(folder, tmp_path, capsys):
    for name in ("float", "qat"):
        export(load(folder / name), tmp_path / f"{name}.gguf")
        texts, scores = [], []
        for run in (str(folder / name), str(tmp_path / f"{name}.gguf")):
            assert (
                main(
                    [
                        "generate",
                        run,
                        "--prompt",
                        "roses",
                        "--max-new-tokens",
                        "20",
                        "--draft",
                        "none",
                    ]
                )
                == 0
            )
            texts.append(capsys.readouterr().out)
            assert (
                main(
                    [
                        "evaluate",
                        run,
                        "--corpus",
                        str(folder / "poem.txt"),
                        "--tokens",
                        "200",
                        "--json",
                    ]
                )
                == 0
            )
            said = capsys.readouterr()
            scores.append(json.loads(said.out)["bits_per_byte"])
            assert (
                "warning: the run does not say which text it was trained on" in said.err
            ) == run.endswith(".gguf")
        assert texts[0] == texts[1] and len(texts[0]) > 10
        assert scores[0] == pytest.approx(scores[1], rel=1e-6)


@needs_gguf
def test_a_grid_that_is_no_type_of_ggml_is_refused_and_nothing_is_written(tmp_path):
    model = prepare_qat(
        build_model(preset("tiny"), np.random.default_rng(0)),
        QuantizationSpec(weights="int3-restricted-g32"),
    )
    with pytest.raises(UserError, match="int3-restricted-g32, which a GGUF file cannot hold"):
        write_gguf(tmp_path / "new" / "model.gguf", model, BYTES, "model")
    assert list(tmp_path.iterdir()) == []


@needs_gguf
def test_what_llama_cpp_does_differently_is_told():
    def told(grid="q4_0", **changes):
        model = build_model(
            preset("tiny", hidden_size=256, intermediate_size=256), np.random.default_rng(0)
        )
        return " ".join(
            caveats(convert(prepare_qat(model, QuantizationSpec(weights=grid, heads=grid, **changes))))
        )

    assert told() == told("q8_0") == told("q4_1") == ""
    assert "does not round the inputs" in told(activations="none")
    assert "one scale per token" in told(activations="int8-token")
    assert "groups of 256" in told("q4_k") and "groups of 256" not in told(
        "q4_k", activations="none"
    )
    assert "quantized KV cache" in told(cache="int4")


@needs_gguf
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr
)
def test_a_file_that_cannot_be_finished_leaves_the_previous_one_as_it_was(
    folder, tmp_path, monkeypatch, failure
):
    from gguf import GGUFWriter

    def fails(self):
        Path(self.path).write_bytes(b"half")
        raise failure

    path = tmp_path / "model.gguf"
    path.write_bytes(b"the previous one")
    monkeypatch.setattr(GGUFWriter, "write_tensors_to_file", fails)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt):
        export(load(folder / "float"), path)
    assert [found.name for found in tmp_path.iterdir()] == ["model.gguf"]
    assert path.read_bytes() == b"the previous one"


@needs_gguf
def test_what_cannot_be_written_or_loaded_is_refused_in_one_sentence(
    folder, tmp_path, monkeypatch, capsys
):
    from gguf import GGUFWriter

    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        return said.err

    assert "is not a file" in refused("export", folder / "float", "--out", tmp_path)
    assert "there is no file" in refused("generate", tmp_path / "missing.gguf")
    whole = tmp_path / "whole.gguf"
    export(load(folder / "float"), whole)
    for content in (b"", b"GGUF", b"not one at all" * 9, whole.read_bytes()[:-4000]):
        (tmp_path / "bad.gguf").write_bytes(content)
        assert "is damaged, or is not a GGUF file" in refused("evaluate", tmp_path / "bad.gguf")

    file = read_gguf(whole)
    for change, words in (
        (
            lambda f: f.metadata.update({"general.architecture": "gpt2"}),
            "unsupported architecture gpt2 (supported: llama)",
        ),
        (
            lambda f: f.metadata.update({"tokenizer.ggml.pre": "qwen2"}),
            "tokenizer gpt2 with pre-tokenizer qwen2 is not supported",
        ),
        (
            lambda f: f.metadata.update({"llama.rope.dimension_count": 4}),
            "llama.rope.dimension_count 4 is not supported",
        ),
        (
            lambda f: f.metadata.update({"llama.rope.scaling.type": "yarn"}),
            "RoPE scaling yarn is not supported",
        ),
        (lambda f: f.metadata.pop("llama.block_count"), "does not contain 'llama.block_count'"),
        (lambda f: f.tensors.pop("output_norm.weight"), "lacks output_norm.weight"),
        (lambda f: f.tensors.update({"rope_freqs.weight": np.ones(8)}), "has rope_freqs.weight"),
        (lambda f: f.types.update({"blk.0.attn_q.weight": "bf16"}), "which cannot be loaded"),
        (
            lambda f: f.types.update({"token_embd.weight": "q8_0"}),
            "one type for the matrices of all blocks",
        ),
    ):
        changed = GgufFile(dict(file.metadata), dict(file.tensors), dict(file.types))
        change(changed)
        with monkeypatch.context() as patched:
            patched.setattr(
                "minimtp.formats.gguf.reader.read_gguf", lambda path, changed=changed: changed
            )
            assert words in refused("evaluate", whole)

    monkeypatch.setitem(sys.modules, "gguf", None)
    assert GGUFWriter and "minimtp[interop]" in refused(
        "export", folder / "float", "--out", tmp_path / "other.gguf"
    )


# -------------------------------------------------------------------------------------------------------------- llama.cpp


@needs_llama
@needs_gguf
@settings(max_examples=12)
@given(model=models(quantization="none"))
def test_llama_cpp_computes_the_logits_of_full_precision_whatever_was_taken_back(model):
    """1e-5 of the largest: both sum some hundred float32 products, in another order."""
    ours, theirs = deploy(model.trunk)[0], LlamaDecoder.of(model, exact=True)
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


class AsInGgml(Module):
    """A packed matrix, with its inputs rounded by the package gguf to ggml's Q8_0, and the rest in float64."""

    def __init__(self, matrix):
        self.weight = matrix.dequantize().astype(np.float64)

    def __call__(self, x):
        return self.product(x) if isinstance(x, Tensor) else Tensor(self.weight[x])

    def product(self, x):
        from gguf import GGMLQuantizationType, quants

        kind, rows = GGMLQuantizationType.Q8_0, x.data.reshape(-1, x.shape[-1]).astype(np.float32)
        rounded = quants.dequantize(quants.quantize(rows, kind), kind).astype(np.float64)
        return Tensor((rounded @ self.weight.T).reshape(*x.shape[:-1], -1))

    logits = product


@needs_llama
@needs_gguf
@pytest.mark.parametrize("grid", ["q4_0", "q8_0"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_llama_cpp_computes_with_the_bytes_that_training_saw(grid, tied):
    """Of a packed model llama.cpp computes what plain arrays do with the blocks' numbers and inputs rounded as it rounds them.

    Where a last bit tips an input over to its next code the two part, by less than 3 % of the largest logit; that may happen in
    a few of 40 short texts. Ours part as far everywhere: llama.cpp rounds the scales of inputs to float16.
    """
    recipe = preset("quick", num_layers=2, context_length=64, tied_embeddings=tied)
    rng = np.random.default_rng(5)
    model = build_model(recipe, rng)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.05 * rng.standard_normal(
            parameter.data.shape, np.float32
        )
    model = convert(prepare_qat(model, QuantizationSpec(weights=grid, embedding="q8_0")))
    theirs, ours = LlamaDecoder.of(model, exact=True), deploy(model)[0]
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


@needs_llama
@needs_gguf
def test_a_library_with_the_older_names_of_its_functions_does_as_well(monkeypatch):
    api = llama_peer._library()
    newer = {"llama_model_load_from_file", "llama_init_from_model", "llama_model_free", "llama_model_n_ctx_train",
             "llama_model_get_vocab", "llama_vocab_n_tokens", "llama_get_memory"}  # fmt: skip
    older = SimpleNamespace(
        **{
            name: getattr(api, name)
            for name in dir(api)
            if name[:6] == "llama_" and name not in newer
        }
    )
    older.llama_load_model_from_file, older.llama_new_context_with_model = (
        lambda *arguments: api.llama_model_load_from_file(*arguments), lambda *arguments: api.llama_init_from_model(*arguments)
    )  # fmt: skip
    older.llama_free_model, older.llama_n_ctx_train = (
        api.llama_model_free,
        api.llama_model_n_ctx_train,
    )
    older.llama_n_vocab = lambda model: api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    older.llama_tokenize = lambda model, *rest: api.llama_tokenize(
        api.llama_model_get_vocab(model), *rest
    )
    older.llama_kv_self_seq_rm = lambda context_length, *rest: api.llama_memory_seq_rm(
        api.llama_get_memory(context_length), *rest
    )
    model, tokens = build_model(preset("tiny"), np.random.default_rng(0)), np.arange(9)
    found = []
    for library in (api, older):
        monkeypatch.setattr(llama_peer, "_library", lambda library=library: library)
        decoder = LlamaDecoder.of(model)
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
def test_llama_cpp_writes_the_text_that_we_write(folder):
    for name, tie in (("float", 1e-4), ("qat", 0.03)):
        run = minimtp.load(folder / name)
        ours, theirs = deploy(run.model)[0], LlamaDecoder.of(run.model, exact=True)
        text = BYTES.encode("roses are").tolist()
        while len(text) < ours.context_length:
            for target in (ours, theirs):
                target.truncate(0)
            mine, other = (target.forward(np.array(text)).logits[-1] for target in (ours, theirs))
            if mine.argmax() != other.argmax():  # they may part where the two are nearly as likely
                assert mine.max() - mine[other.argmax()] < tie * np.abs(mine).max()
            text.append(int(mine.argmax()))


@needs_llama
@needs_gguf
def test_llama_cpps_tokenizer_makes_our_tokens_of_any_text(folder, tmp_path):
    export(load(folder / "float"), tmp_path / "model.gguf")
    llama = LlamaDecoder(tmp_path / "model.gguf")
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
def test_llama_cpps_tokenizer_makes_the_tokens_of_a_tokenizer_file(bpe_in_llama, text):
    tokenizer, llama = bpe_in_llama
    assert llama.tokenize(text) == tokenizer.encode(text).tolist()


@pytest.fixture(scope="module")
def bpe_in_llama(bpe, tmp_path_factory):
    tokenizer = FileTokenizer(json.dumps(bpe))
    path = tmp_path_factory.mktemp("bpe") / "model.gguf"
    recipe = preset("tiny", vocabulary_size=tokenizer.vocabulary_size)
    write_gguf(path, build_model(recipe, np.random.default_rng(0)), tokenizer, "bpe")
    return tokenizer, LlamaDecoder(path)
