"""Each defect of a checkpoint is reported in one sentence."""

import dataclasses
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import FILE_NAME, Checkpoint
from minimtp.training.run.folder import load_run
from tests.fuzz.mutate import check_sentence
from tests.training.run.helpers import model_checkpoint, same, small


@pytest.fixture(
    scope="module", params=[None, dataclasses.asdict(QuantizationSpec())], ids=["float", "packed"]
)
def one_file(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("run")
    checkpoint.write(folder, small(packed=request.param))
    return folder, (folder / FILE_NAME).read_bytes()


@given(st.data())
def test_a_checkpoint_truncated_at_any_position_is_an_error(one_file, data):
    folder, content = one_file
    (folder / FILE_NAME).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(UserError, match="is damaged|not a checkpoint of minimtp"):
        checkpoint.read(folder)


@given(st.data())
def test_a_damaged_byte_is_detected_at_any_position(one_file, data):
    folder, content = one_file
    place, flipped = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    damaged = bytearray(content)
    damaged[place] ^= flipped
    (folder / FILE_NAME).write_bytes(damaged)
    try:
        read = checkpoint.read(folder)
    except UserError:
        return
    # only a change of white space in the JSON may be unnoticed
    assert read.recipe == small().recipe and read.step == small().step
    assert same(read.parameters, small().parameters) and same(read.optimizer, small().optimizer)


def with_header(folder, change) -> None:
    """Change the JSON that minimtp stores, and store the checksum that belongs to it."""
    path = folder / FILE_NAME
    with checkpoint.open_tensors(path, "") as file:
        header, arrays = json.loads(file.metadata["minimtp"]), file.read_arrays()
    change(header)
    text = json.dumps(header)
    metadata = {"minimtp": text, "crc32": str(checkpoint.checksum(text, arrays))}
    with open(path, "wb") as file:
        checkpoint.write_safetensors(file, arrays, metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: header.update(step="3"), 'step is "3", but must be a whole number'),
        (lambda header: header.update(step=-1), "step is -1, but must be a whole number of at"),
        (lambda header: header.update(step=10**30), "step is 10000"),
        (lambda header: header.pop("state"), "state is missing"),
        (lambda header: header.update(format_version="2"), 'format_version is "2"'),
        (lambda header: header.pop("format_version"), "format_version is missing"),
        (lambda header: header.update(recipe=[]), "recipe is a list of 0"),
        (lambda header: header["recipe"].update(hidden_size=1e400), "hidden_size must be a whole"),
        (lambda header: header["recipe"].update(norm_eps=float("nan")), "norm_eps must be more"),
        (lambda header: header["recipe"].update(
            quantization="qat", weight_grid=f"int4-restricted-g{10**20}"), "are too large"),
        (lambda header: header["state"].update(seconds=float("nan")), "state.seconds is NaN"),
        (lambda header: header["state"].update(evaluation={}), "evaluation.bits_per_byte is miss"),
        (lambda header: header["corpus"].update(sources=[1]), "corpus.sources[0] is 1, but must"),
        (lambda header: header.update(tokenizer={"kind": "tokenizers"}), "tokenizer"),
        (lambda header: header.update(packed={"grid": "q4_0"}), "unknown setting of a packed"),
        (lambda header: header.update(packed={"weights": 4}), "packed.weights is 4"),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_header_with_a_valid_checksum_and_wrong_values_is_refused_with_the_key(
    tmp_path, change, words
):
    checkpoint.write(tmp_path, model_checkpoint(preset("tiny"), state={"seconds": 1.0}))
    with_header(tmp_path, change)
    with pytest.raises(UserError) as caught:
        load_run(tmp_path)
    check_sentence(str(caught.value), tmp_path / FILE_NAME)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", b"\xff" * 8 + b"{}", (2**40).to_bytes(8, "little") + b"{}",
     (10**5).to_bytes(8, "little") + b"[" * 10**5],
    ids=["empty", "seven bytes", "2^64", "2^40", "brackets"],
)  # fmt: skip
def test_a_header_longer_than_the_file_or_too_deep_is_refused_without_taking_memory(
    tmp_path, content
):
    (tmp_path / FILE_NAME).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match="is damaged|nests brackets") as caught:
        checkpoint.read(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    check_sentence(str(caught.value), tmp_path / FILE_NAME)


def test_a_recipe_of_a_model_larger_than_the_file_is_refused_before_it_is_built(tmp_path):
    written = model_checkpoint(preset("tiny"))
    written.recipe = dataclasses.replace(
        written.recipe, hidden_size=2**16, num_layers=1024, intermediate_size=2**18
    )
    checkpoint.write(tmp_path, written)
    with pytest.raises(UserError, match="holds 70,144 bytes of weights, too few for the model"):
        load_run(tmp_path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("packed", [False, True], ids=["float", "packed"])
def test_weights_that_are_not_finite_are_refused_with_their_name(tmp_path, number, packed):
    recipe, spec = preset("tiny"), QuantizationSpec()
    written = model_checkpoint(recipe)
    if packed:
        model = round_to_nearest(build_model(recipe, np.random.default_rng(1)), spec)
        written = Checkpoint(recipe, stored_arrays(model), packed=dataclasses.asdict(spec))
    name = next(name for name in written.parameters if "attention.qkv" in name)
    array = written.parameters[name] = written.parameters[name].copy()
    if packed:
        array[3, :2] = np.array([number], "<f2").view(np.uint8)  # the scale of a block
    else:
        array[3, 5] = number
    checkpoint.write(tmp_path, written)
    with pytest.raises(UserError, match=r"attention\.qkv.*NaN or infinite") as caught:
        load_run(tmp_path)
    check_sentence(str(caught.value), tmp_path / FILE_NAME)


def test_a_folder_that_is_missing_or_has_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="there is no run folder"):
        checkpoint.read(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.read(tmp_path)


def test_a_safetensors_file_of_another_program_is_an_error(tmp_path):
    with open(tmp_path / FILE_NAME, "wb") as file:
        checkpoint.write_safetensors(file, {"x": np.ones(3)}, {"format": "pt"})
    with pytest.raises(UserError, match="not a checkpoint of minimtp"):
        checkpoint.read(tmp_path)


def test_another_format_version_is_an_error_that_names_both(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "FORMAT_VERSION", 7)
        checkpoint.write(tmp_path, small())
    with pytest.raises(
        UserError, match="has checkpoint format 7.*reads format 2: train the run again"
    ):
        checkpoint.read(tmp_path)


def test_a_setting_unknown_to_this_version_is_an_error(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Recipe, "to_dict", lambda recipe: {"hidden_size": 32, "dropout": 0.1})
        checkpoint.write(tmp_path, small())
    with pytest.raises(UserError, match="unknown recipe key 'dropout'"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda arrays: arrays.pop("blocks.0.attention.qkv.weight"),
            "lacks blocks.0.attention.qkv.weight",
        ),
        (lambda arrays: arrays.update(extra=np.ones(2)), "has extra, which this model does not"),
        (
            lambda arrays: arrays.update({"final_norm.weight": np.ones(3, np.float32)}),
            r"of shape \(3,\), but the model needs",
        ),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_arrays_that_do_not_match_the_recipe_are_an_error_that_names_them(tmp_path, spoil, words):
    written = model_checkpoint(preset("tiny"))
    spoil(written.parameters)
    checkpoint.write(tmp_path, written)
    with pytest.raises(UserError, match=words):
        load_run(tmp_path)
