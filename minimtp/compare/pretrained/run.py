"""`minimtp compare --from MODEL`: the whole comparison on a pretrained model, in a folder.

The same command resumes it, or shows its finished result.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import minimtp
from minimtp import kernels, machine
from minimtp.arguments import (
    CALLABLE,
    DEVICE,
    PATH,
    THREADS,
    checked_arguments,
    one_of,
    optional,
    whole,
)
from minimtp.backend import Device, choose_device
from minimtp.bench.agreement import require_no_differences
from minimtp.compare.pretrained.claims import judge, targets
from minimtp.compare.pretrained.configurations import ConfigurationBuilder
from minimtp.compare.pretrained.llama import Llama
from minimtp.compare.pretrained.llama import version as llama_version
from minimtp.compare.pretrained.measurement import measure_configurations
from minimtp.compare.pretrained.plot import draw_comparison
from minimtp.compare.pretrained.report import print_report
from minimtp.compare.pretrained.schema import Result
from minimtp.compare.pretrained.sizes import SIZES, Sizes
from minimtp.compare.pretrained.steps import Steps
from minimtp.compare.pretrained.texts import open_texts
from minimtp.compare.result_cache import Figures, ResultCache, as_json
from minimtp.compare.result_file import CACHE_NAME, finish, read_result, require_same
from minimtp.errors import UserError
from minimtp.files import FileKind, check_file, check_folder, write_text
from minimtp.machine import available_cores
from minimtp.quoting import shown_path
from minimtp.records import read_json
from minimtp.training.build import MODEL_SETTINGS
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LOADED_RUN, LoadedRun, weights_digest

SETTING_NAME = "setting.json"
SETTING = FileKind("the setting of a comparison", begins=b'{"preset":')


@dataclass(frozen=True)
class Job:
    """The model to compare, the amount of work, the device and the threads."""

    preset: str
    reference: LoadedRun
    seed: int
    device: Device
    threads: int

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.preset]

    @property
    def setting(self) -> Figures:
        """Return everything that the results depend on, as JSON values."""
        return as_json(
            {
                "preset": self.preset,
                "model": {
                    "path": str(self.reference.path),
                    "weights": weights_digest(self.reference.model),
                    **{k: v for k, v in vars(self.reference.config).items() if v is not None},
                },
                "seed": self.seed,
                "sizes": asdict(self.sizes),
                "device": {
                    "name": self.device.name,
                    "kernels": kernels.describe(self.device.name)[0],
                    "threads": self.threads,
                },
                "minimtp_version": minimtp.__version__,
                "llama_cpp_version": llama_version(),
            }
        )


@checked_arguments(
    reference=LOADED_RUN,
    out=PATH,
    preset=one_of(*SIZES),
    device=DEVICE,
    threads=optional(THREADS),
    seed=whole(0, 2**63 - 1),
    report=CALLABLE,
)
def compare_pretrained(
    reference: LoadedRun,
    out: str | Path,
    preset: str = "laptop",
    *,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> Figures:
    """Compare the configurations of a pretrained model in the folder `out`. Return the content of
    compare.json.

    reference: loaded by `minimtp.load` with dequantize=True. preset: the amount of training and
    measurement, one of SIZES.

    Raises UserError for options that cannot be used and folders that cannot be written,
    KeyboardInterrupt if the user stops it, and Disagreement, after writing all results, if a
    drafted greedy text differs from plain decoding.
    """
    out = Path(out)
    check_folder(out)
    job = make_job(reference, preset, choose_device(device), threads, seed)
    result = finish_comparison(job, out, report)
    print_report(result, out, report)
    require_equal_texts(result["configurations"])
    return result


def make_job(
    reference: LoadedRun, preset: str, device: Device, threads: int | None = None, seed: int = 0
) -> Job:
    """Return the job of comparing configurations of a model. threads: None for all cores.

    Raises UserError if the model is quantized.
    """
    if reference.packed is not None or reference.fake_quantized:
        raise UserError(f"{reference.path} is quantized already: give the model it was made from")
    return Job(preset, without_heads(reference), seed, device, threads or available_cores())


def finish_comparison(job: Job, out: Path, report: Callable[[str], None]) -> Figures:
    """Return the content of compare.json in `out`. Do what is missing for it.

    report: receives a line when a step begins. Raises UserError if the folder cannot be written or
    belongs to another comparison, and KeyboardInterrupt if the user stops it.
    """
    return finish(
        out,
        lambda: read_result(out, Result, job.setting),
        lambda: _make_and_measure(job, out, report),
        draw_comparison,
    )


def _make_and_measure(job: Job, out: Path, report: Callable[[str], None]) -> Figures:
    """Run the steps whose results are not yet in `out`."""
    _record_setting(out, job.setting)
    load_before = machine.load()
    machine.warn_if_busy(load_before, report)
    report(f"model     {shown_path(job.reference.path)}")
    report(f"device    {job.device.name}: {job.device.reason}")
    report(f"threads   {job.threads} for training, 1 for decoding")
    steps, cache = Steps(out, report), ResultCache(out / CACHE_NAME, job.setting, report)
    builder = ConfigurationBuilder(
        job.reference, out, job.sizes, job.seed, job.device.name, job.threads, steps.step
    )
    with steps.step("texts"):
        texts = open_texts(
            job.reference,
            builder.writer(),
            out,
            job.sizes.texts,
            seed=job.seed,
            threads=job.threads,
        )
    runs = builder.make_all(texts)

    def get_part(part: str, measure: Callable[[], Figures], schema: type) -> Figures:
        def timed() -> Figures:
            with steps.step(part.split(" of ")[0].split(" on ")[0]):
                return measure()

        return cache.get(part, timed, schema)

    with Llama(runs["mtp_qat_int4"], out, job.sizes) as llama:
        configurations = measure_configurations(
            runs, texts, job.sizes, job.device, job.threads, llama, get_part
        )
    return {
        "configurations": list(configurations.values()),
        "claims": [claim.to_dict() for claim in judge(configurations)],
        "targets": [claim.to_dict() for claim in targets(configurations)],
        "llama_cpp_obstacle": llama.obstacle,
        **job.setting,
        "texts": {
            name: corpus.to_dict() for name, corpus in (texts.quality | {"own": texts.own}).items()
        },
        "machine": machine.describe(load_before, job.device.name) | machine.versions(),
        "decode_threads": 1,  # the threads of "device" are for training and evaluation
        "steps": steps.seconds,
        "peak_memory_bytes": steps.peak_memory_bytes,
        "seconds": sum(steps.seconds.values()),
    }


def require_equal_texts(configurations: Sequence[Figures]) -> None:
    """Raise Disagreement if a drafted text differs from plain decoding of the same weights."""
    require_no_differences([n for c in configurations for n in c.get("greedy_texts", {}).values()])


def without_heads(loaded: LoadedRun) -> LoadedRun:
    """Return the trunk of a model, as if it had been trained elsewhere."""
    sizes = {name: getattr(loaded.recipe, name) for name in MODEL_SETTINGS}
    recipe = Recipe(**sizes, batch_size=1, tokens=loaded.config.context_length)
    return replace(loaded, model=loaded.model.trunk, recipe=recipe)


def _record_setting(out: Path, setting: Figures) -> None:
    """Write the setting into the folder. Raises UserError if the folder has another one, because
    its models cannot be continued.
    """
    path = out / SETTING_NAME
    check_file(path, SETTING)
    if path.is_file():
        stored = read_json(path, dict, advice="delete the folder, or choose another --out")
        require_same(path, stored, setting)
    write_text(path, json.dumps(setting), SETTING)
