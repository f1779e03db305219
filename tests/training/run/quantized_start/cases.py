"""Runs that start from packed models, and what the tests compare of them."""

from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.model.loss import evaluate_losses
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.training.run.folder import load_run
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import quiet, recipe_of

GRIDS = ["q4_0", "q8_0", "int4-restricted-channel", "q4_0,qkv=q5_0"]


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


def with_other_codes(model):
    """Change a packed model's table so that the rule of its grid would choose other scales."""
    packed = model.trunk.embedding.packed.copy()
    packed[3, 2:34] = np.int8(90).view(np.uint8)  # no code is the extreme 127
    model.trunk.embedding.packed = packed
