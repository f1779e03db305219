"""A head that was written to a file or a folder and loaded again is the same head, bit for bit."""

import pytest
from safetensors.numpy import load_file, save_file

import minimtp
from minimtp.backend import numpy as np
from minimtp.engine.module import named_arrays
from minimtp.formats.eagle3 import folder, gguf
from minimtp.formats.gguf import writer as gguf_writer
from minimtp.formats.huggingface import writer as huggingface_writer
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.formats.eagle3.cases import (
    CASES,
    GRIDS,
    draft_logits,
    loaded,
    model_of,
    packed_model_of,
    read_back,
)
from tests.formats.gguf.helpers import needs_gguf

each_case = pytest.mark.parametrize("case", CASES)
FORMS = {"llama": {}, "speculators": {"draft_format": "speculators"}}


def write(model, folder, name="draft.gguf", **options):
    """Write the model and its heads. Return the path of the heads."""
    minimtp.export(loaded(model), folder / "model.gguf", draft=folder / name, **options)
    return folder / name


@needs_gguf
@each_case
def test_a_gguf_file_holds_the_head_that_was_written(case, tmp_path):
    model = model_of(case)
    again = read_back(model, write(model, tmp_path))
    assert draft_logits(again).tobytes() == draft_logits(model).tobytes()
    assert again.heads.layers == model.heads.layers and again.heads.depth == model.heads.depth


@needs_gguf
@each_case
@pytest.mark.parametrize("form", FORMS)
def test_a_folder_holds_the_head_that_was_written(case, form, tmp_path):
    model = model_of(case)
    again = read_back(model, write(model, tmp_path, "draft", **FORMS[form]))
    assert draft_logits(again).tobytes() == draft_logits(model).tobytes()
    assert again.heads.layers == model.heads.layers


@needs_gguf
@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid != "f16"])
def test_a_packed_head_keeps_its_bytes_in_a_gguf_file(grid, tmp_path):
    model = packed_model_of(grid)
    again = read_back(model, write(model, tmp_path))
    kinds = {m.grid.name for _, m in again.heads.named_modules() if isinstance(m, PackedMatrix)}
    assert kinds == {grid, "q8_0"}
    assert draft_logits(again).tobytes() == draft_logits(model).tobytes()


@needs_gguf
def test_a_head_of_float16_numbers_is_read_as_the_same_numbers_in_float32(tmp_path):
    # As a model is. The products of float32 matrices round in another order.
    model = packed_model_of("f16")
    assert_same_numbers(model, read_back(model, write(model, tmp_path)))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_packed_head_becomes_the_numbers_that_it_stands_for_in_a_folder(grid, tmp_path):
    model = packed_model_of(grid)
    minimtp.export(loaded(model), tmp_path / "model", draft=tmp_path / "draft")
    assert_same_numbers(model, read_back(model, tmp_path / "draft"))


def assert_same_numbers(packed, again):
    """Check that the float matrices of one head are the packed ones of the other."""
    arrays = named_arrays(again.heads)
    assert len(arrays) == 11  # with the output and the draft vocabulary
    for name, module in packed.heads.named_modules():
        if isinstance(module, PackedMatrix):
            np.testing.assert_array_equal(arrays[f"{name}.weight"], module.dequantize())


@needs_gguf
def test_a_head_that_trains_with_rounding_is_written_as_it_decodes(tmp_path):
    spec = QuantizationSpec("q4_0", embedding="q8_0", heads="q4_0")
    model = prepare_qat(model_of("draft vocabulary"), spec)
    again, decoded = read_back(convert(model), write(model, tmp_path)), convert(model)
    assert draft_logits(again).tobytes() == draft_logits(decoded).tobytes()


@needs_gguf
@pytest.mark.parametrize("sampling", [0.0, 1.0])
@pytest.mark.parametrize("name", ["draft.gguf", "draft"])
def test_generation_drafts_and_accepts_the_same_with_the_head_from_a_file(name, sampling, tmp_path):
    model = loaded(model_of("untied, both"))
    path = write(model.model, tmp_path, name)
    head = minimtp.load_draft(path, model)
    texts, counts = [], []
    for drafter in ("heads", head):
        decoder = minimtp.Decoder(model, minimtp.DraftConfig(drafter, length=4, min_confidence=0))
        generation = decoder.generate(
            "roses", max_new_tokens=40, sampling=minimtp.SamplingParams(sampling), seed=3
        )
        texts.append(list(generation))
        counts.append((generation.statistics.steps, generation.statistics.emitted))
    assert texts[0] == texts[1] and counts[0] == counts[1]


@needs_gguf
def test_an_unsorted_draft_vocabulary_is_brought_into_order(tmp_path):
    """llama.cpp and SGLang accept any order of d2t; ours increases."""
    model = model_of("untied, both")
    path = write(model, tmp_path, "draft")
    tensors = load_file(path / "model.safetensors")
    count = len(tensors["d2t"])
    ids, order = tensors["d2t"] + np.arange(count), np.random.default_rng(0).permutation(count)
    tensors["d2t"] = ids[order] - np.arange(count)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][order]
    save_file(tensors, path / "model.safetensors")
    assert draft_logits(read_back(model, path)).tobytes() == draft_logits(model).tobytes()


@needs_gguf
@pytest.mark.parametrize("name", ["draft.gguf", "draft"])
def test_a_head_may_bring_the_token_table_of_its_model_and_no_other(name, tmp_path):
    model, path = model_of("plain"), tmp_path / name
    table = model.trunk.embedding.weight.data
    write_with_table(model, path, table)
    assert draft_logits(read_back(model, path)).tobytes() == draft_logits(model).tobytes()
    other = tmp_path / f"other-{name}"
    write_with_table(model, other, np.ascontiguousarray(table[::-1]))
    with pytest.raises(minimtp.UserError, match="token table of its own"):
        read_back(model, other)


def write_with_table(model, path, table):
    if path.suffix == ".gguf":
        content, writer = gguf.head_content(model, ByteTokenizer(), "draft"), gguf_writer
        content.tensors["token_embd.weight"] = "f32", table
    else:
        content, writer = folder.head_content(model, "float32", "llama"), huggingface_writer
        content.tensors["embed_tokens.weight"] = table
    with writer.written(path, content):
        pass
