"""Lesson 9 adds the compiled kernels. The settings are lesson 8's, unchanged."""

from lessons.lesson08_qat.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels.cpu.compiling",
    "minimtp.kernels.cpu.panels",
    "minimtp.kernels.cpu.vectors",
    "minimtp.kernels.cpu.activations",
    "minimtp.kernels.cpu.tiles",
    "minimtp.kernels.cpu.packed_linear",
    "minimtp.kernels.cpu.math",
    "minimtp.kernels.cpu.embedding_rows",
    "minimtp.kernels.cpu.attention",
    "minimtp.kernels.cpu.block",
    "minimtp.kernels.cpu.gated_head",
    "minimtp.kernels.cpu.sampling",
    "minimtp.kernels.cpu.fake_quantize",
    "minimtp.kernels.cpu.gemm",
    "minimtp.kernels.cpu.training",
    "minimtp.kernels.cpu",
)

recipe = previous
