"""`minimtp train`, and the recipe that its options describe."""

import argparse
import json
from pathlib import Path

from minimtp.cli.values import use_kernels
from minimtp.errors import UserError
from minimtp.training.presets import PRESETS
from minimtp.training.recipe import Recipe


def train(options: argparse.Namespace) -> int:
    from minimtp.training.data.tokenizer import open_tokenizer
    from minimtp.training.distributed import command_to_resume
    from minimtp.training.run import train as run_training

    use_kernels(options)
    out = options.out or _default_out(options)
    _refuse_what_would_be_ignored(options, out)
    tokenizer = open_tokenizer(options.tokenizer) if options.tokenizer else None
    result = run_training(
        _recipe(options), options.corpus, out, resume=options.resume, start_from=options.start_from,
        continue_schedule=options.continue_schedule, stop_at_step=options.stop_at_step, teacher=options.teacher,
        self_generated=options.self_generated, device=options.device, threads=options.threads, tokenizer=tokenizer,
    )  # fmt: skip
    if result.evaluation:
        if result.evaluated_at != result.step:
            print(f"evaluated at step {result.evaluated_at}:")
        print(result.evaluation.describe())
    if not result.finished:
        print(f"saved at step {result.step}; go on with: {command_to_resume(out)}")
    print(f'try: minimtp generate {out} --prompt "import "')
    return 0


def _recipe(options: argparse.Namespace) -> Recipe | None:
    """The recipe that the options describe: a preset, a file or another run's, changed by single options.

    None where nothing was said about it and a run is resumed, which has its own.
    """
    given = {
        name.removeprefix("recipe."): value
        for name, value in vars(options).items()
        if name.startswith("recipe.")
    }
    if options.resume and not (given or options.preset or options.recipe or options.start_from):
        return None
    if options.preset and options.recipe:
        raise UserError("--preset and --recipe both say where to start: give one of them")
    base = (
        dict(PRESETS[options.preset])
        if options.preset
        else _recipe_file(options.recipe)
        if options.recipe
        else {}
    )
    if options.start_from:
        from minimtp.training.build import MODEL_SETTINGS
        from minimtp.training.checkpoint import read

        source = read(options.start_from, optimizer=False).recipe.to_dict()
        base = base | {name: source[name] for name in MODEL_SETTINGS} if base else source
    if (
        "heads" in given
        and "draft_depth" not in given
        and (given["heads"] == "none" or not base.get("draft_depth"))
    ):
        base.pop("draft_depth", None)  # it belonged to other heads
    return Recipe.from_dict(base | given)


def _refuse_what_would_be_ignored(options: argparse.Namespace, out: str) -> None:
    """Raise UserError for options of `train` that say how a run begins when there is none to begin."""
    from minimtp.training import checkpoint

    if options.continue_schedule and not options.start_from:
        raise UserError(
            "--continue-schedule goes on from another run's step: give that run with --from"
        )
    if options.resume and checkpoint.exists(out):
        for name, value in (
            ("--from", options.start_from),
            ("--tokenizer", options.tokenizer),
            ("--self-generated", options.self_generated),
        ):
            if value:
                raise UserError(
                    f"{out} holds a run that has begun: leave {name} out to resume it, or choose another --out"
                )


def _recipe_file(path: str) -> dict[str, object]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the recipe {path} cannot be read ({error})") from None
    values = values.get("recipe", values) if isinstance(values, dict) else values
    if not isinstance(values, dict):
        raise UserError(f"the recipe {path} is not a JSON object of settings")
    return values


def _default_out(options: argparse.Namespace) -> str:
    if options.start_from:
        return f"{Path(options.start_from)}-next"
    return f"runs/{options.preset or 'run'}"
