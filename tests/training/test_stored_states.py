"""States of a model that does not change: stored or computed again, they train the same model."""

import shutil
from dataclasses import replace

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.model.loss import Objective, accumulate_gradients
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.training import stored_states
from minimtp.training.build import build_model, quantization_spec
from minimtp.training.recipe import Recipe
from minimtp.training.run.log import read_log
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.stored_states import forward_of
from tests.training.helpers import losses, quiet, recipe_of, stored

HEADS = {"heads": "token_conditioned", "draft_depth": 2, "head_stride": 3}
FROZEN = {
    "heads on a frozen trunk": HEADS | {"freeze_trunk": True, "head_targets": "trunk"},
    "heads on a rounded frozen trunk": HEADS | {"freeze_trunk": True, "quantization": "qat"},
    "heads that look back": {"heads": "sequential", "draft_depth": 2, "freeze_trunk": True},
}
CASES = FROZEN | {"distilled": {"distill_weight": 0.7, "quantization": "qat"}}


@pytest.fixture(scope="module")
def source(tmp_path_factory, corpus):
    """A short run: a trunk to freeze, and a teacher."""
    folder = tmp_path_factory.mktemp("source") / "run"
    train(recipe_of(steps=8), corpus, folder, threads=1, report=quiet)
    return folder


@pytest.fixture
def short(corpus, monkeypatch):
    """A corpus of 10 windows, so that a run of 12 steps has almost 5 epochs."""
    monkeypatch.setattr(corpus, "train", corpus.train[: 10 * 16 + 5])
    return corpus


def run(case, corpus, out, source, **options):
    recipe = recipe_of(**CASES[case], store_states=True, checkpoint_every=0)
    start = Start(start_from=source, teacher=source if recipe.distill_weight else None)
    lines = []
    settings = {"threads": 2, "report": lines.append} | options
    train(recipe, corpus, out, settings.pop("start", start), **settings)
    return lines


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_same_whether_its_states_are_stored_or_computed_in_every_step(
    case, source, short, tmp_path, monkeypatch
):
    lines = run(case, short, tmp_path / "stored", source)
    assert [line for line in lines if "states are stored" in line or "'s are stored" in line]
    monkeypatch.setattr(stored_states, "MAX_BYTES", 3 * 16 * 32 * 2)
    lines = run(case, short, tmp_path / "three", source)
    assert [line for line in lines if "3 of 10 windows" in line]
    monkeypatch.setattr(stored_states, "MAX_BYTES", 0)
    lines = run(case, short, tmp_path / "none", source)
    assert [line for line in lines if "computed in every step: there is no room" in line]
    assert stored(tmp_path / "stored") == stored(tmp_path / "three") == stored(tmp_path / "none")
    assert not list(tmp_path.rglob("*states*"))  # all runs are finished


def test_the_states_of_trunk_and_teacher_together_take_no_more_of_the_disk_than_is_allowed(
    source, short, tmp_path
):
    window = 16 * 32 * 2  # bytes
    recipe = recipe_of(**HEADS, freeze_trunk=True, head_targets="teacher", store_states=True)
    teacher, found = tmp_path / "teacher", []
    train(recipe_of(**HEADS, steps=2), short, teacher, threads=1, report=quiet)
    start = Start(start_from=source, teacher=teacher)
    for windows in (0, 4, 13, 100):
        lines, out = [], tmp_path / str(windows)
        train(
            recipe, short, out, start, threads=1, report=lines.append, stop_at_step=9,
            disk_gb=(windows * window + 1) / 1e9,
        )  # fmt: skip
        used = [path.stat().st_size for path in out.glob("*-states.bin")]
        # Besides, each file has a header, and each window its checksum.
        assert sum(used) <= windows * (window + 8) + 4096 * len(used)
        text = " ".join(lines)
        assert [f"stored: {n} of 10 windows" in text for n in (4, 10, 3)] == {
            0: [False, False, False], 4: [True, False, False],
            13: [False, True, True], 100: [False, True, False],
        }[windows]  # fmt: skip
        train(None, short, out, Start(resume=True), threads=1, report=quiet, disk_gb=0)
        found.append(stored(out))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_resumes_with_the_states_that_it_has_and_ends_with_the_same_bits(
    case, source, short, tmp_path
):
    run(case, short, tmp_path / "whole", source)
    run(case, short, tmp_path / "half", source, stop_at_step=7)
    (path,) = tmp_path.rglob("*-states.bin")
    assert path.parent == tmp_path / "half"
    for name, change in {
        "intact": lambda path: None,
        "deleted": lambda path: path.unlink(),
        "cut": lambda path: path.write_bytes(path.read_bytes()[:9000]),
        "foreign": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        "damaged": lambda path: path.write_bytes(path.read_bytes()[:5000] + bytes(99)),
    }.items():
        shutil.copytree(tmp_path / "half", folder := tmp_path / name)
        change(folder / path.name)
        train(None, short, folder, Start(resume=True), report=quiet)
        assert stored(folder) == stored(tmp_path / "whole"), name
        assert not (folder / path.name).exists()


