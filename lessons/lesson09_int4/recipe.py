"""Lesson 9 adds the compiled kernels. The settings are lesson 8's, unchanged."""

from lessons.lesson08_qat.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels.ggml.integer_products",
    "minimtp.kernels.cpu.compiling",
    "minimtp.kernels.cpu.kernel_cache",
    "minimtp.kernels.cpu.matrices.panels",
    "minimtp.kernels.cpu.matrices.vectors",
    "minimtp.kernels.cpu.matrices.activations",
    "minimtp.kernels.cpu.matrices.code_products",
    "minimtp.kernels.cpu.matrices.tiles",
    "minimtp.kernels.cpu.matrices.packed_linear",
    "minimtp.kernels.cpu.math",
    "minimtp.kernels.cpu.matrices.embedding_rows",
    "minimtp.kernels.cpu.decoding.attention",
    "minimtp.kernels.cpu.decoding.team",
    "minimtp.kernels.cpu.decoding.batched_step",
    "minimtp.kernels.cpu.decoding.block",
    "minimtp.kernels.cpu.decoding.trunk",
    "minimtp.kernels.cpu.decoding",
    "minimtp.kernels.cpu.decoding.gated_head",
    "minimtp.kernels.cpu.decoding.verification",
    "minimtp.kernels.cpu.truncation",
    "minimtp.kernels.cpu.sampling",
    "minimtp.kernels.cpu.fake_quantize",
    "minimtp.kernels.cpu.steps",
    "minimtp.kernels.cpu.matrices.bfloat16",
    "minimtp.kernels.cpu.matrices.bfloat16.amx",
    "minimtp.kernels.cpu.matrices.bfloat16.avx512",
    "minimtp.kernels.cpu.matrices.bfloat16.panels",
    "minimtp.kernels.cpu.matrices.bfloat16.products",
    "minimtp.kernels.cpu.matrices.gemm",
    "minimtp.kernels.cpu.gates",
    "minimtp.kernels.cpu.loss",
    "minimtp.kernels.cpu.matrices",
    "minimtp.kernels.cpu.norms",
    "minimtp.kernels.cpu.optimizer",
    "minimtp.kernels.cpu.softmax",
    "minimtp.kernels.cpu",
)

recipe = previous
