"""The counterparts of `kernels/plain` for float32 arrays on the GPU: the same names and signatures,
in CUDA.

Files:

    *.cu              the kernels
    source.py         compiles and launches them
    training.py       the kernels of a training step
    packed_linear.py  a few rows times a matrix
    gemm.py           products of large matrices in reduced precision
    block.py          a transformer block
    gated_head.py     drafting
    sampling.py       choosing tokens
    graph.py          many launches recorded as one
"""

from minimtp.kernels.cuda.block import (
    batched_trunk_step,
    cached_attention,
    prepare_block,
    prepare_trunk,
    transformer_block,
    trunk_step,
    with_threads,
)
from minimtp.kernels.cuda.gated_head import (
    gated_draft,
    gated_sampled_draft,
    gated_step,
    gated_tree,
    prepare_gated_step,
    prepare_token_parts,
)
from minimtp.kernels.cuda.packed_linear import (
    embedding,
    linear,
    prepare_f16,
    prepare_f32,
    prepare_q4_0,
    prepare_q4_1,
    prepare_q5_0,
    prepare_q5_1,
    prepare_q8_0,
    quantize_activations,
)
from minimtp.kernels.cuda.sampling import choose
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
    mixed_cross_entropy,
    rms_norm,
    rms_norm_backward,
    rotate,
    swiglu,
    swiglu_backward,
)
from minimtp.kernels.plain import (  # cuBLAS, and CuPy's own kernels
    fake_quantize_with_steps,
    float16_values,
    learned_step_gradients,
    matmul,
    matmul_bfloat16,
    ranges,
    sample,
    signed_extremes,
    truncate,
    verify_chain,
)

INT8_CACHE = False  # caches are in float32

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
