"""Quantize a model to a grid with a method; measure its size, its loss and its rounding errors."""

from typing import NamedTuple

from minimtp.backend import Array, Device, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import replicate
from minimtp.model.layers import Linear
from minimtp.model.matrix import bits_per_weight
from minimtp.model.transformer import Transformer
from minimtp.quant.bit_packing import pack4, unpack4
from minimtp.quant.grids import Q4_0, Grid, grid_named
from minimtp.quant.ptq.methods import quantize_after_training
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate_model


class Quantized(NamedTuple):
    """A quantized model's size, including scales and norms, and its loss on held-out text."""

    bits_per_weight: float
    bits_per_byte: float


class Evaluator:
    """Quantize one model in many ways, and evaluate all of them on the same held-out text.

    tokens: the number of held-out tokens. Methods that need calibration text get a quarter as many
    training tokens.
    """

    def __init__(self, model: Transformer, corpus: Corpus, device: Device, tokens: int) -> None:
        self.model = model
        self.corpus = corpus
        self.tokens = tokens
        self.context_length = model.config.context_length
        windows = max(2, tokens // 4 // self.context_length)
        text = corpus.batch(0, seed=1, batch_size=windows, sequence_length=self.context_length)
        parts = np.array_split(text, max(1, windows // 16))
        self.batches = [to_device(part, device) for part in parts]

    def bits_per_byte(self, model: Transformer) -> float:
        return evaluate_model(model, self.corpus, self.context_length, self.tokens).bits_per_byte

    def quantized(self, grid: str, method: str = "rtn") -> Quantized:
        """Quantize all matrices to the grid. The token embedding (also the output) uses q8_0."""
        spec = QuantizationSpec(weights=grid, activations="none")
        model = quantize_after_training(self.model, spec, method, self.batches)
        return Quantized(bits_per_weight(model), self.bits_per_byte(model))

    def describe(self, grid: str | None = None) -> str:
        """Return size, noise and loss of the model on a grid, or in float32."""
        size, loss = (32, self.bits_per_byte(self.model)) if grid is None else self.quantized(grid)
        error = 0.0 if grid is None else noise(self.model, grid)
        numbers = f"{size:>6.2f} bits per weight  noise {100 * error:>4.1f} %"
        return f"{numbers}  {loss:.3f} bits per byte"


def matrices(model: Transformer) -> list[Array]:
    """Return the weight matrices (N, K) of all linear layers."""
    return [module.weight.data for _, module in model.named_modules() if isinstance(module, Linear)]


def noise(model: Transformer, grid: str) -> float:
    """Return the sum of the squared rounding errors over the sum of the squared weights."""
    errors = [grid_named(grid).fake_quantize(weight) - weight for weight in matrices(model)]
    error_power = sum(float((e * e).sum()) for e in errors)
    return error_power / sum(float((w * w).sum()) for w in matrices(model))


def misread(model: Transformer) -> Transformer:
    """Wrong: quantize to q4_0, pack adjacent codes into bytes, and read these as ggml's blocks."""
    copy = replicate(model)
    for _, module in copy.named_modules():
        if isinstance(module, Linear):
            codes, scales = Q4_0.encode(module.weight.data)
            packed = pack4((codes + 8).astype("uint8"), "adjacent-lo-first")
            read = unpack4(packed, "ggml-split32", codes.shape[1]).astype("int8") - 8
            module.weight.data = Q4_0.decode(read.astype("int8"), scales)
    return copy


def errors_in_scales(grid: Grid, weight: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (weights, errors, clipped) for the elements of a matrix (N, K).

    Weights and errors are divided by the scale of their group. Elements with scale 0 are left out.
    """
    codes, scales = grid.encode(weight)
    scale = np.repeat(to_numpy(scales), grid.group_size, axis=1)
    inside = grid.straight_through_mask(weight, "round-clip")
    clipped = np.zeros(weight.shape, bool) if inside is None else ~to_numpy(inside)
    used = scale != 0
    in_scales, levels = to_numpy(weight)[used] / scale[used], to_numpy(codes)[used]
    return in_scales, levels - in_scales, clipped[used]
