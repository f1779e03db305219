"""Quantization after training: round the weights of a finished model, and nothing else.

Round to nearest is the baseline that everything cleverer has to beat. It uses the same grids, the same packing and the same
modules as quantization-aware training; the only difference is that the weights never had a chance to adapt.
"""

from minimtp.engine.module import Module, replicate
from minimtp.quant.qat import QuantizationSpec, convert, prepare


def round_to_nearest(model: Module, spec: QuantizationSpec) -> Module:
    """A packed model with the full-precision model's weights rounded; the given model is left as it is.

    Raises what `prepare` and `convert` raise.
    """
    return convert(prepare(replicate(model), spec))
