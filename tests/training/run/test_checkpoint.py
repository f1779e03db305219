"""A checkpoint is always complete, and each defect of a run folder is reported in one sentence."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
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
from minimtp.training.evaluate import Evaluation
from minimtp.training.presets import preset
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import FILE_NAME, Checkpoint
from minimtp.training.run.folder import load_run
from tests.fuzz.mutate import check_sentence

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
any_array = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
    arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
)

# packed arrays are mapped from the file, others are read
packed = st.sampled_from([None, dataclasses.asdict(QuantizationSpec())])


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes() for name in one
    )  # fmt: skip


def small(step: int = 3, **changes: object) -> Checkpoint:
    values = np.arange(40, dtype=np.float32).reshape(5, 8) + step
    return Checkpoint(
        preset("tiny"),
        {"a.weight": values},
        {"first.a.weight": values * 2},
        step=step,
        tokens=step * 128,
        **changes,
    )


def model_checkpoint(recipe: Recipe, **changes: object) -> Checkpoint:
    model = build_model(recipe, np.random.default_rng(1))
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    return dataclasses.replace(Checkpoint(recipe, parameters, step=recipe.steps), **changes)


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


def test_every_field_of_an_evaluation_is_checked_when_it_is_read():
    names = {field.name for field in dataclasses.fields(Evaluation)}
    assert names == set(checkpoint.EvaluationRecord.__struct_fields__)


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


def test_changing_a_filled_model_does_not_change_the_stored_arrays():
    recipe = preset("tiny")
    arrays = model_checkpoint(recipe).parameters
    model = build_model(recipe, np.random.default_rng(2))
    fill(model, arrays, "here")
    model.final_norm.weight.data += 1
    assert np.array_equal(arrays["final_norm.weight"], np.ones(32))


@pytest.mark.skipif(os.name != "posix", reason="only POSIX limits the size of files")
def test_if_the_disk_is_full_the_previous_checkpoint_stays_intact(tmp_path):
    import resource

    checkpoint.write(tmp_path, small(step=1))
    large = dataclasses.replace(small(step=2), parameters={"a": np.zeros(2**20, np.float32)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(
            UserError,
            match=r"cannot be written .*\(File too large\).*the previous checkpoint is intact",
        ):
            checkpoint.write(tmp_path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.read(tmp_path).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME, "recipe.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "denied")],
)
def test_if_writing_fails_at_any_moment_the_previous_checkpoint_stays_intact(
    tmp_path, monkeypatch, call, error
):
    checkpoint.write(tmp_path, small(step=1))

    def fail(*arguments):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(UserError, match=error.strerror):
            checkpoint.write(tmp_path, small(step=2))
    assert checkpoint.read(tmp_path).step == 1
    checkpoint.write(tmp_path, small(step=3))
    assert checkpoint.read(tmp_path).step == 3


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="the folder .* cannot be made"):
        checkpoint.write(tmp_path / "file" / "run", small())


def test_if_the_process_is_killed_while_writing_the_checkpoint_is_complete(tmp_path):
    """A process that writes checkpoints in a loop is killed at three arbitrary moments."""
    code = """
import sys
from minimtp.backend import numpy as np
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.presets import preset
for step in range(int(sys.argv[2]), 10**6):
    arrays = {"a": np.full(10**6, step, np.float32)}
    checkpoint.write(sys.argv[1], Checkpoint(preset("tiny"), arrays, step=step))
    print(step, flush=True)
"""
    last = 0
    for delay in (0.013, 0.034, 0.055):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(last + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        printed = [int(process.stdout.readline())]
        time.sleep(delay)
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        printed += [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        read = checkpoint.read(tmp_path)
        assert (read.parameters["a"] == read.step).all()
        # it may have been killed between writing and printing
        assert read.step in (printed[-1], printed[-1] + 1)
        last = read.step
    checkpoint.write(tmp_path, small())  # deletes the temporary files of the killed processes
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE_NAME, "recipe.json"]
