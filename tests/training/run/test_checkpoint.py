"""A checkpoint gives back what was written, and a model is loaded from it."""

import dataclasses
import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model, fill, transplant
from minimtp.training.presets import preset
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import FILE_NAME, Checkpoint
from minimtp.training.run.folder import load_run
from tests.training.run.helpers import model_checkpoint, same, small

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
any_array = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
    arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
)

# packed arrays are mapped from the file, others are read
packed = st.sampled_from([None, dataclasses.asdict(QuantizationSpec())])


@one_folder
@given(
    st.dictionaries(st.text("ab.", min_size=1, max_size=4), any_array, max_size=5),
    st.integers(0, 10**15),
    packed,
)
def test_a_checkpoint_is_read_byte_for_byte_as_it_was_written(tmp_path, parameters, step, packed):
    written = Checkpoint(
        preset("tiny"),
        parameters,
        {"first.x": np.ones(3)},
        step,
        packed=packed,
        state={"seconds": 1.5, "shards": 2},
    )
    checkpoint.write(tmp_path, written)
    read = checkpoint.read(tmp_path)
    assert same(read.parameters, parameters)
    assert same(read.optimizer, written.optimizer)
    for name in ("recipe", "step", "tokens", "corpus", "tokenizer", "packed", "state", "version"):
        assert getattr(read, name) == getattr(written, name)
    assert checkpoint.read(tmp_path, optimizer=False).optimizer == {}


@one_folder
@given(st.dictionaries(st.text("ab.", min_size=1, max_size=4), any_array, max_size=5))
def test_the_safetensors_library_reads_the_file_of_a_checkpoint(tmp_path, parameters):
    checkpoint.write(tmp_path, Checkpoint(preset("tiny"), parameters))
    assert same(
        load_file(tmp_path / FILE_NAME),
        {f"model.{name}": array for name, array in parameters.items()},
    )


def test_each_array_begins_in_the_file_at_a_multiple_of_its_item_size(tmp_path):
    parameters = {
        "a": np.ones(3, np.uint8),
        "b": np.ones(3, np.float64),
        "c": np.ones(3, np.float32),
    }
    checkpoint.write(tmp_path, Checkpoint(preset("tiny"), parameters))
    content = (tmp_path / FILE_NAME).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, array in parameters.items():
        assert (8 + length + header[f"model.{name}"]["data_offsets"][0]) % array.itemsize == 0


def test_a_view_is_stored_with_the_elements_of_the_view_only(tmp_path):
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"transposed": whole.T, "strided": whole[::2, 1::2]}
    checkpoint.write(tmp_path, Checkpoint(preset("tiny"), views))
    read = checkpoint.read(tmp_path).parameters
    assert all(np.array_equal(read[name], view) for name, view in views.items())


def test_the_recipe_and_the_step_are_also_written_as_readable_json(tmp_path):
    checkpoint.write(tmp_path, small())
    readable = json.loads((tmp_path / "recipe.json").read_text())
    assert readable["recipe"] == preset("tiny").to_dict()
    assert readable["step"] == 3


def test_a_packed_model_is_mapped_from_its_file_and_writing_to_its_arrays_does_not_change_the_file(
    tmp_path,
):
    recipe, spec = preset("tiny"), QuantizationSpec()
    model = round_to_nearest(build_model(recipe, np.random.default_rng(1)), spec)
    checkpoint.write(
        tmp_path, Checkpoint(recipe, stored_arrays(model), step=1, packed=dataclasses.asdict(spec))
    )
    before = (tmp_path / FILE_NAME).read_bytes()
    load_run(tmp_path)  # imports what it needs
    tracemalloc.start()
    loaded = load_run(tmp_path).model
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for name, array in stored_arrays(loaded).items():
        owner = array
        while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
            owner = owner.base
        assert isinstance(owner, np.memmap), name
        array[...] = 0
    assert kept < sum(array.nbytes for array in stored_arrays(loaded).values())
    assert (tmp_path / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("scales", ["grid", "learned"])
def test_a_loaded_model_does_not_depend_on_the_previous_contents_of_its_memory(
    tmp_path, monkeypatch, scales
):
    recipe = dataclasses.replace(preset("tiny"), quantization="qat", weight_scales=scales)
    written = model_checkpoint(recipe, step=0)
    checkpoint.write(tmp_path, written)
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float, **how: np.full(shape, 1e30, dtype))
    loaded = load_run(tmp_path).model
    assert same(
        {name: parameter.data for name, parameter in loaded.named_parameters()}, written.parameters
    )


