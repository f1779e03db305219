"""The main job: train the configurations, decode with them, and put them side by side.

    standard            a plain transformer
    mtp                 the same with prediction heads that draft
    mtp_qat_int4        the same, trained through int4 rounding in its last part, then packed
    mtp_int4_rounded    the second one rounded after training, for contrast

**Equal training.** One stem is trained at the held learning rate; from its checkpoint each configuration runs the decay
phase, on the same batches, with the same number of tokens in all. That saves two stems, and leaves the heads and the rounding
as the only differences. In the stem the heads learn detached: its trunk is, bit for bit, the one that training
without heads would give, so `standard` is what `minimtp train` makes of the preset. In the decay the trunk feels the heads,
and, in the third configuration, the rounding: starting with the decay is what costs least (arXiv 2509.22935).

**Equal decoding.** Standard is decoded plainly by the same runtime and kernels as the rest; see bench/interleaved.py for how
the turns are taken. The draft depth of each configuration is chosen on training text, the figures are from held-out text.

Everything that is finished stays: after an interruption the same command goes on where it was.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

import minimtp
from minimtp import kernels, machine
from minimtp.backend import Device, choose_device
from minimtp.backend import numpy as np
from minimtp.bench.agreement import check_greedy_texts
from minimtp.bench.interleaved import Speed, Variant, measure_interleaved, tune
from minimtp.bench.memory import peak_memory
from minimtp.compare.claims import judge, memory, table
from minimtp.compare.plot import draw_comparison
from minimtp.decode.decoder import deploy
from minimtp.decode.sampling import GREEDY, SamplingParams
from minimtp.errors import MeasurementFailed, UserError
from minimtp.files import make_folder, write_text
from minimtp.machine import available_cores
from minimtp.quant.packed import bits_per_weight, weight_bytes
from minimtp.training import checkpoint, presets
from minimtp.training.checkpoint import LoadedRun, load
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.evaluate import Evaluation, evaluate
from minimtp.training.interrupt import Interrupted
from minimtp.training.quantize import quantize
from minimtp.training.recipe import Recipe
from minimtp.training.run import train
from minimtp.training.schedule import decay_start

TITLES = {
    "standard": "standard",
    "mtp": "MTP",
    "mtp_qat_int4": "MTP + QAT int4",
    "mtp_int4_rounded": "MTP, int4 by rounding",
}
TEMPERATURES = {"": GREEDY, "_t1": SamplingParams(1.0)}  # by the suffix of the figures' names
FILE_NAME = "compare.json"
KEPT = "measured.json"  # while not everything is measured
MOST_DEPTH = 64  # tokens of room behind an evaluated window


@dataclass(frozen=True)
class Measurement:
    """How much is measured: prompts of `prompt` tokens, continued by at most `max_new_tokens`, `repeats` times each.

    depths, confidences: the ways of drafting that are tried on `trials` prompts of training text.
    """

    prompts: int = 48
    prompt: int = 32
    max_new_tokens: int = 96
    repeats: int = 3
    trials: int = 16
    depths: tuple[int, ...] = (4, 7, 15)
    confidences: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)


MEASUREMENTS = {
    "tiny": Measurement(
        prompts=2,
        prompt=8,
        max_new_tokens=16,
        repeats=1,
        trials=1,
        depths=(7,),
        confidences=(0.0, 0.3),
    ),
    "quick": Measurement(),
    "laptop": Measurement(prompt=64, max_new_tokens=192),
    "gpu": Measurement(prompt=128, max_new_tokens=512),
}


class Disagreement(MeasurementFailed):
    """Speculative decoding did not give the text of plain decoding. The message lists every place."""


def recipes(standard: Recipe) -> dict[str, Recipe]:
    """The recipes of the three trained configurations; `standard` is the preset."""
    mtp = replace(
        standard, heads="token_conditioned", draft_depth=7, head_targets="trunk", head_stride=4,
        head_loss_weight=1.5, final_head_loss_weight=0.3,  # so large costs the trunk nothing measurable, and drafts are better for it
        detach_until=1.0 - standard.decay_fraction,
    )  # fmt: skip
    qat = replace(mtp, quantization="qat", quantize_from=1.0 - standard.decay_fraction)
    return {"standard": standard, "mtp": mtp, "mtp_qat_int4": qat}


def run(
    preset: str = "quick",
    out: str | Path | None = None,
    *,
    corpus: Sequence[str | Path] = (),
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Do all of it in the folder `out` and return what `compare.json` holds.

    Raises UserError for what cannot be used or written, KeyboardInterrupt when the user stops it, and, with all figures
    written, Disagreement when a configuration's greedy text differs from its own plain decoding.
    """
    recipe, sizes = presets.preset(preset, seed=seed), MEASUREMENTS[preset]
    text = open_corpus(corpus)
    text.require(recipe.batch_size, recipe.context_length, MOST_DEPTH)
    prompts = choose_prompts(text, sizes)
    chosen = choose_device(device)
    kernel, why = kernels.describe(chosen.name)
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    setting = {
        "preset": preset, "recipes": {name: r.to_dict() for name, r in recipes(recipe).items()}, "sizes": asdict(sizes),
        "corpus": text.to_dict(), "device": {"name": chosen.name, "kernels": kernel, "threads": threads or available_cores()},
        "minimtp_version": minimtp.__version__,
    }  # fmt: skip
    out = make_folder(out or Path("runs", f"compare-{preset}"))
    finished = _finished(out, setting)
    if finished:
        _announce(finished, out, report)
        require_equal_texts(finished["configurations"])
        return finished
    load_before, kept = machine.load(), _Kept(out / KEPT, setting)
    machine.warn_if_busy(load_before, report)
    report(f"corpus    {text.describe()}")
    report(f"recipe    of the standard configuration\n{recipe.describe()}")
    report(
        f"device    {chosen.name} ({chosen.reason}), kernels {kernel} ({why}), {threads or available_cores()} threads"
    )
    try:
        with kept.counting():
            runs = trained(recipes(recipe), text, out, device, threads)
            configurations = measured(runs, text, prompts, sizes, chosen, threads, kept.figures)
    except Interrupted as stop:
        raise KeyboardInterrupt(
            f"stopped in {stop.folder}, saved; the same command goes on from there"
        ) from None
    claims = judge({c["name"]: c for c in configurations})
    result = {
        "configurations": configurations,
        "claims": [claim.to_dict() | {"described": claim.describe().strip()} for claim in claims],
        **json.loads(json.dumps(setting)),
        "recipe": recipe.to_dict(),
        "machine": machine.describe(load_before, chosen.name) | machine.versions(),
        "decode_threads": 1,  # those of "device" train and evaluate
        "seconds": kept.seconds,
    }  # fmt: skip
    write_text(out / FILE_NAME, json.dumps(_without_nan(result), indent=2) + "\n")
    (out / KEPT).unlink()
    draw_comparison(result, out)
    _announce(result, out, report)
    require_equal_texts(configurations)
    return result


