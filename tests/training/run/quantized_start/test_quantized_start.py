"""A run that starts from a packed model begins with its bytes, and keeps its steps everywhere."""

import dataclasses

import pytest

from minimtp.backend import numpy as np
from minimtp.backend import to_device
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.quant.qat.convert import convert
from minimtp.training.quantize import quantize
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.folder import load_run
from minimtp.training.run.quantized_start import with_start
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import losses, quiet, recipe_of, stored
from tests.training.run.quantized_start.cases import (
    GRIDS,
    from_start,
    outputs,
    same,
    start_of,
    trained,
    values,
)


@pytest.mark.parametrize(
    "packed", [*((grid, "gptq") for grid in GRIDS), ("q4_0", "rtn"), ("q4_0", "hqq"), "untied"]
)
def test_before_the_first_update_the_model_equals_the_packed_start_bit_for_bit(
    plain_kernels, models, tmp_path, packed
):
    is_untied = packed == "untied"
    full = load_run(models.untied if is_untied else models.full)
    start = load_run(models.packed[packed])
    grid = "q4_0" if is_untied else packed[0]
    changes = {"tied_embeddings": False, "heads": "parallel", "draft_depth": 1}
    recipe = from_start(grid, **(changes if is_untied else {}))
    parameters = {name: p.data for name, p in full.model.named_parameters()}
    given = {name: array.copy() for name, array in parameters.items()}
    begun = with_start(parameters, start, recipe)
    zeros = {
        name.replace("start_steps", "log_steps"): np.zeros_like(array)
        for name, array in begun.items()
        if name.endswith("start_steps")
    }
    table = {"trunk.embedding" if is_untied else "embedding": full.model.trunk.embedding.weight}
    unused = {
        f"{name}.start_steps": np.zeros(weight.data.size // 32, np.float32)
        for name, weight in table.items()
    }
    checkpoint.write(tmp_path, Checkpoint(recipe, begun | zeros | unused, step=1))
    run = load_run(tmp_path)
    assert run.fake_quantized and len(zeros) == 4 * recipe.num_layers + is_untied
    assert outputs(run.model.trunk)[0] == outputs(start.model.trunk)[0]
    if not is_untied:
        assert outputs(run.model) == outputs(start.model)
    assert same(values(convert(run.model).trunk), values(start.model.trunk))
    assert same(given, {name: p.data for name, p in full.model.named_parameters()})


@pytest.mark.parametrize("grid", GRIDS)
def test_training_moves_codes_and_steps_and_packing_keeps_what_training_saw(
    plain_kernels, models, corpus, tmp_path, grid
):
    run = trained(models, corpus, tmp_path / "run", grid)
    start = load_run(models.packed[grid, "gptq"])
    packed = quantize(run, tmp_path / "packed")
    assert outputs(packed.model) == outputs(run.model)
    found, before = values(packed.model), values(start.model)
    name = "blocks.0.feed_forward.gate_up"
    assert not np.array_equal(found[name], before[name])
    assert np.array_equal(found["embedding"], before["embedding"])
    moved = checkpoint.read(tmp_path / "run").parameters[f"{name}.log_steps"]
    assert np.abs(moved).max() > 0.01


def test_a_step_of_training_lowers_the_divergence_from_the_teacher(models, corpus, tmp_path):
    """The start is already close, so this also shows that training begins from it."""

    def divergence(model):
        full = load_run(models.full).model
        tokens = corpus.batch(0, seed=5, batch_size=8, sequence_length=16, depth=0)
        with no_grad():
            ours, theirs = (
                m.trunk.logits(m.hidden(tokens[:, :-1])).data.astype(np.float64)
                for m in (model, full)
            )
        ours, theirs = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (ours, theirs))
        return float((np.exp(theirs) * (theirs - ours)).sum(-1).mean())

    name = "int2-full-mid-g32"
    start = quantize(load_run(models.full), tmp_path / "start", name, method="hqq")
    given = start_of(models, quantized_start=start)
    run = trained(models, corpus, tmp_path / "run", name, given, steps=30)
    assert divergence(run.model) < 0.8 * divergence(start.model)


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    models, corpus, tmp_path, stop, ema_decay
):
    recipe, start = from_start(ema_decay=ema_decay), start_of(models)
    train(recipe, corpus, tmp_path / "whole", start, threads=2, report=quiet)
    train(recipe, corpus, tmp_path / "parts", start, threads=2, stop_at_step=stop, report=quiet)
    train(None, corpus, tmp_path / "parts", Start(resume=True), report=quiet)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole")


def test_a_branch_continues_as_the_stem_would_have(models, corpus, tmp_path):
    recipe, start = from_start(), start_of(models)
    train(recipe, corpus, tmp_path / "whole", start, threads=1, report=quiet)
    train(recipe, corpus, tmp_path / "stem", start, threads=1, stop_at_step=3, report=quiet)
    branch = Start(start_from=tmp_path / "stem", continue_schedule=True, teacher=models.full)
    train(recipe, corpus, tmp_path / "branch", branch, threads=1, report=quiet)
    assert stored(tmp_path / "branch") == stored(tmp_path / "whole")


