"""What lesson 9 adds: the compiled kernels. The model and its numbers are lesson 8's, as they are."""

from lessons.lesson08_qat.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels.compiling",
    "minimtp.kernels.cpu_panels",
    "minimtp.kernels.cpu_vectors",
    "minimtp.kernels.cpu_activations",
    "minimtp.kernels.cpu_tiles",
    "minimtp.kernels.cpu_products",
    "minimtp.kernels.cpu_math",
    "minimtp.kernels.cpu_embedding",
    "minimtp.kernels.cpu_attention",
    "minimtp.kernels.cpu_block",
    "minimtp.kernels.cpu_gated_step",
    "minimtp.kernels.cpu_rounding",
    "minimtp.kernels.cpu_matrix",
    "minimtp.kernels.cpu_training",
    "minimtp.kernels.cpu",
)

recipe = previous