def require_equal_texts(configurations: Sequence[dict[str, object]]) -> None:
    """Raise Disagreement where drafted and plain greedy texts differ, in what `measured` gives."""
    wrong = [sentence for c in configurations for sentence in c["greedy_texts"]["wrong"]]
    if wrong:
        raise Disagreement(
            "\n".join(
                ["drafted texts differ from plain ones, which is a defect of minimtp:", *wrong]
            )
        )


def trained(
    wanted: dict[str, Recipe], text: Corpus, out: Path, device: str, threads: int | None = None
) -> dict[str, LoadedRun]:
    """Train or go on training what is not finished of `recipes` in the folder `out`, and load the four configurations as they
    are deployed. Raises Interrupted when the user stops it.
    """

    def go_on(recipe: Recipe, folder: str, **options: object) -> None:
        train(
            recipe, text, out / folder, resume=checkpoint.started(out / folder), device=device, threads=threads,
            report=lambda line: None, **options,
        )  # fmt: skip

    standard = wanted["standard"]
    stem_steps = decay_start(standard)
    folders = {"standard": "standard", "mtp": "mtp", "mtp_qat_int4": "mtp_qat"}
    branches = (
        {name: dict(start_from=out / "stem", continue_schedule=True) for name in wanted}
        if stem_steps
        else {}
    )
    if stem_steps:
        go_on(wanted["mtp"], "stem", stop_at_step=stem_steps)
    for name, recipe in wanted.items():
        go_on(recipe, folders[name], **branches.get(name, {}))
    for name, source in (("mtp_qat_int4", "mtp_qat"), ("mtp_int4_rounded", "mtp")):
        if not checkpoint.exists(out / name):
            quantize(out / source, out / name)
    return {name: load(out / name, device) for name in TITLES}


