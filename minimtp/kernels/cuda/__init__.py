"""The twins of `plain.py` for float32 arrays on the GPU: the same names and signatures, with CUDA.

cuda/*.cu            the kernels themselves        kernels/cuda/source.py     how they are compiled and launched
kernels/cuda/training.py     a training step               kernels/cuda/packed_linear.py   a few rows times a matrix
kernels/cuda/block.py        decoding                      kernels/cuda/graph.py      many launches recorded as one
"""

from minimtp.kernels.cuda.block import (
    cached_attention,
    choose,
    gated_greedy_draft,
    gated_sampled_draft,
    gated_step,
    gated_tree,
    prepare_block,
    prepare_gated_step,
    prepare_token_parts,
    prepare_trunk,
    transformer_block,
    trunk_step,
)
from minimtp.kernels.cuda.packed_linear import (
    embedding,
    linear,
    prepare_f16,
    prepare_f32,
    prepare_q4_0,
    prepare_q8_0,
    quantize_activations,
)
from minimtp.kernels.cuda.training import (
    adamw,
    causal_softmax,
    causal_softmax_backward,
    cross_entropy,
    cross_entropy_backward,
    embedding_backward,
    fake_quantize_activations,
    fake_quantize_q4_0,
    fake_quantize_q8_0,
    gated_update,
    gated_update_backward,
    rms_norm,
    rms_norm_backward,
    rotate,
    swiglu,
    swiglu_backward,
)
from minimtp.kernels.plain import matmul  # cuBLAS

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
