"""Lesson 7 adds grids, packing, and quantization of a trained model: lesson 3's, unchanged."""

from lessons.lesson06_speculative.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels.ggml.superblocks",
    "minimtp.quant.grids.rounding",
    "minimtp.quant.grids.base",
    "minimtp.quant.grids.groups",
    "minimtp.quant.grids.uniform",
    "minimtp.quant.grids.codebook",
    "minimtp.quant.grids.five_bits",
    "minimtp.quant.grids.ggml",
    "minimtp.quant.grids.superblocks",
    "minimtp.quant.grids",
    "minimtp.quant.grids.mixture",
    "minimtp.quant.grids.scales",
    "minimtp.quant.grids.scale_search",
    "minimtp.quant.bit_packing",
    "minimtp.quant.packing",
    "minimtp.quant.activations",
    "minimtp.quant.ptq.hqq",
    "minimtp.quant.ptq.gptq",
    "minimtp.quant.qat.fake_quantize",
    "minimtp.quant.qat.start_steps",
    "minimtp.quant.qat.learned",
    "minimtp.quant.qat.kv_cache",
    "minimtp.quant.packed_matrix",
    "minimtp.quant.qat.spec",
    "minimtp.quant.qat.modules",
    "minimtp.quant.qat.prepare",
    "minimtp.quant.qat.convert",
    "minimtp.quant.ptq.calibration",
    "minimtp.quant.ptq.awq",
    "minimtp.quant.ptq.walk",
    "minimtp.quant.ptq.methods",
)

recipe = previous
