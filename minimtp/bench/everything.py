"""The measurements of a preset, all but `bench rounds`, by one command: `minimtp bench --all`.

    bench-kernels.json        products beside the memory and NumPy (kernels.py), with a roofline; only of compiled kernels
    bench-train.json          training beside PyTorch (train.py)
    compare-PRESET.json       the main job (../compare.py); its models are those that decode
    bench-decode.json         ways of drafting, rules of verification, forms of the weights (decode.py)
    quality-PRESET.json       what rounding costs (quality.py)

With a GPU (`--device cuda`) all of them on it, but for quality-PRESET.json, which is no question of
speed; `--preset gpu` has the sizes that a GPU is for, and trains in half precision.

One after the other, so that none disturbs another. What stands in the folder already is not
measured again: delete a file to have it measured anew. compare and quality keep their parts too, in
folders of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minimtp.backend import choose_device
from minimtp.bench.decode import speed as decode
from minimtp.bench.decode.prompts import Sizes
from minimtp.bench.kernels import speed as kernels
from minimtp.bench.quality import measure as quality
from minimtp.bench.training import speed as train
from minimtp.compare import compare
from minimtp.errors import UserError
from minimtp.files import make_folder, write_text
from minimtp.kernels import describe as describe_kernels


@dataclass(frozen=True)
class Extent:
    """How much of everything is measured."""

    largest: int  # MB of a matrix in float32
    rounds: int
    steps: int
    sizes: Sizes
    bits: tuple[int, ...]
    seeds: int
    precision: str = "float32"  # of training


EXTENTS = {
    "tiny": Extent(1, 1, 2, Sizes(prompts=1, max_new_tokens=16, repeats=1), (3,), 1),
    "quick": Extent(512, 5, 20, Sizes(repeats=8), (8, 4, 3, 2), 3),
    "gpu": Extent(2048, 5, 20, Sizes(max_new_tokens=256), (), 0, "bfloat16"),
}


def everything(
    preset: str = "quick",
    out: str | Path | None = None,
    *,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> Path:
    """Measure what the folder `out` does not hold yet, and return it.

    Raises UserError for what cannot be used or written, KeyboardInterrupt when the user stops it.
    """
    if preset not in EXTENTS:
        raise UserError(f"preset must be one of {', '.join(EXTENTS)}, not {preset!r}")
    if preset == "gpu" and device == "cpu":
        raise UserError(
            "preset gpu takes days on a CPU: measure it with --device cuda, or take preset quick"
        )
    kernel, reason = describe_kernels(choose_device(device).name)
    extent, out = EXTENTS[preset], make_folder(out or Path("runs", f"bench-{preset}"))
    comparison, rounding = out / f"compare-{preset}", out / f"quality-{preset}"

    def compared() -> None:
        compare.run(preset, comparison, device=device)
        _copy(comparison / compare.FILE_NAME, out / f"compare-{preset}.json")

    def rounded() -> None:
        quality.measure_quality(extent.bits, extent.seeds, preset, rounding)
        _copy(rounding / quality.FILE_NAME, out / f"quality-{preset}.json")

    parts: dict[str, Callable[[], object]] = {
        "bench-kernels.json": lambda: kernels.measure_kernels(
            max_size=extent.largest,
            rounds=extent.rounds,
            device=device,
            out=out / "bench-kernels.json",
        ),
        "bench-train.json": lambda: train.measure_training(
            preset,
            device=device,
            precision=extent.precision,
            steps=extent.steps,
            rounds=extent.rounds,
            out=out / "bench-train.json",
        ),
        f"compare-{preset}.json": compared,
        decode.FILE_NAME: lambda: decode.measure_decoding(
            comparison / "mtp",
            small=comparison / "mtp_qat_int4",
            sizes=extent.sizes,
            device=device,
            out=out,
        ),
    }
    if device == "cpu":
        parts[f"quality-{preset}.json"] = rounded
    if kernel == "plain":
        report(
            f"bench-kernels.json is left out, there are no compiled kernels to measure: {reason}"
        )
        del parts["bench-kernels.json"]
    for name, measure in parts.items():
        if (out / name).is_file():
            report(f"{name} stands in {out} already: delete it to measure again")
            continue
        report(f"\n{name}")
        measure()
    report(f"\nall of them are in {out}")
    return out


def _copy(measured: Path, path: Path) -> None:
    """All of it or nothing: what stands there counts as measured."""
    write_text(path, measured.read_text(encoding="utf-8"))
