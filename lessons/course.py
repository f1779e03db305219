"""What the run of every lesson shares: its options, its settings, where it writes, and the lines it ends with.

A lesson's folder holds

    recipe.py      INTRODUCES, the modules it explains, and `recipe`, the last lesson's settings with at most three changed
    __main__.py    main(lesson), its story; `course.run(N, main)` calls it
    exercise.py    stubs of library functions, for the reader to fill in
    README.md      the text

Results go to standard output and are what the lesson's README shows; choices and progress go to standard error.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from minimtp.backend import Device, choose_device
from minimtp.engine.tensor import Op, Tensor
from minimtp.errors import MeasurementFailed, UserError
from minimtp.training.presets import PRESETS, preset
from minimtp.training.recipe import Recipe, check_known

FOLDER = Path(__file__).parent
NAMES = sorted(
    path.name for path in FOLDER.glob("lesson[0-9][0-9]_*") if (path / "recipe.py").is_file()
)


@dataclass
class Lesson:
    """One run of a lesson: its number, its settings, the device, and the folder for all runs of these settings."""

    number: int
    recipe: Recipe
    device: Device
    runs: Path
    preset: str | None

    @property
    def folder(self) -> Path:
        """Where this lesson writes."""
        return self.runs / f"lesson{self.number:02d}"

    def trained(self, number: int | None = None, name: str = "model", **changed: object) -> Path:
        """The run folder of a lesson's model (this lesson's by default): as an earlier run left it, or trained now.

        name, changed: a variant, with other settings than the recipe's. A lesson whose recipe.py says `STARTS_FROM = N` goes on
        from lesson N's weights.
        """
        from minimtp.training.checkpoint import started
        from minimtp.training.run import train

        number = number or self.number
        folder = self.runs / f"lesson{number:02d}" / name
        before = getattr(_module(number, "recipe"), "STARTS_FROM", None)
        train(
            replace(recipe_of(number, self.preset), **changed), out=folder, resume=started(folder), device=self.device.name,
            start_from=self.trained(before) if before and not started(folder) else None,
        )  # fmt: skip
        return folder

    def result(self, what: str, before: tuple[str, str], now: tuple[str, str]) -> None:
        """Print the lesson's number beside the last lesson's: (how, number with its unit) each."""
        width = max(len(before[0]), len(now[0]))
        print(f"\n{what}")
        for number, (how, value) in ((self.number - 1, before), (self.number, now)):
            print(f"  lesson {number:<2}  {how:<{width}}  {value:>16}")

    def save_plot(
        self, draw: Callable[..., None], *data: object, size: tuple[float, float] = (11, 4)
    ) -> None:
        """Save draw(figure, *data) as plot.png in the lesson's folder; without matplotlib, say how to get it."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            print(
                'picture   none: pip install -e ".[plots]" brings matplotlib, which draws it',
                file=sys.stderr,
            )
            return
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, *data)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plot.png"
        figure.savefig(path, dpi=90)
        print(f"picture   {path}", file=sys.stderr)


def run(number: int, main: Callable[[Lesson], None], arguments: list[str] | None = None) -> None:
    """Read the options, run main(lesson), and exit: 0, 1 for figures that cannot be believed, 2 for what cannot be used."""
    parser = make_parser(number, main.__doc__)
    options = parser.parse_args(arguments)
    try:
        device = choose_device(options.device)
        recipe = recipe_of(number, options.preset)
        lesson = Lesson(
            number, recipe, device, options.out / (options.preset or "standard"), options.preset
        )
        print(f"device    {device.name}: {device.reason}", file=sys.stderr)
        began = time.perf_counter()
        main(lesson)
        print(f"finished  in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except MeasurementFailed as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except OSError as error:
        what, why = error.filename or "the system", error.strerror or error
        parser.exit(2, f"{parser.prog}: {what}: {why}; make room, or give another --out\n")
    except KeyboardInterrupt as stopped:
        parser.exit(130, f"\n{parser.prog}: {str(stopped) or 'stopped'}\n")


def make_parser(number: int, question: str | None = None) -> argparse.ArgumentParser:
    """The options of a lesson's run."""
    parser = argparse.ArgumentParser(
        prog=f"python -m lessons.{NAMES[number - 1]}", description=question
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--preset",
        help=f"sizes and budget of a preset instead of the lesson's: {', '.join(PRESETS)}",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/lessons"), help="folder for runs and pictures"
    )
    return parser


def recipe_of(number: int, preset_name: str | None = None) -> Recipe:
    """The lesson's recipe; under a preset, its sizes and budget, with what the lessons so far changed laid over the rest."""
    recipe = _module(number, "recipe").recipe
    if preset_name is None:
        return recipe
    check_known("preset", preset_name, PRESETS)
    first = _module(1, "recipe").recipe
    changes = {
        name: getattr(recipe, name)
        for name in first.differences(recipe)
        if name not in PRESETS[preset_name]
    }
    return preset(preset_name, **changes)


def introduced(number: int) -> list[str]:
    """The library's modules that lessons 1 to `number` explain."""
    return [module for n in range(1, number + 1) for module in _module(n, "recipe").INTRODUCES]


def changes(number: int) -> dict[str, object]:
    """The settings in which the lesson's recipe differs from the last one's."""
    before, now = (_module(n, "recipe").recipe for n in (number - 1, number))
    return {
        field.name: getattr(now, field.name)
        for field in fields(now)
        if field.name in before.differences(now)
    }


def _module(number: int, part: str) -> object:
    return importlib.import_module(f"lessons.{NAMES[number - 1]}.{part}")


def timed(
    work: Callable[..., object], *arguments: object, repeats: int = 1
) -> tuple[float, object]:
    """Seconds of the fastest of `repeats` calls work(*arguments), and what the last one returned."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = work(*arguments)
        seconds.append(time.perf_counter() - began)
    return min(seconds), result


def applied(operation: Callable[[], Op]) -> Callable[..., Tensor]:
    """The operation as a function of tensors: an Op object serves once, so every call makes a new one."""
    return lambda *tensors: operation().apply(*tensors)


def quoted(text: str) -> str:
    """Text as a model wrote it, each line after a bar, blanks at a line's end as dots. Such lines differ between machines."""
    lines = text.replace("\r", "\n").split("\n")
    return "\n".join(
        "  | " + line.rstrip(" ") + "·" * (len(line) - len(line.rstrip(" "))) for line in lines
    )
