"""The results for one matrix in one format, and the measured matrices and numbers of rows.

GB/s        bytes of weights read per second, including scales
Gweight/s   weights processed per second. Tokens per second are proportional to it. In GB/s alone,
            int4 looks slow, because an int4 weight has an eighth of the bytes of a float32 weight
c(T)        time of T rows divided by the time of one row. Verifying T - 1 drafts costs c(T) plain
            steps, so c(T) limits the gain from drafting: a perfect drafter reaches T / c(T)
"""

import statistics
from collections.abc import Mapping, Sequence

SHAPES = (  # (outputs, inputs)
    (128, 128), (512, 512), (1024, 1024), (2048, 2048), (4096, 4096), (16384, 8192), (32768, 16384)
)  # fmt: skip
ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
Product = dict[str, object]


def figures(
    format_: str,
    size: int,
    shape: tuple[int, int],
    seconds: Mapping[int, Sequence[float]],
    reading: Sequence[float],
) -> Product:
    """Summarize the measurements of one matrix.

    size: bytes of the weights. shape: (outputs, inputs). seconds: times by number of rows.
    reading: times to read `size` bytes, one per round.
    """
    one_row = statistics.median(seconds[1])
    read = statistics.median(reading)
    outputs, inputs = shape
    return {
        "format": format_, "outputs": outputs, "inputs": inputs, "bytes": size,
        "microseconds": {rows: 1e6 * statistics.median(times) for rows, times in seconds.items()},
        "microseconds_fastest": 1e6 * min(seconds[1]),
        "microseconds_slowest": 1e6 * max(seconds[1]),
        "gweights_per_second": outputs * inputs / one_row / 1e9,
        "gigabytes_per_second": size / one_row / 1e9,
        "read_gigabytes_per_second": size / read / 1e9,
        "share_of_read": read / one_row,
        "c": {rows: statistics.median(t / base for t, base in zip(times, seconds[1], strict=True))
              for rows, times in seconds.items()},
    }  # fmt: skip