@pytest.mark.parametrize("head_grid", ["q4_0", "q8_0"])
def test_heads_on_top_keep_the_steps_and_leave_the_trunk_unchanged_bit_for_bit(
    plain_kernels, models, corpus, tmp_path, head_grid
):
    before = trained(models, corpus, tmp_path / "qat")
    recipe = dataclasses.replace(
        before.recipe, heads="token_conditioned", draft_depth=2, freeze_trunk=True,
        distill_weight=0.0, head_grid=head_grid,
    )  # fmt: skip
    start = Start(start_from=tmp_path / "qat")
    train(recipe, corpus, tmp_path / "heads", start, threads=1, report=quiet)
    run = load_run(tmp_path / "heads")
    after = checkpoint.read(tmp_path / "heads").parameters
    for name, array in checkpoint.read(tmp_path / "qat").parameters.items():
        assert np.array_equal(array, after[f"trunk.{name}"]), name
    assert outputs(run.model.trunk) == outputs(before.model)
    packed = quantize(run, tmp_path / "packed")
    assert outputs(packed.model, 2) == outputs(run.model, 2)
    assert same(values(packed.model.trunk), values(convert(before.model)))


def test_a_frozen_table_has_no_moments_and_does_not_change(models, corpus, tmp_path):
    trained(models, corpus, tmp_path / "run")
    found = checkpoint.read(tmp_path / "run")
    assert not any("embedding" in name or "start_" in name for name in found.optimizer)
    assert "first.blocks.0.attention.qkv.log_steps" in found.optimizer
    full = checkpoint.read(models.full).parameters["embedding.weight"]
    assert np.array_equal(found.parameters["embedding.weight"], full)


def test_a_table_can_be_frozen_without_any_rounding(models, corpus, tmp_path):
    recipe = recipe_of(3, freeze_embeddings=True, evaluation_tokens=0)
    train(recipe, corpus, tmp_path, Start(start_from=models.full), threads=1, report=quiet)
    before, after = checkpoint.read(models.full).parameters, checkpoint.read(tmp_path).parameters
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert before.keys() - changed == {"embedding.weight"}


@pytest.mark.parametrize("factor", [0.0, 1.0, 20.0])
def test_the_learning_rate_of_steps_is_relative_to_that_of_the_weights(
    models, corpus, tmp_path, factor
):
    """Adam's first update of a parameter with a gradient is the learning rate itself."""
    start = start_of(models)
    recipe = from_start(step_learning_rate_factor=factor, warmup_fraction=0.0, weight_decay=0.0)
    train(recipe, corpus, tmp_path, start, threads=1, stop_at_step=1, report=quiet)
    found = checkpoint.read(tmp_path).parameters
    moved = np.abs(found["blocks.0.attention.qkv.log_steps"])
    assert np.median(moved) == pytest.approx(factor * recipe.learning_rate, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "start", "words"),
    [
        ({}, {"quantized_start": "full"}, "is not quantized: make the quantized start with"),
        ({"weight_scales": "grid"}, {}, "needs quantization qat and weight_scales learned-from"),
        ({"quantization": "none"}, {}, "needs quantization qat and weight_scales learned-from"),
        ({"weight_grid": "q8_0"}, {}, "has weight_grid q4_0, but the recipe has q8_0: use the"),
        ({"embedding_grid": "q4_0"}, {}, "has embedding_grid q8_0, but the recipe has q4_0"),
        ({}, {"start_from": None}, "needs the full-precision weights that it was made from"),
        ({}, {"quantized_start": None}, "needs steps to start from: give a packed model with"),
        ({}, {"quantized_start": "untied"}, "has tied_embeddings False, but the run has tied_em"),
        ({}, {"continue_schedule": True}, "begins a schedule of its own: leave out"),
        ({}, {"start_from": "packed"}, "holds a quantized model, which cannot be trained"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_one_sentence(
    models, corpus, tmp_path, changes, start, words
):
    folders = {
        "full": models.full, "untied": models.packed["untied"],
        "packed": models.packed["q4_0", "gptq"], None: None, True: True,
    }  # fmt: skip
    given = start_of(models, **{name: folders[value] for name, value in start.items()})
    with pytest.raises(UserError, match=words) as caught:
        train(from_start(**changes), corpus, tmp_path / "run", given, report=quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_quantization_that_begins_late_cannot_start_from_codes():
    with pytest.raises(UserError, match="quantize_from 0.5 would train the weights away"):
        from_start(quantize_from=0.5)


def test_a_run_that_starts_from_a_model_on_a_gpu_is_the_run_from_the_host(
    models, corpus, tmp_path, device
):
    found = []
    for place in ("host", "gpu"):
        full = load_run(models.full)
        if place == "gpu":
            map_parameters(full.model, lambda array: to_device(array, device))
        start = start_of(models, start_from=full)
        found.append(values(trained(models, corpus, tmp_path / place, start=start).model))
    assert same(*found)


def test_a_damaged_step_is_refused_when_the_run_is_loaded(models, corpus, tmp_path):
    trained(models, corpus, tmp_path)
    damaged = checkpoint.read(tmp_path)
    damaged.parameters["blocks.0.attention.qkv.start_steps"][3] = np.inf
    checkpoint.write(tmp_path, damaged)
    with pytest.raises(UserError, match="start_steps that are NaN or infinite"):
        load_run(tmp_path)
