"""Code shared by the runs of all lessons: options, settings, output folder and final lines.

A lesson's folder holds

    recipe.py      INTRODUCES, the modules that the lesson adds, and `recipe`, its settings
                   (those of the previous lesson with at most three changed). A lesson about a
                   pretrained model has MODEL, and the option --model. One that has more to print
                   has DETAILS, what that is, and the option --details
    __main__.py    main(lesson), the lesson's story; `course.run(N, main)` calls it
    exercise.py    stubs of library functions for the reader to fill in
    README.md      the text

Results go to standard output, and the lesson's README quotes them. Progress goes to standard error,
and with --show-settings also the settings of the training runs.
"""

import argparse
import importlib
import inspect
import io
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from minimtp.backend import Device, choose_device
from minimtp.engine.tensor import Op, Tensor
from minimtp.errors import MeasurementFailed, UserError
from minimtp.files import advice_for, check_folder, reason_for
from minimtp.plots import save_plot
from minimtp.training.presets import PRESETS, preset
from minimtp.training.recipe import Recipe
from minimtp.training.settings import check_known

FOLDER = Path(__file__).parent
NAMES = sorted(
    path.name for path in FOLDER.glob("lesson[0-9][0-9]_*") if (path / "recipe.py").is_file()
)


@dataclass
class Lesson:
    """One run of a lesson.

    runs: the folder for all lessons run with the same preset.
    mine: run with the reader's answers to the exercises. The output has a folder of its own.
    show_settings: report all settings of a training run.
    model: the pretrained model that the reader gives, in lessons whose recipe.py has a MODEL.
    details: print all results, in lessons whose recipe.py has DETAILS.
    """

    number: int
    recipe: Recipe
    device: Device
    runs: Path
    preset: str | None
    mine: bool = False
    show_settings: bool = False
    model: str | None = None
    details: bool = False

    @property
    def folder(self) -> Path:
        """The folder for this lesson's output."""
        return self.folder_of(self.number)

    def folder_of(self, number: int) -> Path:
        """Return the folder of a lesson's output."""
        mine = "-mine" if self.mine and number == self.number else ""
        return self.runs / f"lesson{number:02d}{mine}"

    def trained(self, number: int | None = None, name: str = "model", **changed: object) -> Path:
        """Return the run folder of a lesson's model. Train the model first if necessary.

        number: the lesson, by default this one. name, changed: a variant with some settings
        changed. If a lesson's recipe.py sets `STARTS_FROM = N`, its model starts from the weights
        of lesson N.
        """
        from minimtp.training.run.folder import started
        from minimtp.training.run.start import Start
        from minimtp.training.run.train import train

        number = number or self.number
        folder = self.folder_of(number) / name
        before = getattr(_module(number, "recipe"), "STARTS_FROM", None)
        start_from = self.trained(before) if before and not started(folder) else None
        train(
            replace(recipe_of(number, self.preset), **changed),
            out=folder,
            start=Start(resume=started(folder), start_from=start_from),
            device=self.device.name,
            report=self.report,
        )
        return folder

    def report(self, line: str) -> None:
        """Report a line about a training run. The settings are reported only if requested."""
        if self.show_settings or not line.startswith("recipe\n"):
            tqdm.write(line, file=sys.stderr)

    def result(self, title: str, before: tuple[str, str], now: tuple[str, str]) -> None:
        """Print what the methods of earlier lessons give, and what those of this lesson do. Each is
        (method, number with its unit).
        """
        width = max(len(before[0]), len(now[0]))
        print(f"\n{title}")
        for when, (method, value) in (("before", before), (f"lesson {self.number}", now)):
            print(f"  {when:<9}  {method:<{width}}  {value:>16}")

    def save_plot(
        self,
        draw: Callable[..., None],
        *data: object,
        size: tuple[float, float] = (11, 4),
        name: str = "plot.png",
    ) -> None:
        """Save the figure of draw(figure, *data) under this name, if matplotlib is installed."""
        if find_spec("matplotlib") is None:
            hint = 'no matplotlib, so no plot; install it with: pip install -e ".[plots]"'
            print(f"plot      {hint}", file=sys.stderr)
            return
        path = self.folder / name
        if save_plot(path, lambda figure: draw(figure, *data), size, dpi=90):
            print(f"plot      {path}", file=sys.stderr)


