"""The compiled twins of `plain.py`: the same names and signatures, for float32 NumPy arrays, with Numba.

`cpu_training.py` has the loops of a training step, `cpu_rounding.py` the quantization grids, `cpu_math.py` what they
share.
"""

import numba  # noqa: F401  (its version is part of `kernels.describe`)

from minimtp.kernels.cpu_rounding import (
    fake_quantize_activations,
    fake_quantize_q4_0,
    fake_quantize_q8_0,
    quantize_activations,
)
from minimtp.kernels.cpu_training import (
    adamw,
    causal_softmax,
    causal_softmax_backward,
    cross_entropy,
    cross_entropy_backward,
    embedding_backward,
    rms_norm,
    rms_norm_backward,
    rotate,
    swiglu,
    swiglu_backward,
)
from minimtp.kernels.plain import cached_attention, linear, prepare_f32, prepare_q4_0, prepare_q8_0

__all__ = [
    "adamw",
    "cached_attention",
    "causal_softmax",
    "causal_softmax_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "embedding_backward",
    "fake_quantize_activations",
    "fake_quantize_q4_0",
    "fake_quantize_q8_0",
    "linear",
    "prepare_f32",
    "prepare_q4_0",
    "prepare_q8_0",
    "quantize_activations",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "swiglu",
    "swiglu_backward",
]
