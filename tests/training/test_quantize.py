"""Quantizing a trained model into a packed run folder."""

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.matrix import bits_per_weight
from minimtp.quant.grids import Q5_1
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.training.evaluate import evaluate, evaluate_model
from minimtp.training.quantize import MAX_LOST_ACCEPTANCE, acceptance, calibration_batches, quantize
from minimtp.training.run.folder import load_run
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import quiet, recipe_of


def into(said: list[str]):
    """Return a report that collects all lines but the description of the text."""
    return lambda line: None if line.startswith("corpus ") else said.append(line)


def test_a_quantized_model_is_smaller_and_has_nearly_the_same_loss(tmp_path, corpus):
    train(recipe_of(heads="parallel", draft_depth=2), corpus, tmp_path / "run", report=quiet)
    exact = evaluate(load_run(tmp_path / "run"), corpus)
    for bits, most in ((4, 8.5), (8, 10)):
        packed = quantize(load_run(tmp_path / "run"), tmp_path / f"int{bits}", f"q{bits}_0")
        assert bits < bits_per_weight(packed.model) < most
        assert evaluate(load_run(tmp_path / f"int{bits}"), corpus).bits_per_byte == pytest.approx(
            exact.bits_per_byte, rel=0.02
        )
    with pytest.raises(UserError, match="already holds a checkpoint"):
        quantize(load_run(tmp_path / "run"), tmp_path / "int4")
    with pytest.raises(UserError, match="is quantized already"):
        quantize(load_run(tmp_path / "int4"), tmp_path / "twice")
    with pytest.raises(UserError, match="cannot be trained"):
        train(
            recipe_of(),
            corpus,
            tmp_path / "more",
            start=Start(start_from=tmp_path / "int4"),
            report=quiet,
        )
    with pytest.raises(UserError, match="cannot be trained"):
        train(None, corpus, tmp_path / "int4", start=Start(resume=True), report=quiet)


def test_heads_get_the_cheapest_grid_that_keeps_their_acceptance(tmp_path, corpus, monkeypatch):
    train(recipe_of(heads="parallel", draft_depth=2), corpus, tmp_path / "run", report=quiet)
    counted = {"before": [0.8, 0.04], "q4_0": [0.785, 0.04], "q8_0": [0.7, None]}

    def acceptance(model, batches):
        grids = {
            module.grid.name for _, module in model.heads.named_modules() if hasattr(module, "grid")
        }
        return counted[grids.pop() if grids else "before"]

    monkeypatch.setattr("minimtp.training.quantize.acceptance", acceptance)
    said = []
    packed = quantize(
        load_run(tmp_path / "run"),
        tmp_path / "fine",
        head_grid="measured",
        calibration=corpus,
        report=into(said),
    )
    assert (packed.packed.weights, packed.packed.heads) == (
        "q4_0",
        "q8_0",
    )  # a loss of 0.01 is too much
    assert said == [f"heads on {name}: acceptance {now} (before: 80.0% 4.0%)" for name, now in
                    (("q4_0", "78.5% 4.0%"), ("q8_0", "70.0% ?"))]  # fmt: skip
    counted["q4_0"], said = [0.791, 0.035], []
    packed = quantize(
        load_run(tmp_path / "run"),
        tmp_path / "coarse",
        head_grid="measured",
        calibration=corpus,
        report=into(said),
    )
    assert (
        packed.packed.heads == "q4_0"
        and len(said) == 2
        and said[1].startswith("warning: head 2 is dead: 3.5%")
    )


def test_the_measured_head_grid_keeps_the_acceptance_that_evaluating_finds(tmp_path, corpus):
    """A small trained model is quantized, and the acceptance of its heads is measured."""
    train(
        recipe_of(steps=150, heads="token_conditioned", draft_depth=3),
        corpus,
        tmp_path / "run",
        report=quiet,
    )
    run, batches = load_run(tmp_path / "run"), calibration_batches(corpus, 16, 3)
    before = acceptance(run.model, batches)
    assert before[0] > 0.3  # the heads draft well enough
    chosen = {}
    for grid in ("int2-restricted-g32", "q4_0", "q8_0"):
        said = []
        found = quantize(
            run, tmp_path / grid, grid, head_grid="measured", calibration=corpus, report=into(said)
        )
        chosen[grid] = found.packed.heads
        worth = {}
        for heads in {grid, "q8_0"}:
            packed = quantize(run, tmp_path / f"{grid} {heads}", grid, head_grid=heads)
            worth[heads] = acceptance(packed.model, batches)
        kept = all(
            now >= then - MAX_LOST_ACCEPTANCE for now, then in zip(worth[grid], before, strict=True)
        )
        assert chosen[grid] == (grid if kept else "q8_0")
        same = load_run(tmp_path / f"{grid} {chosen[grid]}").model
        assert [a.tobytes() for a in stored_arrays(found.model).values()] == [
            a.tobytes() for a in stored_arrays(same).values()
        ]
        assert said[0].startswith(f"heads on {grid}: acceptance {worth[grid][0]:.1%}")
        assert f"(before: {before[0]:.1%}" in said[0]
        assert len([line for line in said if line.startswith("heads on")]) == len(
            {grid, chosen[grid]}
        )
    assert chosen["int2-restricted-g32"] == "q8_0"


