"""A loaded GGUF file computes the same bits as the exported run."""

import json
import sys

import pytest
from hypothesis import given, settings

import minimtp
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.decode.decoder import deploy
from minimtp.formats.gguf.reader import GgufFile, load_gguf, read_gguf
from minimtp.formats.gguf.writer import export, write_gguf
from minimtp.formats.load import load
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from tests.formats.gguf.helpers import BYTES, needs_gguf
from tests.strategies import models


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


@needs_gguf
def test_a_file_that_cannot_be_written_or_loaded_is_refused_in_one_sentence(
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
