"""`minimtp train`: train a model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.cli.options.recipe import add_recipe_options, chosen_recipe, default_folder
from minimtp.cli.options.values import number, whole_number
from minimtp.cli.parser import (
    Commands,
    add_corpus,
    add_device,
    add_kernels,
    add_threads,
    note_unused,
    note_unused_threads,
    use_kernels,
)
from minimtp.errors import UserError
from minimtp.quoting import command
from minimtp.training.presets import PRESETS
from minimtp.training.recipe import Recipe

if TYPE_CHECKING:
    from minimtp.training.run.folder import LoadedRun


HEAD_OPTIONS = (
    "--head-loss-weight", "--final-head-loss-weight", "--head-loss-decay", "--detach-until",
    "--head-targets", "--head-grid",
)  # fmt: skip
QUANTIZATION_OPTIONS = (
    "--weight-grid", "--embedding-grid", "--output-grid", "--head-grid", "--weight-scales",
    "--activations", "--kv-cache", "--straight-through", "--quantize-from",
)  # fmt: skip


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "train",
        run,
        usage="[options]",
        summary="train a model",
        example="minimtp train --preset quick --heads token_conditioned --out runs/mine",
    )
    add = parser.add_argument
    add(
        "--preset",
        choices=PRESETS,
        help="start from the settings of this size; the options below change single settings",
    )
    add(
        "--recipe",
        metavar="FILE",
        help="start from the settings in a JSON file, such as the recipe.json of a run",
    )
    add_corpus(parser)
    add(
        "--tokenizer",
        metavar="FILE",
        help="a tokenizer.json of the tokenizers library (default: the tokenizer of the --from "
        "run, otherwise bytes)",
    )
    add("--out", metavar="DIR", help="run folder to write (default: runs/PRESET)")
    add("--resume", action="store_true", help="resume the run in --out")
    add(
        "--from",
        dest="start_from",
        metavar="MODEL",
        help="start from the weights of another model: a run (with its settings), a folder of "
        "transformers, a GGUF file, or smollm2",
    )
    add(
        "--continue-schedule",
        action="store_true",
        help="with --from: also continue from that run's step and optimizer state",
    )
    add(
        "--stop-at-step",
        type=whole_number,
        metavar="N",
        help="save and stop after step N, as if interrupted",
    )
    add(
        "--self-generated",
        type=whole_number,
        metavar="N",
        help="with --from: let that model generate N tokens first, as continuations of --corpus, "
        "and train on those; minimtp selfgen generates conversations as well",
    )
    add(
        "--teacher",
        metavar="MODEL",
        help="model whose predicted probabilities the new one learns from (see --distill-weight)",
    )
    add(
        "--quantized-start",
        metavar="MODEL",
        help="with --from: start from the codes and steps of this packed model, such as a folder "
        "of minimtp quantize --method gptq (see --weight-scales)",
    )
    add(
        "--disk",
        type=number,
        metavar="GB",
        help="with --store-states: the most that the states may take of the disk, in 10^9 bytes "
        "(default: half of what is free, at most 34)",
    )
    add_device(parser)
    add_threads(parser)
    add_kernels(parser)
    add_recipe_options(parser)


def run(options: argparse.Namespace) -> int:
    from minimtp.training.run.mpirun import command_to_resume
    from minimtp.training.run.start import Start
    from minimtp.training.run.train import train
    from minimtp.training.tokenizers.tokenizer import open_tokenizer

    use_kernels(options)
    out = options.out or default_folder(options)
    _check_start(options, out)
    teacher = options.teacher or _recorded_teacher(options, out)
    shares = teacher is not None and teacher == options.start_from
    options.start_from = _loaded(options.start_from, options.device)
    tokenizer = open_tokenizer(options.tokenizer) if options.tokenizer else None
    recipe = chosen_recipe(options, out)
    _note_unused(options, recipe or _recorded_recipe(out) or Recipe())
    start = Start(
        resume=options.resume,
        start_from=options.start_from,
        continue_schedule=options.continue_schedule,
        teacher=options.start_from if shares else _loaded(teacher, options.device),
        quantized_start=_loaded(options.quantized_start, "cpu", dequantize=False),
        self_generated=options.self_generated,
        tokenizer=tokenizer,
    )
    result = train(
        recipe,
        options.corpus,
        out,
        start,
        stop_at_step=options.stop_at_step,
        device=options.device,
        threads=options.threads,
        encoding=options.encoding,
        disk_gb=options.disk,
    )
    if result.evaluation:
        if result.evaluated_at != result.step:
            print(f"evaluated at step {result.evaluated_at}:")
        print(result.evaluation.describe())
    if not result.finished:
        print(f"saved at step {result.step}; resume with: {command_to_resume(out)}")
    print(f"try: {command('minimtp', 'generate', Path(out), '--prompt', 'import ')}")
    return 0


def _loaded(path: str | None, device: str, dequantize: bool = True) -> "str | LoadedRun | None":
    """Return a run folder as it is, because its checkpoint holds more than a model. Load any other
    model, by default in full precision.
    """
    import minimtp
    from minimtp.training.run import checkpoint

    if path is None or checkpoint.exists(path):
        return path
    return minimtp.load(path, device, dequantize=dequantize)


def _recorded_recipe(out: str) -> Recipe | None:
    """Return the recipe of the run that is resumed, or None if it has no checkpoint yet."""
    from minimtp.training.run import checkpoint

    return checkpoint.read_header(out).recipe if checkpoint.exists(out) else None


def _recorded_teacher(options: argparse.Namespace, out: str) -> str | None:
    """Return the teacher of the run that is resumed, or None if it has none."""
    from minimtp.training.run import checkpoint

    if not (options.resume and checkpoint.exists(out)):
        return None
    return checkpoint.read_header(out).state.get("teacher")


def _note_unused(options: argparse.Namespace, recipe: Recipe) -> None:
    """Say which options have no effect together with the others, and why."""
    note_unused_threads(options)
    if not (options.corpus or options.resume or options.start_from):
        note_unused(options, ["--encoding"], "it is for the files of --corpus")
    if not recipe.store_states:
        note_unused(options, ["--disk"], "no states are stored (see --store-states)")
    if recipe.heads == "none":
        note_unused(options, HEAD_OPTIONS, "the model has no prediction heads (see --heads)")
    if recipe.quantization == "none":
        note_unused(options, QUANTIZATION_OPTIONS, "needs --quantization qat")
    if recipe.quantization == "none" or recipe.weight_scales == "grid":
        unused = ["--step-learning-rate-factor"]
        note_unused(options, unused, "no steps are trained (see --weight-scales)")
    if recipe.decay_fraction == 0:
        note_unused(options, ["--final-learning-rate-factor"], "needs --decay-fraction above 0")
    if options.stop_at_step is not None and options.stop_at_step >= recipe.steps:
        note_unused(options, ["--stop-at-step"], f"the run ends at step {recipe.steps} anyway")


def _check_start(options: argparse.Namespace, out: str) -> None:
    """Raise UserError for options that describe the start of a run, if this command starts none."""
    from minimtp.training.run import checkpoint

    if options.continue_schedule and not options.start_from:
        raise UserError("--continue-schedule continues another run: name that run with --from")
    if not (options.resume and checkpoint.exists(out)):
        return
    for name, value in (
        ("--from", options.start_from),
        ("--quantized-start", options.quantized_start),
        ("--tokenizer", options.tokenizer),
        ("--self-generated", options.self_generated),
    ):
        if value:
            raise UserError(
                f"{out} holds a run that has already started: omit {name} to resume it, or choose "
                "another --out"
            )
