"""A run that starts from a packed model begins with its bytes, and keeps its steps everywhere."""

import dataclasses
from types import SimpleNamespace

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.backend import to_device
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.model.loss import evaluate_losses
from minimtp.quant import packing
from minimtp.quant.grids import grid_named
from minimtp.quant.packed_matrix import PackedEmbedding, PackedMatrix
from minimtp.quant.qat.convert import convert
from minimtp.training.quantize import quantize
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.folder import load_run
from minimtp.training.run.quantized_start import with_start
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import losses, quiet, recipe_of, stored

GRIDS = ["q4_0", "q8_0", "int4-restricted-channel", "q4_0,qkv=q5_0"]


@pytest.fixture
def plain_kernels():
    """Use the plain kernels, with which packed and fake-quantized products have the same bits."""
    kernels.use("plain")
    yield
    kernels.use("auto")


def from_start(grid="q4_0", steps=6, **changes):
    """Return a recipe that trains from the codes and steps of a packed model."""
    return recipe_of(
        steps,
        **{
            "quantization": "qat", "weight_grid": grid, "weight_scales": "learned-from-start",
            "freeze_embeddings": True, "step_learning_rate_factor": 20.0, "learning_rate": 1e-3,
            "distill_weight": 1.0, "evaluation_tokens": 0,
        } | changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory, corpus):
    """A trained model, and its packed form for each grid and method, in folders of their own."""
    folder = tmp_path_factory.mktemp("models")
    untied = {"tied_embeddings": False, "heads": "parallel", "draft_depth": 1}
    found = SimpleNamespace(full=folder / "full", untied=folder / "untied", packed={})
    train(recipe_of(40), corpus, found.full, threads=1, report=quiet)
    train(recipe_of(40, **untied), corpus, found.untied, threads=1, report=quiet)
    for grid, method in [*((grid, "gptq") for grid in GRIDS), ("q4_0", "rtn"), ("q4_0", "hqq")]:
        found.packed[grid, method] = folder / f"{grid}-{method}"
        text = corpus if method == "gptq" else ()
        quantize(
            load_run(found.full), found.packed[grid, method], grid, method=method, calibration=text
        )
    quantize(load_run(found.untied), folder / "untied-packed", method="gptq", calibration=corpus)
    found.packed["untied"] = folder / "untied-packed"
    return found


def start_of(models, packed=("q4_0", "gptq"), full=None, **changes):
    full = full or models.full
    given = {"start_from": full, "quantized_start": models.packed[packed], "teacher": full}
    return Start(**given | changes)


def trained(models, corpus, out, grid="q4_0", start=None, **changes):
    start = start or start_of(models, (grid, "gptq"))
    train(from_start(grid, **changes), corpus, out, start, threads=1, report=quiet)
    return load_run(out)


def values(model):
    """Return the values of all packed matrices, and all other parameters, by name."""
    packed = {n: m.dequantize() for n, m in model.named_modules() if isinstance(m, PackedMatrix)}
    return packed | {name: p.data for name, p in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def outputs(model, depth=0):
    tokens = np.arange(2 * (17 + depth)).reshape(2, -1) * 7 % 257
    with no_grad():
        hidden = model.hidden(tokens[:, :16]).data
    return hidden.tobytes(), evaluate_losses(model, tokens)[0].tobytes()


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
        tokens = corpus.batch(0, seed=5, batch_size=8, context_length=16, depth=0)
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


def with_other_codes(model):
    """Change a packed model's table so that the rule of its grid would choose other scales."""
    packed = model.trunk.embedding.packed.copy()
    packed[3, 2:34] = np.int8(90).view(np.uint8)  # no code is the extreme 127
    model.trunk.embedding.packed = packed


def test_a_table_that_was_not_rounded_to_nearest_has_to_be_frozen(models):
    full, start = load_run(models.full), load_run(models.packed["q4_0", "gptq"])
    with_other_codes(start.model)
    parameters = {name: p.data for name, p in full.model.named_parameters()}
    with pytest.raises(UserError, match="cannot change it: set freeze_embeddings"):
        with_start(parameters, start, from_start(freeze_embeddings=False))


@pytest.mark.parametrize("grid", ["q4_0", "q4_1", "q5_1", "int4-restricted-channel"])
def test_a_frozen_table_of_gptq_keeps_its_bytes_to_the_end(
    plain_kernels, models, corpus, tmp_path, grid
):
    start = quantize(
        load_run(models.full), tmp_path / "start", method="gptq", calibration=corpus,
        embedding_grid=grid,
    )  # fmt: skip
    given, changes = start_of(models, quantized_start=start), {"embedding_grid": grid}
    run = trained(models, corpus, tmp_path / "run", start=given, **changes)
    steps = checkpoint.read(tmp_path / "run").parameters["embedding.start_steps"]
    rounded = packing.quantize(start.model.embedding.grid, run.model.embedding.weight.data)
    assert steps.any() and not np.array_equal(rounded, start.model.embedding.packed)
    packed = quantize(run, tmp_path / "packed")
    assert np.array_equal(packed.model.embedding.packed, start.model.embedding.packed)
    assert outputs(packed.model) == outputs(run.model)
    heads = dataclasses.replace(
        run.recipe, heads="parallel", draft_depth=1, freeze_trunk=True, distill_weight=0.0
    )
    train(
        heads, corpus, tmp_path / "heads", Start(start_from=tmp_path / "run"), threads=1,
        report=quiet,
    )  # fmt: skip
    with_heads = load_run(tmp_path / "heads")
    assert outputs(with_heads.model.trunk) == outputs(run.model)
    free = dataclasses.replace(run.recipe, freeze_embeddings=False, distill_weight=0.0)
    with pytest.raises(UserError, match="training cannot change: set freeze_embeddings"):
        train(free, corpus, tmp_path / "no", Start(start_from=tmp_path / "run"), report=quiet)


def test_a_table_with_scales_that_cannot_be_stored_is_refused(models):
    full, start = load_run(models.full), load_run(models.packed["q4_0", "gptq"])
    parameters = {name: p.data for name, p in full.model.named_parameters()}
    values = start.model.embedding.dequantize()
    affine = grid_named("int4-affine-g32")
    codes, scales = affine.encode(values)
    packed = packing.pack(affine, codes // 2, scales)
    start.model.embedding = PackedEmbedding(affine, packed)
    with pytest.raises(UserError, match="quantize the model with a table on the grid q8_0"):
        with_start(parameters, start, from_start())


def test_a_start_from_other_weights_uses_the_packed_table_itself(models, tmp_path):
    full, start = load_run(models.full), load_run(models.packed["q4_0", "gptq"])
    parameters = {name: p.data for name, p in full.model.named_parameters()}
    parameters["embedding.weight"] = parameters["embedding.weight"] + np.float32(0.3)
    found = with_start(parameters, start, from_start())["embedding.weight"]
    assert np.array_equal(found, start.model.embedding.dequantize())


def test_a_damaged_step_is_refused_when_the_run_is_loaded(models, corpus, tmp_path):
    trained(models, corpus, tmp_path)
    damaged = checkpoint.read(tmp_path)
    damaged.parameters["blocks.0.attention.qkv.start_steps"][3] = np.inf
    checkpoint.write(tmp_path, damaged)
    with pytest.raises(UserError, match="start_steps that are NaN or infinite"):
        load_run(tmp_path)
