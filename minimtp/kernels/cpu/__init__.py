"""The compiled counterparts of `kernels/plain`. They have the same names and signatures, and Numba
compiles them for float32 NumPy arrays.

The files have the names of their plain counterparts. In addition:

    matrices/         matrix products, in vector instructions
    decoding/         forward passes of a few tokens, each in one call
    softmax.py        rotary positions and causal softmax for training
    fake_quantize.py  rounding of weights and activations to their grids (plain: quantize.py)
    truncation.py     top-k and top-p
    math.py           exp, maximum and float16, written so that LLVM can vectorize them
    compiling.py      the decorator that compiles the kernels
    kernel_cache.py   the compiled kernels on disk, with a seal that detects damaged files
"""

import numba  # noqa: F401  (its version is part of `kernels.describe`)

from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.decoding.attention import cached_attention
from minimtp.kernels.cpu.decoding.batched_step import batched_trunk_step
from minimtp.kernels.cpu.decoding.block import prepare_block, transformer_block
from minimtp.kernels.cpu.decoding.gated_head import (
    gated_draft,
    gated_sampled_draft,
    gated_step,
    gated_tree,
    prepare_gated_step,
    prepare_token_parts,
)
from minimtp.kernels.cpu.decoding.trunk import prepare_trunk, trunk_step, with_threads
from minimtp.kernels.cpu.decoding.verification import verify_chain
from minimtp.kernels.cpu.fake_quantize import (
    fake_quantize_activations,
    fake_quantize_q4_0,
    fake_quantize_q8_0,
)
from minimtp.kernels.cpu.gates import gated_update, gated_update_backward, swiglu, swiglu_backward
from minimtp.kernels.cpu.loss import (
    cross_entropy,
    cross_entropy_backward,
    embedding_backward,
    mixed_cross_entropy,
)
from minimtp.kernels.cpu.matrices.activations import quantize_activations
from minimtp.kernels.cpu.matrices.bfloat16.products import matmul_bfloat16
from minimtp.kernels.cpu.matrices.embedding_rows import embedding
from minimtp.kernels.cpu.matrices.gemm import matmul
from minimtp.kernels.cpu.matrices.packed_linear import (
    linear,
    prepare_f16,
    prepare_f32,
    prepare_q4_0,
    prepare_q4_1,
    prepare_q5_0,
    prepare_q5_1,
    prepare_q8_0,
)
from minimtp.kernels.cpu.norms import rms_norm, rms_norm_backward
from minimtp.kernels.cpu.optimizer import adamw
from minimtp.kernels.cpu.sampling import choose, sample
from minimtp.kernels.cpu.softmax import causal_softmax, causal_softmax_backward, rotate
from minimtp.kernels.cpu.steps import (
    fake_quantize_with_steps,
    float16_values,
    learned_step_gradients,
    ranges,
    signed_extremes,
)
from minimtp.kernels.cpu.truncation import truncate

INT8_CACHE = True  # decoding with one gives the same bits with any number of rows

__all__ = [
    "adamw", "batched_trunk_step", "cached_attention", "causal_softmax", "causal_softmax_backward",
    "choose", "cross_entropy", "cross_entropy_backward", "embedding",
    "embedding_backward",
    "fake_quantize_activations", "fake_quantize_q4_0", "fake_quantize_q8_0",
    "fake_quantize_with_steps", "float16_values", "gated_draft", "gated_sampled_draft",
    "gated_step", "gated_tree",
    "gated_update", "gated_update_backward", "learned_step_gradients", "linear", "matmul",
    "matmul_bfloat16",
    "mixed_cross_entropy",
    "prepare_block", "prepare_f16", "prepare_f32", "prepare_gated_step", "prepare_q4_0",
    "prepare_q4_1", "prepare_q5_0", "prepare_q5_1", "prepare_q8_0",
    "prepare_token_parts", "prepare_trunk", "quantize_activations", "ranges",
    "rms_norm", "rms_norm_backward", "rotate", "sample", "signed_extremes",
    "swiglu", "swiglu_backward",
    "transformer_block", "truncate", "trunk_step", "verify_chain", "with_threads",
]  # fmt: skip


@compiled
def add_one(x):
    return x + 1


def check_compiler() -> None:
    """Compile a small function, or load it from the disk, and call it. Raises an error of Numba or
    LLVM if that fails.
    """
    if add_one(1) != 2:
        raise RuntimeError("compiled code adds 1 + 1 wrongly")
