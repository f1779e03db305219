"""The packed token table of a start: frozen, it keeps its bytes to the end."""

import dataclasses

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant import packing
from minimtp.quant.grids import grid_named
from minimtp.quant.packed_matrix import PackedEmbedding
from minimtp.training.quantize import quantize
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import load_run
from minimtp.training.run.quantized_start import with_start
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import quiet
from tests.training.run.quantized_start.cases import (
    from_start,
    outputs,
    start_of,
    trained,
    with_other_codes,
)


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