def measured(
    runs: dict[str, LoadedRun],
    text: Corpus,
    prompts: tuple[list[np.ndarray], list[np.ndarray]],
    sizes: Measurement,
    device: Device,
    threads: int | None = None,
    figures_of: Callable[
        [str, Callable[[], dict[str, object]]], dict[str, object]
    ] = lambda part, measure: measure(),
) -> list[dict[str, object]]:
    """Each configuration's figures by their names: quality, bytes, speeds at both temperatures.

    prompts: what `choose_prompts` gives. figures_of(part, measure): measure(), or what an earlier run kept of that part.
    """
    evaluations = {
        name: Evaluation(
            **figures_of(f"evaluation of {name}", partial(_evaluated, loaded, text, threads))
        )
        for name, loaded in runs.items()
    }
    parts = [
        figures_of(
            f"temperature {law.temperature:g}",
            partial(_raced, runs, *prompts, sizes, device, suffix, law),
        )
        for suffix, law in TEMPERATURES.items()
    ]
    parts.append(figures_of("memory", partial(_memory, runs, prompts[0][0], sizes, device)))
    figures = {
        name: {key: value for part in parts for key, value in part[name].items()} for name in runs
    }
    return [_configuration(name, runs, evaluations, figures) for name in TITLES]


class _Kept:
    """Figures that are finished, on disk part by part, so that an interrupted measurement goes on where it was, and the seconds
    that all of it took."""

    def __init__(self, path: Path, setting: dict[str, object]) -> None:
        self._path, self._content = (
            path,
            {"setting": json.loads(json.dumps(setting)), "parts": {}, "seconds": 0.0},
        )
        try:
            found = json.loads(path.read_text())
            if found["setting"] == self._content["setting"]:
                self._content |= found
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing usable was kept: it is measured again

    def figures(self, part: str, measure: Callable[[], dict[str, object]]) -> dict[str, object]:
        """The figures of that part: those that were kept, or newly measured ones, which are kept."""
        if part not in self._content["parts"]:
            self._content["parts"][part] = _without_nan(measure())
            self._write()
        return self._content["parts"][part]

    @property
    def seconds(self) -> float:
        return self._content["seconds"]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the seconds of what is done inside, also where it is interrupted."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._content["seconds"] += time.perf_counter() - began
            self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._content))


def _evaluated(loaded: LoadedRun, text: Corpus, threads: int | None) -> dict[str, object]:
    return asdict(evaluate(loaded, text, threads=threads))


def _raced(
    runs: dict[str, LoadedRun], held_out: list[np.ndarray], familiar: list[np.ndarray], sizes: Measurement, device: Device,
    suffix: str, sampling: SamplingParams,
) -> dict[str, dict[str, object]]:  # fmt: skip
    """What is measured by decoding at one temperature, by configuration and column; drafting is tuned on the familiar
    prompts."""
    variants = {name: _variant(name, loaded) for name, loaded in runs.items()}
    plain = {
        name: Variant(f"{name}, plainly", variants[name].target) for name in ("mtp", "mtp_qat_int4")
    }
    exact = (
        kernels.describe(device.name)[0] == "cpu"
    )  # compiled products give a row the same bits in any company
    racing = [*variants.values(), *plain.values()]
    for variant in variants.values():
        if variant.drafter:
            tune(variant, sizes.depths, sizes.confidences, familiar, sizes.max_new_tokens, sampling)
    turns = sizes.repeats * sizes.prompts * len(racing)
    with tqdm(
        total=turns,
        desc=f"temperature {sampling.temperature:g}",
        unit="text",
        disable=None,
        file=sys.stderr,
    ) as bar:
        speeds = measure_interleaved(
            racing,
            held_out,
            max_new_tokens=sizes.max_new_tokens,
            sampling=sampling,
            repeats=sizes.repeats,
            progress=bar.update,
        )
    figures = {}
    for name, variant in variants.items():
        baseline = speeds[plain[name].name] if name in plain else None
        figures[name] = _speed_columns(suffix, variant, speeds[name], speeds["standard"], baseline)
        if sampling is GREEDY:
            agreement = check_greedy_texts(
                variant, held_out, speeds[name].texts, allow_ties=not exact
            )
            figures[name]["greedy_texts"] = asdict(agreement)
    return figures


def _memory(
    runs: dict[str, LoadedRun], prompt: np.ndarray, sizes: Measurement, device: Device
) -> dict[str, dict[str, object]]:
    def build(name: str) -> Variant:
        return _variant(name, load(runs[name].folder, device.name))

    return {
        name: {
            "peak_memory_bytes": peak_memory(partial(build, name), prompt, sizes.max_new_tokens),
            "cache_bytes": deploy(loaded.model)[0].cache.nbytes,
        }
        for name, loaded in runs.items()
    }


