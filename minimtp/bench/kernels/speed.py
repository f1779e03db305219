"""How fast the products of decoding are, beside what the memory can deliver: `minimtp bench kernels`.

Decoding one token reads every weight once and does two operations with it. Beyond the cache nothing can be faster than the
memory, so the yardstick is the machine's own read bandwidth at the size of the weights in question (what fits a cache is read
faster): the fastest of three ways to read so many bytes, BLAS's dot product of a vector with itself, its product of a matrix
and a vector, and NumPy's maximum. Processors differ in which that is; a product that beats all three is above 100 %.

    GB/s        bytes of weights, scales included, a second
    Gweight/s   weights a second, what counts for tokens: an int4 weight is an eighth of a float32's bytes
    c(T)        the time of T rows over the time of one row. Verifying a draft of T - 1 tokens costs c(T) plain steps, so this
                decides what speculation can gain: a perfect draft makes T / c(T)

NumPy's product (BLAS, float32) stands beside them. The roofline shows where each product is bound: by the memory, whose speed
times the operations a byte is the slope, or by arithmetic, for which NumPy's product of large matrices is the yardstick; a
product of small integers may exceed it. All on one thread and taken in turn: each figure is the median over
rounds, each round the median of some calls. Weights of a large matrix repeat (a panel of 32 rows is copied), its memory does
not.

On a GPU (`--device cuda`, bench/kernels/speed_on_gpu.py) the yardsticks are its copy bandwidth and its products of large matrices, cuBLAS
takes NumPy's place, and PyTorch's product in half precision stands beside them where it is installed with CUDA.
"""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.files import make_folder, write_text
from minimtp.kernels.ggml import blocks

SHAPES = (
    (128, 128),
    (512, 512),
    (1024, 1024),
    (2048, 2048),
    (4096, 4096),
    (16384, 8192),
    (32768, 16384),
)  # (outputs, inputs)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
FORMATS = ("q4_0", "q8_0", "f32", "numpy")
COLOURS = ("#1e8449", "#2e86c1", "#ca6f1e", "#7f8c8d", "#8e44ad", "#c0392b", "#d4ac0d")
SECONDS = 0.02  # of calls that make one figure of a round


@dataclass
class Contender:
    """A product of T rows with one matrix: `call(rows)` computes it."""

    format: str
    weights: int
    bytes: int
    call: Callable[[int], object]


