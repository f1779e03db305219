"""The table of `minimtp bench kernels`, on the terminal and in data/results/README.md."""

from collections.abc import Mapping

from minimtp import machine
from minimtp.bench.table_text import aligned

SHOWN = (2, 4, 8, 16)  # rows T whose c(T) the table shows


def on_gpu(result: Mapping[str, object]) -> bool:
    return result.get("device", "cpu") == "cuda"


def table(result: Mapping[str, object], markdown: bool = False) -> str:
    """Return one line per matrix and format, and notes below the table unless `markdown` is set."""
    yardstick = "of copy" if on_gpu(result) else "of read"
    head = ["matrix", "format", "MB", "us", "Gweight/s", "GB/s", yardstick]
    head += [f"c({rows})" for rows in SHOWN]
    lines = aligned([head, *map(_cells, result["products"])], markdown, names=2)
    if markdown:
        return lines
    text = [lines, *(f"{name} {reason}" for name, reason in result.get("missing", {}).items())]
    if "matrix_gflops" in result:
        rates = [f"{name} {rate / 1e3:.1f}" for name, rate in result["matrix_gflops"].items()]
        text.append(f"products of large matrices in TFLOP/s: {', '.join(rates)}")
    return "\n".join(text)


def _cells(product: Mapping[str, object]) -> list[str]:
    c = {int(rows): value for rows, value in product["c"].items()}
    microseconds = {int(rows): value for rows, value in product["microseconds"].items()}
    return [
        f"{product['outputs']} x {product['inputs']}",
        product["format"],
        f"{product['bytes'] / 1e6:.2f}",
        f"{microseconds[1]:.1f}",
        f"{product['gweights_per_second']:.1f}",
        f"{product['gigabytes_per_second']:.1f}",
        f"{product['share_of_read']:.0%}",
        *(f"{c[rows]:.2f}" for rows in SHOWN),
    ]


def readme(result: Mapping[str, object]) -> str:
    """Return the Markdown table and the conditions of the measurement."""
    described = result["machine"]
    if on_gpu(result):
        how = (
            f"{described['processor']}, times by the device's own clock, medians of "
            f'{result["rounds"]} rounds. "of copy" is the share of the copy bandwidth'
        )
    else:
        how = (
            f"One thread of {described['processor']}{machine.other_work(described)}, medians of "
            f'{result["rounds"]} alternating rounds. "of read" is the speed relative to NumPy '
            "reading the same number of bytes, in the fastest of three ways"
        )
    return (
        f"{table(result, markdown=True)}\n\n{how}. "
        "c(T) is the time of T rows divided by the time of one row."
    )
