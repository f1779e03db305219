"""The speed of the matrix products of training: a linear layer, forward and backward.

    y = x Wᵀ,  dx = dy W,  dW = dyᵀ x        for x (1024, inputs) and W (outputs, inputs)

Each of the three takes 2 * 1024 * inputs * outputs operations. NumPy's float32 product, minimtp's
float32 kernel and its bfloat16 kernel alternate on one thread. A figure is the three products'
operations divided by the sum of their median times. The times are processor time of the thread, so
that other work on the machine disturbs them less. The bfloat16 kernel gets float32 matrices, so its
time includes the rounding.

The shapes are those of SmolLM2-135M: queries and output of attention, keys or values, the two
directions of the feed-forward layer, and the token table.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from time import thread_time

from minimtp import kernels
from minimtp.backend import Array, keep_freed_memory
from minimtp.backend import numpy as np
from minimtp.bench.table_text import aligned

ROWS = 1024
SHAPES = ((192, 576), (576, 576), (1536, 576), (576, 1536), (49152, 576))  # (outputs, inputs)
Products = dict[str, object]


def measure_training_products(max_weights: int, rounds: int) -> Products:
    """Measure the layers of at most `max_weights` weights. Return {"rows", "layers"}: a layer has
    its outputs, its inputs and the GFLOP/s by name.
    """
    keep_freed_memory()
    layers = []
    for outputs, inputs in SHAPES:
        if outputs * inputs > max_weights:
            continue
        times = _seconds(outputs, inputs, rounds)
        operations = 3 * 2 * ROWS * inputs * outputs
        gflops = {name: operations / seconds / 1e9 for name, seconds in times.items()}
        layers.append({"outputs": outputs, "inputs": inputs, "gflops": gflops})
    return {
        "rows": ROWS, "layers": layers,
        "instructions_for_bfloat16": kernels.bfloat16_instructions() is not None,
    }  # fmt: skip


def _seconds(outputs: int, inputs: int, rounds: int) -> dict[str, float]:
    """Return the thread's time of the three products by name, the sum of their medians."""
    rng = np.random.default_rng(0)
    x, weight, gradient = (
        rng.standard_normal(shape, np.float32)
        for shape in ((ROWS, inputs), (outputs, inputs), (ROWS, outputs))
    )
    kernel = kernels.for_array(x)
    variants: dict[str, Callable[[Array, Array], Array]] = {
        "NumPy float32": np.matmul,
        "float32": kernel.matmul,
        "bfloat16": kernel.matmul_bfloat16,
    }
    total = dict.fromkeys(variants, 0.0)
    for a, b in ((x, weight.T), (gradient, weight), (gradient.T, x)):
        times: dict[str, list[float]] = {name: [] for name in variants}
        for round_ in range(1 + rounds):
            for name, multiply in variants.items():
                began = thread_time()
                multiply(a, b)
                if round_:  # the first one may compile
                    times[name].append(thread_time() - began)
        for name, measured in times.items():
            total[name] += statistics.median(measured)
    return total


def training_table(products: Mapping[str, object]) -> str:
    """Return one line per layer, and a note if bfloat16 has no instructions here."""
    layers: Sequence[Mapping[str, object]] = products["layers"]
    if not layers:
        return ""
    names = list(layers[0]["gflops"])
    head = ["training, forward and backward", *names, "bfloat16 / NumPy"]
    lines = [head]
    for layer in layers:
        rates = layer["gflops"]
        lines.append(
            [
                f"{products['rows']} rows, {layer['inputs']} -> {layer['outputs']}",
                *(f"{rate:.0f} GFLOP/s" for rate in rates.values()),
                f"{rates['bfloat16'] / rates['NumPy float32']:.2f}x",
            ]
        )
    text = aligned(lines, markdown=False)
    if not products["instructions_for_bfloat16"]:
        text += "\nthis processor has no fast instructions for bfloat16: it is computed in float32"
    return text
