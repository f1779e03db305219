"""The computations that take most of the time, in plain array code. Read this version to learn what
the compiled kernels compute.

    norms.py          RMSNorm
    gates.py          SwiGLU and the gated update
    attention.py      rotary positions, causal softmax, attention over a cache
    cache.py          how keys and values are stored in the cache
    loss.py           cross-entropy
    optimizer.py      AdamW
    quantize.py       rounding weights and activations to int4 and int8
    steps.py          rounding to levels with given steps, and the gradients of learned steps
    packed_linear.py  matrix products and embedding lookups
    bfloat16.py       matrix products in bfloat16
    decoding/         blocks and the trunk for a few tokens, drafting, verification
    sampling.py       choosing tokens

Every function here has a compiled counterpart with the same name and signature in `kernels/cpu`
(Numba) and `kernels/cuda` (CuPy). Tests compare their results. The functions here accept NumPy and
CuPy arrays and run on the device of their arrays. The result has the dtype of the input: float32 in
normal use, float64 in tests that need more precision.

Shapes use N rows, D hidden size, F intermediate size, V vocabulary, K inputs of a product, T
tokens, H query heads, G key/value heads, C head_dim, S positions of the cache, M matrices, P
parameters. Cached keys (G, N, C, P) are N panels of P positions.
"""

from minimtp.kernels.plain.attention import (
    cached_attention,
    causal_softmax,
    causal_softmax_backward,
    rotate,
)
from minimtp.kernels.plain.bfloat16 import matmul_bfloat16
from minimtp.kernels.plain.decoding.batched_step import batched_trunk_step
from minimtp.kernels.plain.decoding.block import (
    PreparedBlock,
    PreparedTrunk,
    prepare_block,
    prepare_trunk,
    transformer_block,
    trunk_step,
    with_threads,
)
from minimtp.kernels.plain.decoding.gated_head import (
    PreparedGatedStep,
    gated_draft,
    gated_sampled_draft,
    gated_step,
    gated_tree,
    prepare_gated_step,
    prepare_token_parts,
)
from minimtp.kernels.plain.decoding.verification import verify_chain
from minimtp.kernels.plain.gates import gated_update, gated_update_backward, swiglu, swiglu_backward
from minimtp.kernels.plain.loss import cross_entropy, cross_entropy_backward, mixed_cross_entropy
from minimtp.kernels.plain.norms import rms_norm, rms_norm_backward
from minimtp.kernels.plain.optimizer import adamw
from minimtp.kernels.plain.packed_linear import (
    Prepared,
    embedding,
    embedding_backward,
    linear,
    matmul,
    prepare_f16,
    prepare_f32,
    prepare_q4_0,
    prepare_q4_1,
    prepare_q5_0,
    prepare_q5_1,
    prepare_q8_0,
)
from minimtp.kernels.plain.quantize import (
    fake_quantize_activations,
    fake_quantize_q4_0,
    fake_quantize_q8_0,
    quantize_activations,
)
from minimtp.kernels.plain.sampling import choose, sample, truncate
from minimtp.kernels.plain.steps import (
    fake_quantize_with_steps,
    float16_values,
    learned_step_gradients,
    ranges,
    signed_extremes,
)

INT8_CACHE = False  # correct, but the bits of a row depend on the number of rows

__all__ = [
    "Prepared", "PreparedBlock", "PreparedGatedStep", "PreparedTrunk",
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
