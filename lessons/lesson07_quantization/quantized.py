"""A model rounded to a grid by a method: what is left of it, and how far its weights have moved."""

from typing import NamedTuple

from minimtp.backend import Array, Device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import replicate
from minimtp.model.layers import Linear
from minimtp.model.transformer import Transformer
from minimtp.quant.bit_packing import pack4, unpack4
from minimtp.quant.grids.registry import Q4_0, Grid, grid_named
from minimtp.quant.packed import bits_per_weight
from minimtp.quant.ptq.methods import quantize_after_training
from minimtp.quant.qat.modules import QuantizationSpec
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate_model


class Rounded(NamedTuple):
    """bits_per_weight: of the whole model, steps and norms included. bits_per_byte: of held-out text."""

    bits_per_weight: float
    bits_per_byte: float


class Judge:
    """Rounds one model in many ways, and measures all of them on the same held-out text.

    tokens: of held-out text; a quarter as many of the training text are read by the methods that look at text.
    """

    def __init__(self, model: Transformer, corpus: Corpus, device: Device, tokens: int) -> None:
        self.model, self.corpus, self.tokens, self.context_length = (
            model,
            corpus,
            tokens,
            model.config.context_length,
        )
        windows = max(2, tokens // 4 // self.context_length)
        text = corpus.batch(
            0, seed=1, batch_size=windows, context_length=self.context_length
        )  # of the training part
        self.batches = [
            to_device(part, device) for part in np.array_split(text, max(1, windows // 16))
        ]

    def bits_per_byte(self, model: Transformer) -> float:
        return evaluate_model(model, self.corpus, self.context_length, self.tokens).bits_per_byte

    def rounded(self, grid: str, method: str = "rtn") -> Rounded:
        """All products on the grid, the token table, which is the output too, on q8_0."""
        spec = QuantizationSpec(weights=grid, activations="none")
        model = quantize_after_training(self.model, spec, method, self.batches)
        return Rounded(bits_per_weight(model), self.bits_per_byte(model))


def products(model: Transformer) -> list[Array]:
    """The matrices (N, K) of the model's products."""
    return [module.weight.data for _, module in model.named_modules() if isinstance(module, Linear)]


def noise(model: Transformer, grid: str) -> float:
    """The power of the rounding error of all products, as a share of that of the weights."""
    errors = [grid_named(grid).fake_quantize(weight) - weight for weight in products(model)]
    return sum(float((e * e).sum()) for e in errors) / sum(
        float((w * w).sum()) for w in products(model)
    )


def misread(model: Transformer) -> Transformer:
    """The model on q4_0, its codes packed two neighbours to a byte, and read as if they were ggml's blocks."""
    copy = replicate(model)
    for _, module in copy.named_modules():
        if isinstance(module, Linear):
            codes, scales = Q4_0.encode(module.weight.data)
            packed = pack4((codes + 8).astype("uint8"), "adjacent-lo-first")
            read = unpack4(packed, "ggml-split32", codes.shape[1]).astype("int8") - 8
            module.weight.data = Q4_0.decode(read.astype("int8"), scales)
    return copy


def errors_in_steps(grid: Grid, weight: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each element of a matrix (N, K): the weight and its error, both in steps of its group, and whether it was clipped."""
    codes, scales = grid.encode(weight)
    step = np.repeat(to_numpy(scales), grid.group_size, axis=1)
    inside = grid.straight_through_mask(weight, "round-clip")
    clipped = np.zeros(weight.shape, bool) if inside is None else ~to_numpy(inside)
    used = step != 0
    weight, level = to_numpy(weight)[used] / step[used], to_numpy(codes)[used]
    return weight, level - weight, clipped[used]