@pytest.mark.parametrize(
    "changes", [{}, {"heads": "sequential"}, {"tied_embeddings": False}], ids=str
)
def test_a_loaded_model_has_the_saved_parameters(tmp_path, changes):
    written = model_checkpoint(preset("tiny", **changes), corpus={"name": "poem"})
    checkpoint.write(tmp_path, written)
    run = load_run(tmp_path)
    assert same(
        {name: parameter.data for name, parameter in run.model.named_parameters()},
        written.parameters,
    )
    assert (run.recipe, run.corpus, run.fake_quantized) == (written.recipe, {"name": "poem"}, False)
    assert run.tokenizer.decode(run.tokenizer.encode("text")) == "text"


def test_a_run_is_loaded_fake_quantized_only_if_its_quantization_had_begun(tmp_path):
    recipe = preset("tiny", quantization="qat", quantize_from=0.5)
    for step, begun in ((32, False), (33, True)):
        checkpoint.write(tmp_path, model_checkpoint(recipe, step=step))
        run = load_run(tmp_path)
        assert run.fake_quantized == begun
        assert (
            any(isinstance(module, FakeQuantizedMatrix) for _, module in run.model.named_modules())
            == begun
        )


def test_a_packed_model_is_stored_as_its_blocks(tmp_path):
    recipe, spec = preset("tiny", heads="parallel"), QuantizationSpec()
    packed = round_to_nearest(build_model(recipe, np.random.default_rng(1)), spec)
    checkpoint.write(
        tmp_path, Checkpoint(recipe, stored_arrays(packed), packed=dataclasses.asdict(spec))
    )
    run = load_run(tmp_path)
    assert same(stored_arrays(run.model), stored_arrays(packed))
    assert run.packed == spec


def test_a_starting_point_copies_its_trunk_always_and_its_heads_only_to_heads_of_the_same_kind():
    def names(source, target):
        return transplant(model_checkpoint(source).parameters, source, target).keys()

    plain, parallel = preset("tiny"), preset("tiny", heads="parallel", draft_depth=2)
    assert names(parallel, plain) == model_checkpoint(plain).parameters.keys()
    assert names(plain, parallel) == {
        f"trunk.{name}" for name in model_checkpoint(plain).parameters
    }
    assert names(parallel, parallel) == model_checkpoint(parallel).parameters.keys()
    assert names(parallel, preset("tiny", heads="sequential")) == names(plain, parallel)
    deeper = dataclasses.replace(parallel, draft_depth=3)
    assert names(parallel, deeper) == names(parallel, parallel)
    assert names(deeper, parallel) == names(parallel, parallel)
    with pytest.raises(UserError, match="has num_layers 1, but num_layers 2 was requested"):
        names(plain, preset("tiny", num_layers=2))


def test_a_larger_head_takes_from_another_one_what_does_not_depend_on_their_additions():
    head = {"heads": "token_conditioned", "draft_depth": 2, "num_layers": 2}
    one_layer, three = {"head_layers": "1"}, {"head_layers": "0,1,2"}
    inner, wider = {"head_intermediate_size": 32}, {"head_intermediate_size": 64}
    kinds = [{}, one_layer, three, inner, three | inner, three | wider, three | one_layer]
    recipes = [preset("tiny", **head, **additions) for additions in kinds]
    plain = model_checkpoint(recipes[0]).parameters.keys()
    for source in recipes:
        for target in recipes:
            taken = transplant(model_checkpoint(source).parameters, source, target)
            wanted = model_checkpoint(target).parameters
            assert plain <= taken.keys() <= wanted.keys()
            assert all(array.shape == wanted[name].shape for name, array in taken.items())
            if source == target:
                assert taken.keys() == wanted.keys()


def test_changing_a_filled_model_does_not_change_the_stored_arrays():
    recipe = preset("tiny")
    arrays = model_checkpoint(recipe).parameters
    model = build_model(recipe, np.random.default_rng(2))
    fill(model, arrays, "here")
    model.final_norm.weight.data += 1
    assert np.array_equal(arrays["final_norm.weight"], np.ones(32))