def _variant(name: str, loaded: LoadedRun) -> Variant:
    target, drafter = deploy(loaded.model)
    return Variant(name, target, drafter, drafter.max_depth if drafter else 0)


def choose_prompts(text: Corpus, sizes: Measurement) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Held-out prompts to measure on, and prompts of training text to choose the drafting with. Raises UserError for a text
    that is too short for them.
    """
    return _prompts(text.validation, sizes, sizes.prompts), _prompts(
        text.train, sizes, sizes.trials
    )


def _prompts(tokens: np.ndarray, sizes: Measurement, count: int) -> list[np.ndarray]:
    """`count` prompts spread evenly over the text. Raises UserError where it is too short for them."""
    if len(tokens) < count * sizes.prompt:
        raise UserError(
            f"{count} prompts of {sizes.prompt} tokens need a longer text than {len(tokens)} tokens: give more"
        )
    starts = np.linspace(0, len(tokens) - sizes.prompt, count).astype(int)
    return [tokens[start : start + sizes.prompt].astype(np.int64) for start in starts]


def _speed_columns(
    suffix: str, variant: Variant, speed: Speed, standard: Speed, plain: Speed | None
) -> dict[str, object]:
    columns = {
        "tokens_per_second": speed.tokens_per_second,
        "tokens_per_second_slowest": speed.slowest,
        "tokens_per_second_fastest": speed.fastest,
        "tokens_per_step": speed.tokens_per_step,
        "speedup": speed.speedup_over(standard),
        "draft_depth": variant.draft_depth,
        "least_confidence": variant.min_confidence,
        "acceptance": speed.acceptance,
    }
    if plain:
        columns["tokens_per_second_without_drafts"] = plain.tokens_per_second
    return {f"{name}{suffix}": value for name, value in columns.items()}


def _configuration(
    name: str,
    runs: dict[str, LoadedRun],
    evaluations: dict[str, Evaluation],
    figures: dict[str, dict[str, object]],
) -> dict[str, object]:
    evaluation, model = evaluations[name], runs[name].model
    return {
        "name": name,
        "title": TITLES[name],
        "folder": str(runs[name].folder),
        "bits_per_byte": evaluation.bits_per_byte,
        "top1": evaluation.accuracy[0],
        "accuracy": evaluation.accuracy,
        "quality_percent": 100.0 * evaluations["standard"].bits_per_byte / evaluation.bits_per_byte,
        "weight_bytes": weight_bytes(model),
        "bits_per_weight": bits_per_weight(model),
    } | figures[name]


def _finished(out: Path, setting: dict[str, object]) -> dict[str, object] | None:
    """What compare.json holds, if it was measured in this setting. Raises UserError if it was measured in another."""
    path = out / FILE_NAME
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text())
        different = [
            name for name, value in json.loads(json.dumps(setting)).items() if result[name] != value
        ]
        memory(result["configurations"])  # an earlier version did not write what this one shows
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is damaged, or of an earlier version: delete it to measure again"
        ) from None
    if different:
        raise UserError(
            f"{out} holds a comparison with other {' and '.join(different)}: choose another --out, or delete it"
        )
    return result


def _announce(result: dict[str, object], out: Path, report: Callable[[str], None]) -> None:
    claims = judge({c["name"]: c for c in result["configurations"]})
    report("")
    report(table(result["configurations"]))
    report(memory(result["configurations"]))
    report("")
    report("\n".join(claim.describe() for claim in claims))
    for c in result["configurations"]:
        counted = c["greedy_texts"]
        parted = (
            f", {counted['ties']} parted at a tie of the two best logits" if counted["ties"] else ""
        )
        report(
            f"{counted['equal']:>3} of {counted['texts']} greedy texts of {c['title']} equal its plain decoding{parted}"
        )
    report("")
    report(f"quality is standard's bits per byte in % of the configuration's; device {result['device']['name']}, "
           f"kernels {result['device']['kernels']}; {result['seconds']:.0f} s")  # fmt: skip
    report(f"saved {out / FILE_NAME}; delete it to measure again")
    report(f"see it draft: minimtp generate {out / 'mtp_qat_int4'} --prompt 'def ' --show")


def _without_nan(value: object) -> object:
    """JSON has no NaN: an acceptance that was never tried becomes null."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(member) for key, member in value.items()}
    return [_without_nan(member) for member in value] if isinstance(value, list | tuple) else value
