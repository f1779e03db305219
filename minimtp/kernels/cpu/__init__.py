"""The compiled twins of `plain.py`: the same names and signatures, for float32 NumPy arrays, with Numba.

kernels/cpu/training.py      the loops of a training step         kernels/cpu/math.py       exp, maximum, float16
kernels/cpu/gemm.py        products of whole matrices           kernels/cpu/fake_quantize.py    weights to the grids
kernels/cpu/packed_linear.py      a few rows times a matrix            kernels/cpu/tiles.py      its innermost loops
kernels/cpu/panels.py        how their weights lie                kernels/cpu/vectors.py    vector instructions
kernels/cpu/activations.py   activations to int8                  kernels/cpu/embedding_rows.py  rows of weights
kernels/cpu/attention.py     a few rows over the cache
kernels/cpu/block.py         a block, or all of them, in one call
kernels/cpu/gated_head.py    a drafted token in one call          compiling.py      how all of it is compiled
"""

import numba  # noqa: F401  (its version is part of `kernels.describe`)

from minimtp.kernels.cpu.activations import quantize_activations
from minimtp.kernels.cpu.attention import cached_attention
from minimtp.kernels.cpu.block import prepare_block, prepare_trunk, transformer_block, trunk_step
from minimtp.kernels.cpu.embedding_rows import embedding
from minimtp.kernels.cpu.fake_quantize import (
    fake_quantize_activations,
    fake_quantize_q4_0,
    fake_quantize_q8_0,
)
from minimtp.kernels.cpu.gated_head import (
    gated_greedy_draft,
    gated_sampled_draft,
    gated_step,
    gated_tree,
    prepare_gated_step,
    prepare_token_parts,
)
from minimtp.kernels.cpu.gemm import matmul
from minimtp.kernels.cpu.packed_linear import (
    linear,
    prepare_f16,
    prepare_f32,
    prepare_q4_0,
    prepare_q8_0,
)
from minimtp.kernels.cpu.sampling import choose
from minimtp.kernels.cpu.training import (
    adamw,
    causal_softmax,
    causal_softmax_backward,
    cross_entropy,
    cross_entropy_backward,
    embedding_backward,
    gated_update,
    gated_update_backward,
    rms_norm,
    rms_norm_backward,
    rotate,
    swiglu,
    swiglu_backward,
)

__all__ = [
    "adamw",
    "cached_attention",
    "causal_softmax",
    "causal_softmax_backward",
    "choose",
    "cross_entropy",
    "cross_entropy_backward",
    "embedding",
    "embedding_backward",
    "fake_quantize_activations",
    "fake_quantize_q4_0",
    "fake_quantize_q8_0",
    "gated_greedy_draft",
    "gated_sampled_draft",
    "gated_step",
    "gated_tree",
    "gated_update",
    "gated_update_backward",
    "linear",
    "prepare_block",
    "prepare_f16",
    "prepare_f32",
    "prepare_gated_step",
    "prepare_q4_0",
    "prepare_q8_0",
    "prepare_token_parts",
    "prepare_trunk",
    "matmul",
    "quantize_activations",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "swiglu",
    "swiglu_backward",
    "transformer_block",
    "trunk_step",
]
