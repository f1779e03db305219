"""What lesson 7 adds: grids, packing, and rounding a finished model. The model that is rounded is lesson 3's, as it is."""

from lessons.lesson06_speculative.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels.scale_search",
    "minimtp.kernels.superblocks",
    "minimtp.kernels.weighed_blocks",
    "minimtp.quant.rounding",
    "minimtp.quant.grids_base",
    "minimtp.quant.grids_groups",
    "minimtp.quant.grids_uniform",
    "minimtp.quant.grids_codebook",
    "minimtp.quant.grids_ggml",
    "minimtp.quant.grids",
    "minimtp.quant.bit_packing",
    "minimtp.quant.packing",
    "minimtp.quant.scales",
    "minimtp.quant.importance",
    "minimtp.quant.hqq",
    "minimtp.quant.gptq",
    "minimtp.quant.fake",
    "minimtp.quant.learned",
    "minimtp.quant.cache_rounding",
    "minimtp.quant.packed",
    "minimtp.quant.qat",
    "minimtp.quant.calibration",
    "minimtp.quant.awq",
    "minimtp.quant.ptq",
)

recipe = previous
