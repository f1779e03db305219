"""An exported GGUF file holds, byte for byte, the numbers that training computed with."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings

import minimtp
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.formats.export import export
from minimtp.formats.gguf.container import open_gguf
from minimtp.formats.gguf.reader import load_gguf
from minimtp.formats.gguf.writer import caveats, write_gguf
from minimtp.formats.load import load
from minimtp.quant.grids import BLOCK_GRIDS
from minimtp.quant.grids.mixture import first_grid
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from tests.formats.gguf.helpers import BYTES, check_tensors, needs_gguf, written
from tests.helpers.strategies import models


@needs_gguf
@settings(max_examples=30)
@given(model=models())
def test_every_tensor_holds_the_bytes_that_decoding_computes_with(tmp_path, model):
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
@pytest.mark.parametrize("weights", [*BLOCK_GRIDS, "q4_0,qkv=q5_0,down=q8_0"])
def test_every_ggml_grid_is_written_as_its_own_type(tmp_path, weights):
    grid = first_grid(weights)
    model = build_model(
        preset("tiny", hidden_size=256, intermediate_size=256, tied_embeddings=False),
        np.random.default_rng(2),
    )
    model = convert(
        prepare_qat(model, QuantizationSpec(weights=weights, embedding="q8_0", output=grid))
    )
    metadata, tensors = written(tmp_path, model)
    check_tensors(model, tensors)
    from gguf import LlamaFileType

    assert LlamaFileType(metadata["general.file_type"]).name.lower().startswith(f"mostly_{grid}")
    again = load_gguf(tmp_path / "model.gguf")
    assert (again.packed.weights, again.packed.embedding, again.packed.output) == (
        weights,
        "q8_0",
        grid,
    )


@needs_gguf
def test_half_precision_is_written_unchanged_and_loaded_as_the_same_numbers(tmp_path):
    model = round_to_nearest(
        build_model(preset("tiny"), np.random.default_rng(0)), QuantizationSpec("f16", "f16", "f16")
    )
    path = tmp_path / "half.gguf"
    write_gguf(path, model, BYTES, "half")
    file = open_gguf(path)
    stored = file.array("blk.0.ffn_down.weight")
    down = model.blocks[0].feed_forward.down
    assert {file.tensors[f"{name}.weight"].type for name in ("blk.0.ffn_down", "token_embd")} == {
        "f16"
    }
    assert stored.tobytes() == np.asarray(down.packed).tobytes()
    loaded = load_gguf(path).model
    assert np.array_equal(loaded.blocks[0].feed_forward.down.weight.data, stored)
    assert caveats(model) == [
        "this model does not round the inputs of float16 matrices; llama.cpp rounds them to float16"
    ]


@needs_gguf
@pytest.mark.parametrize("scales", ["learned", "learned-bound"])
def test_learned_steps_are_stored_in_the_blocks(tmp_path, scales):
    recipe = preset("tiny", quantization="qat", weight_scales=scales)
    spec = QuantizationSpec(scales=scales)
    model = prepare_qat(build_model(recipe, np.random.default_rng(3)), spec)
    for name, parameter in model.named_parameters():
        if name.endswith("log_steps"):
            parameter.data += 0.2
    _, tensors = written(tmp_path, model)
    check_tensors(model, tensors)


@needs_gguf
def test_the_export_command_prints_the_content_and_the_caveats(folder, tmp_path, capsys):
    out = tmp_path / "new" / "poem.gguf"
    assert main(["export", str(folder / "float"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out}: {out.stat().st_size:,} bytes, 11 tensors (11 in f32)" in said
    assert (
        "note: the 2 prediction heads are not in the file" in said
        and f"llama-completion -m {out}" in said
    )
    assert main(["export", str(folder / "qat"), "--out", str(out)]) == 0  # the file is replaced
    said = capsys.readouterr().out
    assert "(7 in q4_0, 3 in f32, 1 in q8_0)" in said and "note" not in said
    assert minimtp.export(load(folder / "qat"), tmp_path / "same.gguf").caveats == []
    assert (tmp_path / "same.gguf").read_bytes() == out.read_bytes()


@needs_gguf
def test_a_grid_that_is_not_a_ggml_type_is_refused_and_nothing_is_written(tmp_path):
    model = prepare_qat(
        build_model(preset("tiny"), np.random.default_rng(0)),
        QuantizationSpec(weights="int3-restricted-g32"),
    )
    with pytest.raises(UserError, match="int3-restricted-g32, which a GGUF file cannot hold"):
        write_gguf(tmp_path / "new" / "model.gguf", model, BYTES, "model")
    assert list(tmp_path.iterdir()) == []


@needs_gguf
def test_the_caveats_name_each_difference_between_llama_cpp_and_the_model():
    def told(grid="q4_0", **changes):
        model = build_model(
            preset("tiny", hidden_size=256, intermediate_size=256), np.random.default_rng(0)
        )
        return " ".join(
            caveats(
                convert(prepare_qat(model, QuantizationSpec(weights=grid, heads=grid, **changes)))
            )
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
def test_a_failed_export_leaves_the_previous_file_unchanged(folder, tmp_path, monkeypatch, failure):
    from gguf import GGUFWriter

    def fails(self):
        Path(self.path).write_bytes(b"half")
        raise failure

    path = tmp_path / "model.gguf"
    previous = b"GGUF, the previous one, with minimtp.version"
    path.write_bytes(previous)
    monkeypatch.setattr(GGUFWriter, "write_tensors_to_file", fails)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt):
        export(load(folder / "float"), path)
    assert [found.name for found in tmp_path.iterdir()] == ["model.gguf"]
    assert path.read_bytes() == previous


@needs_gguf
def test_a_file_that_minimtp_did_not_write_is_not_replaced(folder, tmp_path):
    path = tmp_path / "notes.gguf"
    for content in (b"mine", b"GGUF of another program"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="exists and is not a GGUF file that minimtp wrote"):
            export(load(folder / "float"), path)
        assert path.read_bytes() == content
    path.unlink()
    export(load(folder / "float"), path)
    export(load(folder / "float"), path)  # its own earlier file may be replaced


@needs_gguf
def test_bytes_of_a_name_that_are_not_utf_8_become_question_marks(tmp_path):
    model = build_model(preset("tiny"), np.random.default_rng(0))
    write_gguf(tmp_path / "model.gguf", model, BYTES, os.fsdecode(b"caf\xe9"))
    from gguf import GGUFReader

    fields = GGUFReader(tmp_path / "model.gguf").fields
    assert fields["general.name"].contents() == "caf?"
