"""`minimtp bench --all`: every measurement of a preset except rounds, acceptance, heads, passes,
sampling and llama.

    bench-kernels.json     speed of matrix products, NumPy and memory; needs compiled kernels
    bench-train.json       speed of training and of PyTorch
    compare-PRESET.json    the comparison, whose models the next measurement uses
    bench-decode.json      drafters, verification rules and number formats of the weights
    quality-PRESET.json    quality lost to quantization; always on the CPU, because it does not
                           measure speed

The measurements run one after the other, so that they do not disturb each other. A file that exists
is not measured again. Delete it to repeat its measurement. `--preset gpu` has sizes for a GPU and
trains in half precision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minimtp.backend import choose_device
from minimtp.bench.decode import speed as decode
from minimtp.bench.decode.prompts import Sizes
from minimtp.bench.kernels import speed as kernels
from minimtp.bench.quality import measure as quality
from minimtp.bench.training import speed as training
from minimtp.compare import run as comparison
from minimtp.compare.result_file import FILE_NAME, RESULT
from minimtp.errors import UserError
from minimtp.files import FileKind, OneWriter, write_text
from minimtp.kernels import describe as describe_kernels


@dataclass(frozen=True)
class Extent:
    """The size of the measurements."""

    max_megabytes: int  # size of the largest matrix in float32
    rounds: int
    steps: int
    sizes: Sizes
    bits: tuple[int, ...]
    seeds: int
    precision: str = "float32"  # of training


EXTENTS = {  # by preset
    "tiny": Extent(1, 1, 2, Sizes(prompts=1, max_new_tokens=16, repeats=1), (3,), 1),
    "quick": Extent(512, 5, 20, Sizes(repeats=8), (8, 4, 3, 2), 3),
    "gpu": Extent(2048, 5, 20, Sizes(max_new_tokens=256), (), 0, "bfloat16"),
}


def measure_everything(
    preset: str = "quick",
    out: str | Path | None = None,
    *,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> Path:
    """Run the measurements whose results are not yet in the folder `out`, and return the folder.

    Raises UserError for options that cannot be used and folders that cannot be written,
    KeyboardInterrupt if the user stops it."""
    if preset not in EXTENTS:
        raise UserError(f"preset must be one of {', '.join(EXTENTS)}, not {preset!r}")
    if preset == "gpu" and device == "cpu":
        raise UserError("preset gpu takes days on a CPU: use --device cuda, or --preset quick")
    kernel, reason = describe_kernels(choose_device(device).name)
    out = Path(out or Path("runs", f"bench-{preset}"))
    with OneWriter(out) as writer:
        writer.begin()
        _run_missing(preset, out, device, kernel, reason, report)
    return out


def _run_missing(
    preset: str, out: Path, device: str, kernel: str, reason: str, report: Callable[[str], None]
) -> None:
    """Run the measurements whose files are not in `out`. kernel, reason: the kernels that run."""
    measurements = _measurements(preset, out, device)
    if kernel == "plain":
        report(f"omitting bench-kernels.json: there are no compiled kernels to measure ({reason})")
        del measurements["bench-kernels.json"]
    for name, measure in measurements.items():
        if (out / name).is_file():
            report(f"{out / name} exists: delete it to measure again")
            continue
        report(f"\n{name}")
        measure()
    report(f"\nall results are in {out}")


def _measurements(preset: str, out: Path, device: str) -> dict[str, Callable[[], object]]:
    """Return the function that writes each file, by the name of the file."""
    extent = EXTENTS[preset]
    compared = out / f"compare-{preset}"

    def measure_kernels() -> None:
        kernels.measure_kernels(
            max_size=extent.max_megabytes,
            rounds=extent.rounds,
            device=device,
            out=out / "bench-kernels.json",
        )

    def measure_training() -> None:
        training.measure_training(
            preset,
            device=device,
            precision=extent.precision,
            steps=extent.steps,
            rounds=extent.rounds,
            out=out / "bench-train.json",
        )

    def compare() -> None:
        comparison.compare(preset, compared, device=device)
        _copy(compared / FILE_NAME, out / f"compare-{preset}.json", RESULT)

    def measure_decoding() -> None:
        small = compared / "mtp_qat_int4"
        decode.measure_decoding(
            compared / "mtp", small=small, sizes=extent.sizes, device=device, out=out
        )

    def measure_quality() -> None:
        folder = out / f"quality-{preset}"
        quality.measure_quality(extent.bits, extent.seeds, preset, folder)
        _copy(folder / quality.FILE_NAME, out / f"quality-{preset}.json", quality.RESULT)

    measurements = {
        "bench-kernels.json": measure_kernels,
        "bench-train.json": measure_training,
        f"compare-{preset}.json": compare,
        decode.FILE_NAME: measure_decoding,
        f"quality-{preset}.json": measure_quality,
    }
    if device != "cpu":
        del measurements[f"quality-{preset}.json"]
    return measurements


def _copy(measured: Path, path: Path, kind: FileKind) -> None:
    """Copy the file completely or not at all: an existing file counts as measured."""
    write_text(path, measured.read_text(encoding="utf-8"), kind)