def run(number: int, main: Callable[[Lesson], None], arguments: list[str] | None = None) -> None:
    """Parse the options and run main(lesson).

    Exit codes: 0 for success, 1 for a failed measurement, 2 for unusable input, 130 for Ctrl-C.
    """
    parser = make_parser(number, main.__doc__)
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a file, too, receives each result at once
    try:
        device = choose_device(options.device)
        recipe = recipe_of(number, options.preset)
        check_folder(options.out)
        runs = options.out / (options.preset or "standard")
        lesson = Lesson(
            number,
            recipe,
            device,
            runs,
            options.preset,
            options.mine,
            options.show_settings,
            getattr(options, "model", None),
            getattr(options, "details", False),
        )
        print(f"device    {device.name}: {device.reason}", file=sys.stderr)
        if options.mine:
            print(f"mine      {use_own_answers(number)}", file=sys.stderr)
        start = time.perf_counter()
        main(lesson)
        print(f"finished  in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except MeasurementFailed as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except OSError as error:
        path = error.filename or "the system"
        message = f"{path}: {reason_for(error)}: {advice_for(error)}"
        parser.exit(2, f"{parser.prog}: {message}\n")
    except KeyboardInterrupt as stopped:
        parser.exit(130, f"\n{parser.prog}: {str(stopped) or 'stopped'}\n")
    except Exception as error:
        if not options.mine:
            raise
        parser.exit(1, f"{parser.prog}: {_where(error, number)}\n")


def make_parser(number: int, question: str | None = None) -> argparse.ArgumentParser:
    """Return the option parser of a lesson's run."""
    parser = argparse.ArgumentParser(
        prog=f"python -m lessons.{NAMES[number - 1]}", description=question
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--preset",
        help=f"model size and training budget, instead of the lesson's own: {', '.join(PRESETS)}",
    )
    if default := getattr(_module(number, "recipe"), "MODEL", None):
        parser.add_argument(
            "--model",
            help="a folder of transformers, a GGUF file, a run, or the name of a package's model "
            f"(default: {default}; with --preset tiny, a tiny model that the lesson makes)",
        )
    if details := getattr(_module(number, "recipe"), "DETAILS", None):
        parser.add_argument("--details", action="store_true", help=f"also print {details}")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/lessons"),
        help="folder for runs and plots (default: runs/lessons)",
    )
    parser.add_argument(
        "--mine",
        action="store_true",
        help="run with your answers to this lesson's exercises instead of the library's functions",
    )
    parser.add_argument(
        "--show-settings", action="store_true", help="print all settings of the training runs"
    )
    return parser


def recipe_of(number: int, preset_name: str | None = None) -> Recipe:
    """Return the lesson's recipe.

    A preset sets the model size and the training budget. All other settings that the lessons so
    far have changed are kept.
    """
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
    """Return the library modules that lessons 1 to `number` add."""
    return [module for n in range(1, number + 1) for module in _module(n, "recipe").INTRODUCES]


def use_own_answers(number: int) -> str:
    """Replace functions and classes of the library by the reader's answers to a lesson's exercises.

    Every module that has loaded the library's object gets the reader's. If the object is a plain
    kernel, all kernels of this process are plain. Returns the names of what is replaced, and of
    what is still open. Raises UserError if all exercises are open.
    """
    exercise = _module(number, "exercise")
    answers = {
        name: thing
        for name, thing in vars(exercise).items()
        if getattr(thing, "__module__", "") == exercise.__name__
    }
    still_open = [name for name, answer in answers.items() if is_open(answer)]
    for module in introduced(number):
        importlib.import_module(module)
    for name, answer in answers.items():
        if name in still_open:
            continue
        (original,) = (
            vars(sys.modules[module])[name]
            for module in introduced(number)
            if getattr(vars(sys.modules[module]).get(name), "__module__", "") == module
        )
        _replace(original, answer)
        if original.__module__.startswith("minimtp.kernels.plain"):
            sys.modules["minimtp.kernels"].use("plain")
    done = [name for name in answers if name not in still_open]
    if not done:
        raise UserError(f"all exercises are open: write {still_open[0]} in {exercise.__file__}")
    return ", ".join(done) + (f" (still open: {', '.join(still_open)})" if still_open else "")


def _replace(original: Callable, answer: Callable) -> None:
    """Replace a function or class in all modules, in their dictionaries (kinds by name) and in the
    static methods of their classes.
    """
    for path, module in list(sys.modules.items()):  # some packages put other objects there
        if not path.startswith(("minimtp", "lessons")):
            continue
        for known, value in list(vars(module).items()):
            if value is original:
                setattr(module, known, answer)
            elif isinstance(value, dict):
                value.update({key: answer for key, part in value.items() if part is original})
            elif isinstance(value, type):
                for name, part in list(vars(value).items()):
                    if isinstance(part, staticmethod) and part.__func__ is original:
                        setattr(value, name, staticmethod(answer))


def _where(error: Exception, number: int) -> str:
    """Return the error in one line, with the line of the reader's exercise.py, if it came there."""
    message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    file = _module(number, "exercise").__file__
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{message} ({file}, line {lines[-1].lineno}: {lines[-1].line})" if lines else message


def is_open(answer: Callable) -> bool:
    """Return whether a function or class still has a stub."""
    return "raise NotImplementedError(" in inspect.getsource(answer)


def changes(number: int) -> dict[str, object]:
    """Return the settings of the lesson's recipe that differ from the previous lesson's."""
    before, now = (_module(n, "recipe").recipe for n in (number - 1, number))
    return {
        field.name: getattr(now, field.name)
        for field in fields(now)
        if field.name in before.differences(now)
    }


def _module(number: int, part: str) -> ModuleType:
    return importlib.import_module(f"lessons.{NAMES[number - 1]}.{part}")


def timed(
    work: Callable[..., object], *arguments: object, repeats: int = 1
) -> tuple[float, object]:
    """Call work(*arguments) `repeats` times. Return (fastest time in seconds, last result)."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def applied(operation: Callable[[], Op]) -> Callable[..., Tensor]:
    """Return the operation as a function of tensors.

    Each call makes a new Op, because an Op object can be applied only once.
    """
    return lambda *tensors: operation().apply(*tensors)


def quoted(text: str) -> str:
    """Format generated text: a bar before each line, and trailing spaces as dots.

    Such lines differ between machines, so the tests do not compare them.
    """
    lines = text.replace("\r", "\n").split("\n")
    return "\n".join(
        "  | " + line.rstrip(" ") + "·" * (len(line) - len(line.rstrip(" "))) for line in lines
    )