def test_the_acceptance_of_a_quantized_head_is_counted_as_in_an_evaluation(tmp_path, corpus):
    train(
        recipe_of(heads="token_conditioned", draft_depth=2), corpus, tmp_path / "run", report=quiet
    )
    model, windows = (
        load_run(tmp_path / "run").model,
        corpus.validation_windows(256, sequence_length=16, depth=2),
    )
    assert (
        acceptance(model, np.array_split(windows, 3))
        == evaluate_model(model, corpus, 16, 256).acceptance
    )


def test_a_head_grid_is_refused_without_heads_and_for_heads_trained_on_another_grid(
    tmp_path, corpus
):
    train(recipe_of(), corpus, tmp_path / "plain", report=quiet)
    with pytest.raises(UserError, match="has no prediction heads: leave out --head-grid"):
        quantize(load_run(tmp_path / "plain"), tmp_path / "out", head_grid="q8_0")
    recipe = recipe_of(heads="parallel", draft_depth=1, quantization="qat")
    train(recipe, corpus, tmp_path / "qat", report=quiet)
    with pytest.raises(UserError, match="was trained for q4_0 heads: leave out --head-grid"):
        quantize(load_run(tmp_path / "qat"), tmp_path / "out", head_grid="measured")
    with pytest.raises(UserError, match="was trained with quantization: leave out --method"):
        quantize(load_run(tmp_path / "qat"), tmp_path / "out", method="gptq")
    with pytest.raises(UserError, match="a token table on q8_0: leave out --embedding-grid"):
        quantize(load_run(tmp_path / "qat"), tmp_path / "out", embedding_grid="q5_1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tied_embeddings", [True, False])
def test_the_token_table_and_the_output_are_rounded_to_the_embedding_grid(
    tied_embeddings, tmp_path, corpus
):
    recipe = recipe_of(tied_embeddings=tied_embeddings)
    train(recipe, corpus, tmp_path / "run", report=quiet)
    run = load_run(tmp_path / "run")
    packed = quantize(run, tmp_path / "packed", embedding_grid="q5_1")
    trunk, table = packed.model.trunk, run.model.trunk.embedding.weight.data
    assert packed.packed.embedding == trunk.embedding.grid.name == "q5_1"
    assert trunk.blocks[0].attention.qkv.grid.name == "q4_0"
    assert np.array_equal(trunk.embedding.dequantize(), Q5_1.fake_quantize(table))
    assert tied_embeddings or trunk.output.grid is Q5_1


def test_a_model_trained_with_quantization_is_packed_on_its_own_grids(tmp_path, corpus):
    result = train(
        recipe_of(quantization="qat", weight_grid="q8_0"), corpus, tmp_path / "run", report=quiet
    )
    with pytest.raises(UserError, match="was trained for q8_0 weights: leave out --grid"):
        quantize(load_run(tmp_path / "run"), tmp_path / "int4", "q4_0")
    assert quantize(load_run(tmp_path / "run"), tmp_path / "packed").packed.weights == "q8_0"
    packed = evaluate(load_run(tmp_path / "packed"), corpus)
    assert packed.bits_per_byte == pytest.approx(result.evaluation.bits_per_byte, rel=1e-5)


def test_a_model_whose_quantization_has_not_begun_takes_any_grid(tmp_path, corpus):
    recipe = recipe_of(quantization="qat", weight_grid="q8_0", quantize_from=0.5)
    train(recipe, corpus, tmp_path / "run", stop_at_step=1, report=quiet)
    run = load_run(tmp_path / "run")
    packed = quantize(run, tmp_path / "packed", "q4_1", method="gptq", calibration=corpus)
    assert packed.packed.weights == "q4_1"
