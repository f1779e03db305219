"""`minimtp compare`: the whole comparison, in a folder. The same command resumes it, or shows its
finished result.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import minimtp
from minimtp import kernels, machine
from minimtp.arguments import (
    CALLABLE,
    DEVICE,
    PATH,
    SOURCE,
    THREADS,
    WORD,
    checked_arguments,
    one_of,
    optional,
    several,
    whole,
)
from minimtp.backend import Device, choose_device
from minimtp.bench.agreement import require_no_differences
from minimtp.compare.claims import judge
from minimtp.compare.configurations import TITLES, recipes, train_configurations
from minimtp.compare.measurement import (
    SIZES,
    Prompts,
    Sizes,
    choose_prompts,
    measure_configurations,
)
from minimtp.compare.plot import draw_comparison
from minimtp.compare.report import print_report
from minimtp.compare.result_cache import Figures, ResultCache, as_json
from minimtp.compare.result_file import ADVICE, CACHE_NAME, FILE_NAME, finish, read_result
from minimtp.compare.schema import Result
from minimtp.errors import UserError
from minimtp.files import check_folder
from minimtp.machine import available_cores
from minimtp.records import MAX_INT
from minimtp.training import presets
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.recipe import MAX_DRAFT_DEPTH, Recipe

SMALLER = "choose a smaller --preset"


@dataclass(frozen=True)
class Job:
    """The configurations to compare, the device and the threads."""

    preset: str
    recipe: Recipe  # the recipe of the standard configuration
    corpus: Corpus
    prompts: Prompts
    device: Device
    threads: int

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.preset]

    @property
    def kernels(self) -> tuple[str, str]:
        """Return the kernels that run, and why."""
        return kernels.describe(self.device.name)

    @property
    def setting(self) -> Figures:
        """Return everything that the results depend on, as JSON values."""
        return as_json(
            {
                "preset": self.preset,
                "recipes": {name: r.to_dict() for name, r in recipes(self.recipe).items()},
                "sizes": asdict(self.sizes),
                "corpus": self.corpus.to_dict(),
                "device": {
                    "name": self.device.name,
                    "kernels": self.kernels[0],
                    "threads": self.threads,
                },
                "minimtp_version": minimtp.__version__,
            }
        )


@checked_arguments(
    preset=one_of(*SIZES),
    out=optional(PATH),
    corpus=several(
        SOURCE, str, os.PathLike, expected="a list of files and folders, or a known text"
    ),
    device=DEVICE,
    threads=optional(THREADS),
    seed=whole(0, MAX_INT),
    report=CALLABLE,
    encoding=optional(WORD),
)
def compare(
    preset: str = "quick",
    out: str | Path | None = None,
    *,
    corpus: Sequence[str | Path] = (),
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = print,
    encoding: str | None = None,
) -> Figures:
    """Compare the configurations in the folder `out`, and return the content of compare.json.

    encoding: of the files in `corpus` that are not UTF-8 (training/data/encoding.py).

    Raises UserError for options that cannot be used and folders that cannot be written,
    KeyboardInterrupt if the user stops it, and Disagreement, after writing all results, if a
    configuration's greedy text differs from plain decoding.
    """
    out = Path(out or Path("runs", f"compare-{preset}"))
    check_folder(out)
    recipe = presets.preset(preset, seed=seed)
    text = open_corpus(corpus, encoding=encoding, out=out)
    text.require(recipe.batch_size, recipe.context_length, MAX_DRAFT_DEPTH, SMALLER)
    prompts = choose_prompts(text, SIZES[preset])
    job = Job(preset, recipe, text, prompts, choose_device(device), threads or available_cores())
    result = finish(
        out,
        lambda: finished_result(out, job.setting),
        lambda: _train_and_measure(job, out, report),
        draw_comparison,
    )
    print_report(result, out, report)
    require_equal_texts(result["configurations"])
    return result


def _train_and_measure(job: Job, out: Path, report: Callable[[str], None]) -> Figures:
    """Run the training and the measurements whose results are not yet in `out`."""
    load_before = machine.load()
    machine.warn_if_busy(load_before, report)
    report(f"corpus    {job.corpus.describe()}")
    report(f"settings  of the standard configuration\n{job.recipe.describe()}")
    report(f"device    {job.device.name}: {job.device.reason}")
    report(f"kernels   {': '.join(job.kernels)}")
    report(f"threads   {job.threads} for training, 1 for decoding")
    cache = ResultCache(out / CACHE_NAME, job.setting, report)
    with cache.counting():
        runs = train_configurations(
            recipes(job.recipe), job.corpus, out, job.device.name, job.threads
        )
        configurations = measure_configurations(
            runs,
            job.corpus,
            job.prompts,
            job.sizes,
            job.device,
            threads=job.threads,
            get_part=cache.get,
        )
    claims = judge({c["name"]: c for c in configurations})
    return {
        "configurations": configurations,
        "claims": [claim.to_dict() for claim in claims],
        **job.setting,
        "recipe": job.recipe.to_dict(),
        "machine": machine.describe(load_before, job.device.name) | machine.versions(),
        "decode_threads": 1,  # the threads of "device" are for training and evaluation
        "seconds": cache.seconds,
    }


def require_equal_texts(configurations: Sequence[Figures]) -> None:
    """Raise Disagreement if a configuration's drafted greedy texts differ from plain decoding."""
    require_no_differences([configuration["greedy_texts"] for configuration in configurations])


def finished_result(out: Path, setting: Figures) -> Figures | None:
    """Return the content of compare.json, None if there is none.

    Raises UserError as `read_result` does, and if the configurations are not those of TITLES.
    """
    result = read_result(out, Result, setting)
    if result is None:
        return None
    names = [configuration["name"] for configuration in result["configurations"]]
    if names != list(TITLES):
        raise UserError(f"{out / FILE_NAME}: configurations are not {', '.join(TITLES)}: {ADVICE}")
    return result