def measure_kernels(
    *,
    largest: int = 512,
    rounds: int = 5,
    device: str = "cpu",
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure all formats on all matrices of at most `largest` MB in float32; return and, with `out`, write what was found.

    Raises UserError for numbers that cannot be used, or without compiled kernels: array code is not what this measures.
    """
    for name, value, most in (("largest", largest, 1 << 14), ("rounds", rounds, 1_000)):
        if not 1 <= value <= most:
            raise UserError(f"{name} must be at least 1 and at most {most}, not {value}")
    if out is not None and Path(out).is_dir():
        raise UserError(f"{out} is a folder: give --out the name of a file")
    chosen = choose_device(device)
    kernel, reason = kernels.describe(chosen.name)
    if kernel == "plain":
        raise UserError(f"there are no compiled kernels to measure: {reason}")
    if out is not None:
        make_folder(Path(out).parent)
    load = machine.load()
    machine.warn_if_busy(load, report)
    shapes = [shape for shape in SHAPES if 4 * shape[0] * shape[1] <= largest << 20]
    if chosen.name == "cuda":
        from minimtp.bench.kernels import speed_on_gpu

        found = speed_on_gpu.measure_kernels_on_gpu(chosen, shapes, rounds)
    else:
        found = _measure_all(shapes, rounds)
    result = {
        "measurement": "kernels", "device": chosen.name, "rounds": rounds, "rows": list(ROWS), "threads": 1, **found,
        "machine": machine.describe(load, chosen.name), "versions": machine.versions(),
    }  # fmt: skip
    if out is not None:
        write_text(Path(out), json.dumps(result, indent=2) + "\n")
    report(table(result))
    if out is not None:
        picture = draw(result, Path(out).with_suffix(".png"))
        report(f"saved {out}" + (f" and {picture}" if picture else ""))
    return result


def _measure_all(shapes: Sequence[tuple[int, int]], rounds: int) -> dict[str, object]:
    measured = []
    with tqdm(total=len(shapes) * len(FORMATS), desc="kernels", unit="matrix", disable=None) as bar:
        for shape in shapes:
            measured += _measure(shape, rounds, bar.update)
    return {
        "products": measured,
        "sgemm_gflops": statistics.median(machine.sgemm_gflops(1) for _ in range(rounds)),
    }


def _measure(
    shape: tuple[int, int], rounds: int, progress: Callable[[int], object]
) -> list[dict[str, object]]:
    """Every format's figures for one matrix, taken in turn."""
    contenders = []
    for format_ in FORMATS:
        contenders.append(_contender(format_, shape))
        progress(1)
    readers = {c.bytes: _readers(c.bytes) for c in contenders}
    seconds = {c.format: {rows: [] for rows in ROWS} for c in contenders}
    reading = {size: [] for size in readers}
    for _ in range(rounds):
        for size, ways in readers.items():
            reading[size].append(min(map(_seconds, ways)))
        for rows in ROWS:
            for c in contenders:
                seconds[c.format][rows].append(_seconds(lambda c=c, rows=rows: c.call(rows)))
    return [
        figures(c.format, c.bytes, shape, seconds[c.format], reading[c.bytes]) for c in contenders
    ]


def figures(
    format_: str,
    size: int,
    shape: tuple[int, int],
    seconds: dict[int, list[float]],
    reading: Sequence[float],
) -> dict[str, object]:
    """What the file says of one matrix of `size` bytes: seconds by rows, and the seconds that reading as many bytes takes."""
    one, read, weights = (
        statistics.median(seconds[1]),
        statistics.median(reading),
        shape[0] * shape[1],
    )
    return {
        "format": format_, "outputs": shape[0], "inputs": shape[1], "bytes": size,
        "microseconds": {rows: 1e6 * statistics.median(times) for rows, times in seconds.items()},
        "microseconds_fastest": 1e6 * min(seconds[1]), "microseconds_slowest": 1e6 * max(seconds[1]),
        "gweights_per_second": weights / one / 1e9,
        "gigabytes_per_second": size / one / 1e9,
        "read_gigabytes_per_second": size / read / 1e9,
        "share_of_read": read / one,
        "c": {rows: statistics.median(t / base for t, base in zip(times, seconds[1], strict=True))
              for rows, times in seconds.items()},
    }  # fmt: skip


def _contender(format_: str, shape: tuple[int, int]) -> Contender:
    outputs, inputs = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((max(ROWS), inputs)).astype(np.float32)
    few = rng.standard_normal((32, inputs)).astype(np.float32)
    kernel, y = kernels.for_array(x), np.empty((max(ROWS), outputs), np.float32)
    if format_ == "numpy":
        transposed = np.tile(few, (outputs // 32, 1)).T
        return Contender(
            format_,
            transposed.size,
            transposed.nbytes,
            lambda rows: np.matmul(x[:rows], transposed, out=y[:rows]),
        )
    if format_ == "f32":
        panel = kernel.prepare_f32(few)
    elif format_ == "q4_0":
        panel = kernel.prepare_q4_0(blocks.pack_q4_0(*blocks.encode_q4_0(few)))
    else:
        panel = kernel.prepare_q8_0(blocks.pack_q8_0(*blocks.encode_q8_0(few)))
    matrix = panel.repeated(outputs // 32)
    return Contender(
        format_,
        outputs * inputs,
        matrix.nbytes,
        lambda rows: kernel.linear(x[:rows], matrix, y[:rows]),
    )


def _readers(size: int) -> tuple[Callable[[], object], ...]:
    """Ways to read that many bytes."""
    vector = np.ones(max(1, size // 4), np.float32)
    width = math.isqrt(vector.size)
    matrix = vector[: vector.size // width * width].reshape(-1, width)
    return (
        lambda: np.dot(vector, vector),
        lambda: np.matmul(vector[: len(matrix)], matrix),
        vector.max,
    )


def _seconds(call: Callable[[], object]) -> float:
    """Median of calls that together take about SECONDS; the first call is not counted."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        started = perf_counter()
        call()
        times.append(perf_counter() - started)
    return statistics.median(times)


def table(result: dict[str, object], markdown: bool = False) -> str:
    """What the command prints."""
    shown, yardstick = (2, 4, 8, 16), "of copy" if _on_a_gpu(result) else "of read"
    head = [
        "matrix",
        "format",
        "MB",
        "us",
        "Gweight/s",
        "GB/s",
        yardstick,
        *(f"c({rows})" for rows in shown),
    ]
    lines = []
    for p in result["products"]:
        c = {int(rows): value for rows, value in p["c"].items()}
        us = {int(rows): value for rows, value in p["microseconds"].items()}
        lines.append([
            f"{p['outputs']} x {p['inputs']}", p["format"], f"{p['bytes'] / 1e6:.2f}", f"{us[1]:.1f}",
            f"{p['gweights_per_second']:.1f}", f"{p['gigabytes_per_second']:.1f}", f"{p['share_of_read']:.0%}",
            *(f"{c[rows]:.2f}" for rows in shown),
        ])  # fmt: skip
    if markdown:
        rule = ["---", "---", *("---:" for _ in head[2:])]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
    widths = [max(len(cells[i]) for cells in (head, *lines)) for i in range(len(head))]
    padded = (
        [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        for cells in (head, *lines)
    )
    said = [f"{name} {reason}" for name, reason in result.get("missing", {}).items()]
    if "matrix_gflops" in result:
        rates = ", ".join(
            f"{name} {rate / 1e3:.1f}" for name, rate in result["matrix_gflops"].items()
        )
        said.append(f"products of large matrices in TFLOP/s: {rates}")
    return "\n".join(["\n".join("  ".join(cells) for cells in padded), *said])


def _on_a_gpu(result: dict[str, object]) -> bool:
    return result.get("device", "cpu") == "cuda"


def readme(result: dict[str, object]) -> str:
    """What the README shows: the table, and what its figures depend on."""
    described = result["machine"]
    if _on_a_gpu(result):
        how = f"{described['processor']}, the device's own time, medians of {result['rounds']} rounds. Of copy: the share "
        how += "of its copy bandwidth"
    else:
        how = f"One thread of {described['processor']}{machine.other_work(described)}, medians of {result['rounds']} rounds in "
        how += "turn. Of read: the share of the speed at which NumPy reads as many bytes, in the fastest of three ways"
    return (
        f"{table(result, markdown=True)}\n\n{how}; c(T): the time of T rows over the time of one."
    )


def draw(result: dict[str, object], path: Path) -> Path | None:
    """Gweight/s by the size of the matrix beside what the memory could deliver; c(T); the roofline. None without matplotlib."""
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.4), layout="constrained")
    speed, rows_axes, roofline = figure.subplots(1, 3)
    largest = result["products"][-1]["outputs"], result["products"][-1]["inputs"]
    formats, where = dict.fromkeys(p["format"] for p in result["products"]), "one thread"
    if _on_a_gpu(result):
        where = result["machine"]["processor"]
    for format_, colour in zip(formats, COLOURS, strict=False):
        products = [p for p in result["products"] if p["format"] == format_]
        weights = [p["outputs"] * p["inputs"] for p in products]
        label = "NumPy, float32" if format_ == "numpy" else format_
        speed.plot(
            weights, [p["gweights_per_second"] for p in products], "o-", color=colour, label=label
        )
        if format_ in ("q4_0", "q8_0", "f16", "f32"):
            limits = [p["gweights_per_second"] / p["share_of_read"] for p in products]
            speed.plot(weights, limits, ":", color=colour, label=f"memory's limit for {format_}")
        last = next(p for p in products if (p["outputs"], p["inputs"]) == largest)
        rows_axes.plot(
            [int(r) for r in last["c"]], list(last["c"].values()), "o-", color=colour, label=label
        )
        roofline.plot(*_operations(last), "o-", color=colour, label=label)
    speed.set(xscale="log", yscale="log", xlabel="weights of the matrix", ylabel=f"Gweight/s, one row, {where}",
              title="one token: weights a second")  # fmt: skip
    rows_axes.set(xlabel="rows T", ylabel="c(T): time of T rows / time of one", ylim=(0, 16),
                  title=f"verification: {largest[0]} x {largest[1]}")  # fmt: skip
    read, peak = result["products"][-1]["read_gigabytes_per_second"], result["sgemm_gflops"]
    intensities = [0.25, peak / read, 128]
    roofline.plot(intensities, [min(peak, read * x) for x in intensities], "k--", linewidth=0.8,
                  label=f"memory {read:.0f} GB/s, sgemm {peak:.0f} GFLOP/s")  # fmt: skip
    roofline.set(xscale="log", yscale="log", xlabel="operations a byte of weights, 1 to 16 rows", ylabel=f"Gop/s, {where}",
                 title=f"roofline: {largest[0]} x {largest[1]}")  # fmt: skip
    for axes in (speed, rows_axes, roofline):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    return path


def _operations(product: dict[str, object]) -> tuple[list[float], list[float]]:
    """(operations for a byte of weights, operations a second in 1e9), by rows: two for a weight and a row."""
    operations = [
        2 * product["outputs"] * product["inputs"] * int(rows) for rows in product["microseconds"]
    ]
    times = product["microseconds"].values()
    return (
        [count / product["bytes"] for count in operations],
        [count / (1e3 * time) for count, time in zip(operations, times, strict=True)],
    )