def test_the_second_epoch_does_not_run_the_trunk(source, short, tmp_path, monkeypatch):
    calls, forward = [], stored_states._training_forward

    def counted(model, tokens):
        calls.append(tokens)
        return forward(model, tokens)

    monkeypatch.setattr(stored_states, "_training_forward", counted)
    # One thread: two may need the same window at once, where a batch ends one epoch and begins the
    # next.
    run("heads on a frozen trunk", short, tmp_path / "run", source, threads=1)
    assert len(calls) == 11  # the 10 windows, and one for the label of the file


def test_a_full_disk_stops_the_storing_with_one_line_and_not_the_run(
    source, short, tmp_path, monkeypatch
):
    def full(self, index, data):
        raise UserError("states.bin cannot be written (No space left on device): free disk space")

    run("distilled", short, tmp_path / "whole", source)
    monkeypatch.setattr(stored_states.SealedBlocks, "write", full)
    lines = run("distilled", short, tmp_path / "full", source)
    assert len([line for line in lines if "No space left" in line]) == 1
    assert stored(tmp_path / "full") == stored(tmp_path / "whole")


def test_nothing_is_stored_if_no_window_is_used_twice(source, corpus, tmp_path):
    lines = run("distilled", corpus, tmp_path / "run", source, stop_at_step=2)
    assert [line for line in lines if "no window is used twice" in line]
    assert not list(tmp_path.rglob("*states*"))


def test_losses_from_stored_states_are_those_of_the_model_up_to_the_rounding(source, short):
    recipe = recipe_of(**HEADS, freeze_trunk=True)
    model = build_model(recipe, np.random.default_rng(0))
    tokens = short.batch(0, seed=0, batch_size=4, sequence_length=16, depth=2, aligned=True)
    states = np.stack([forward_of(model)(row[None, :16]) for row in tokens]).astype("float32")
    for parameter in model.trunk.parameters():
        parameter.requires_grad = False
    for targets in ("text", "trunk"):
        options = {"head_targets": targets, "head_positions": slice(1, None, 3)}
        computed = accumulate_gradients(model, tokens, Objective(np.ones(2), **options))
        read = accumulate_gradients(
            model, tokens, Objective(np.ones(2), **options), trunk_states=states
        )
        assert np.isnan(read[0]) and not np.isnan(computed[0])
        np.testing.assert_allclose(read[1:], computed[1:], rtol=2e-3)
    teacher = build_model(recipe_of(seed=1), np.random.default_rng(1))
    student = build_model(recipe_of(), np.random.default_rng(0))
    states = np.stack([forward_of(teacher)(row[None, :16]) for row in tokens])
    gradients = []
    for stored_teacher in (None, states.astype("float32")):
        for parameter in student.parameters():
            parameter.grad = None
        accumulate_gradients(
            student,
            tokens[:, :17],
            Objective(teacher=teacher, distill_weight=1.0),
            teacher_states=stored_teacher,
        )
        gradients.append(np.concatenate([p.grad.ravel() for p in student.parameters()]))
    error = np.linalg.norm(gradients[0] - gradients[1]) / np.linalg.norm(gradients[0])
    assert 0 < error < 2e-3


def test_epochs_of_a_run_with_stored_states_have_the_same_windows_in_another_order(short):
    shape = {"seed": 3, "batch_size": 5, "sequence_length": 16}
    epochs = [
        np.concatenate([short.batch(step, **shape, aligned=True) for step in (first, first + 1)])
        for first in (0, 2)
    ]
    numbers = [short.batch_windows(step, 3, 5, 16)[0] for step in (0, 1)]
    grid = short.train[:160].reshape(10, 16)
    assert np.array_equal(epochs[0][:, :16], grid[np.concatenate(numbers)])
    assert not np.array_equal(*epochs)
    assert sorted(map(bytes, epochs[0])) == sorted(map(bytes, epochs[1]))


def test_the_log_of_a_run_on_stored_trunk_states_has_no_loss_of_the_next_token(
    source, short, tmp_path
):
    run("heads on a frozen trunk", short, tmp_path / "run", source)
    for first, *of_heads in losses(tmp_path / "run"):
        assert first is None and all(of_heads)
    assert any(line.get("evaluation") for line in read_log(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "store_states needs a model that does not change"),
        (
            FROZEN["heads on a rounded frozen trunk"] | {"quantize_from": 0.5},
            "the frozen trunk changes when quantize_from 0.5 is reached",
        ),
    ],
    ids=["nothing frozen", "rounded later"],
)
def test_a_recipe_cannot_store_states_that_change(changes, message):
    with pytest.raises(UserError, match=message):
        replace(Recipe(), **changes, store_states=True)


def test_a_rounded_trunk_runs_in_its_packed_form_and_has_the_states_of_training(short):
    recipe = recipe_of(quantization="qat", num_layers=2, context_length=32)
    model = build_model(recipe, np.random.default_rng(0))
    for parameter in model.parameters():  # blocks start as the identity
        if parameter.data.ndim == 2:
            parameter.data += np.random.default_rng(1).standard_normal(parameter.shape) / 8
            parameter.data = parameter.data.astype("float32")
    model = prepare_qat(model, quantization_spec(recipe))
    tokens = short.batch(0, seed=0, batch_size=1, sequence_length=30)[:, :30]
    with no_grad():
        expected = model.hidden(tokens).data[0]
    found = forward_of(model)(tokens)
    assert found.shape == expected.shape and found.dtype == np.float16
    # An input that rounds to the other int8 number moves a few states.
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    assert forward_of(model)(tokens).tobytes() == found.tobytes()
