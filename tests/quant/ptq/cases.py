"""Models, weights, moments and reference algorithms for the tests of post-training quantization."""

import math
from dataclasses import replace

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.heads import MultiTokenModel
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.quant.grids import grid_named
from tests.helpers.heads import KINDS, heads_of

SHAPE = ModelConfig(
    vocabulary_size=11,
    context_length=16,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)


DEPTH = 2


NAMES = (
    "q4_0",
    "q8_0",
    "q4_1",
    "int3-ggml-signed-g32",
    "int4-affine-g32",
    "int2-restricted-channel",
    "nf4-g32",
)


GRIDS = [grid_named(name) for name in NAMES]


RAGGED = [grid_named("int4-restricted-g24"), grid_named("int3-restricted-tensor")]


each_grid = pytest.mark.parametrize("grid", [*GRIDS, *RAGGED], ids=str)


each_kind = pytest.mark.parametrize("kind", ["none", *KINDS])


def arrays_of(scales):
    return list(scales) if isinstance(scales, tuple) else [scales]


def same(one, other):
    """Return whether two results (codes, scales) are equal bit for bit."""
    pairs = zip([one[0], *arrays_of(one[1])], [other[0], *arrays_of(other[1])], strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def assert_follows_gptq(
    grid, x, second_moment, found, *, beforehand=None, largest_first=False, damping=0.01
):
    """Check codes and scales against GPTQ's definition, one column at a time.

    The check uses no Cholesky factor: it eliminates each column from the inverse of the damped
    moment after the column is rounded. It continues from the codes that were found. A level may be
    slightly further away than the nearest one: a grid's own rule rounds with the scale before it is
    stored as a float16, `nearest` with the stored one, and both are right. Scales may differ in the
    last bit of a float16.
    """
    codes, scales = found
    columns = x.shape[1]
    size, keep_scales = grid.group_size or columns, largest_first or beforehand is not None
    expected = arrays_of((beforehand or grid.encode(x))[1])
    assert codes.shape == x.shape and codes.dtype == np.int8, f"got codes {codes.dtype}"
    assert [a.shape for a in arrays_of(scales)] == [a.shape for a in expected]
    diagonal, live = np.diag(second_moment), np.diag(second_moment) > 0
    diagonal = np.where(live, diagonal, diagonal[live].mean() if live.any() else 1.0)
    damped = second_moment + np.diag(diagonal - np.diag(second_moment))
    inverse = np.linalg.inv(damped + damping * diagonal.mean() * np.eye(columns))
    now, left = x.astype(np.float64), np.ones(columns, bool)
    order = np.argsort(-np.diag(second_moment), kind="stable") if largest_first else range(columns)
    for j in order:
        if j % size == 0 and not keep_scales:
            part = arrays_of(grid.encode(now[:, j : j + size])[1])
            for mine, new in zip(expected, part, strict=True):
                mine[:, j // size : j // size + 1] = new
        level = grid.decode(codes[:, j : j + 1], scales, j)[:, 0].astype(np.float64)
        nearest, lowest, highest = (
            grid.decode(column, scales, j)[:, 0]
            for column in (
                grid.nearest(now[:, j : j + 1], scales, j),
                *(np.full((len(x), 1), end, np.int8) for end in (grid.min_code, grid.max_code)),
            )
        )
        gaps = grid.max_code - grid.min_code
        slack = 0.01 * np.abs(highest - lowest) / gaps + 2**-10 * np.abs(level) + 2**-24 * gaps
        far = np.flatnonzero(np.abs(level - now[:, j]) > np.abs(nearest - now[:, j]) + slack)
        assert not far.size, (
            f"column {j}, row {far[0]}: the updated weight is {now[far[0], j]:.6g}, and the level "
            f"{level[far[0]]:.6g} is not the nearest one"
        )
        left[j] = False
        now[:, left] -= np.outer((now[:, j] - level) / inverse[j, j], inverse[j, left])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    for mine, theirs in zip(expected, arrays_of(scales), strict=True):
        assert np.allclose(mine, theirs, rtol=2**-9, atol=2**-24), (
            "the scales of a group are chosen when its first column is reached, and are kept with "
            "largest_first or beforehand"
        )


def normal_weights(rows, columns, seed=0, spread=0.1):
    """Return normal weights of standard deviation `spread`: float32 (rows, columns)."""
    return (spread * np.random.default_rng(seed).standard_normal((rows, columns))).astype(
        np.float32
    )


def moment(columns, seed=0, rows=None):
    """Return E[x xᵀ] of correlated inputs with very different magnitudes."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns)) * np.exp(rng.standard_normal(columns))
    x = rng.standard_normal((rows or 4 * columns, columns)) @ mixing
    return x.T @ x / len(x)


def build(kind="none", dtype=np.float64, **changes):
    """Return a small model in which no weight has its initial value of 0 or 1."""
    rng = np.random.default_rng(0)
    shape = replace(SHAPE, **changes)
    trunk = Transformer(shape, rng)
    model = trunk
    if kind != "none":
        model = MultiTokenModel(trunk, heads_of(kind, DEPTH, shape, rng))
    for name, parameter in model.named_parameters():
        norm = "norm" in name
        parameter.data = (
            rng.uniform(0.5, 1.5, parameter.shape)
            if norm
            else 0.2 * rng.standard_normal(parameter.shape)
        )
    map_parameters(model, lambda array: array.astype(dtype))
    return model


def text(model, count=2, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SHAPE.vocabulary_size, (3, 9 + 1 + model.depth)) for _ in range(count)]


def outputs(model, tokens):
    """Return the trunk's hidden states, and the losses of the next token and of every head."""
    with no_grad():
        hidden = model.hidden(tokens[:, : tokens.shape[1] - 1 - model.depth]).data
        return hidden, evaluate_losses(model, tokens)[0]


HQQ_GRIDS = [grid for grid in [*GRIDS, *RAGGED] if "affine" not in grid.name]


def shrunk(residual, step, beta):
    """Return the generalized soft threshold of one residual, measured in steps."""
    unit = abs(step) or 1.0
    size = abs(residual) / unit
    if size == 0:
        return 0.0
    return math.copysign(max(0.0, size - size ** (0.7 - 1) / beta) * unit, residual)


def hqq_of_a_group(grid, group):
    """Compute HQQ of one group (n,) from the equations in hqq.py, one number at a time.

    The offset is fitted if the grid has one (q4_1), otherwise the step. Returns the best
    (codes, scales), and the error before and after each iteration.
    """
    x = group[None]
    codes, scales = grid.encode(x)
    exact = [float(w) for w in group]

    def values(codes, scales):
        return [float(v) for v in grid.decode(codes, scales)[0]]

    def cost(codes, scales):
        return sum(abs(w - q) ** 0.7 for w, q in zip(exact, values(codes, scales), strict=True))

    best = codes, scales
    tried, rounded = scales, codes
    beta, costs = 10.0, [cost(codes, scales)]
    for _ in range(20):
        affine = isinstance(tried, tuple)
        step = float((tried.step if affine else tried).item())
        kept = [
            w - shrunk(w - q, step, beta)
            for w, q in zip(exact, values(rounded, tried), strict=True)
        ]
        numbers = [int(code) for code in rounded[0]]
        if affine:
            mean = sum(k - code * step for k, code in zip(kept, numbers, strict=True)) / len(kept)
            tried = tried._replace(minimum=np.array([[mean]], np.float16).astype(np.float32))
        else:
            squares = sum(code * code for code in numbers)
            fitted = sum(k * code for k, code in zip(kept, numbers, strict=True)) / (squares or 1)
            tried = np.array([[fitted]], np.float16).astype(np.float32) if squares else tried
        rounded = grid.nearest(x, tried)
        if cost(rounded, tried) < min(costs):
            best = rounded, tried
        costs.append(cost(rounded, tried))
        beta *= 1.05
    return best, costs
