"""The settings of `minimtp train`: one option per field of the recipe, and the recipe that the
options describe.
"""

import argparse
import dataclasses
from contextlib import nullcontext
from pathlib import Path

from minimtp.cli.options.values import number, whole_number
from minimtp.cli.parser import Parser
from minimtp.errors import UserError, naming
from minimtp.training.presets import PRESETS, fine_tuning, head_training
from minimtp.training.recipe import SETTINGS, Recipe
from minimtp.training.recipe_checks import ONE_HEAD
from minimtp.training.settings import GROUPS, kind_of

DESTINATION = "recipe."  # begins the name under which a setting is found among the parsed options


def add_recipe_options(parser: Parser) -> None:
    """Add one option per setting, grouped as in the recipe."""
    for group, title in GROUPS.items():
        section = parser.add_argument_group(f"settings of {title}")
        for setting in SETTINGS.values():
            if setting.metadata["group"] == group:
                _add_setting(section, setting)


def _add_setting(section: argparse._ArgumentGroup, setting: dataclasses.Field) -> None:
    """Add the option of one setting. It appears among the parsed options only if it was given."""
    kind = kind_of(setting)
    name = "--" + setting.name.replace("_", "-")
    common = {
        "dest": DESTINATION + setting.name,
        "default": argparse.SUPPRESS,
        "help": setting.metadata["help"] + _default(setting),
    }
    if kind is bool:
        section.add_argument(name, action=argparse.BooleanOptionalAction, **common)
        return
    words = setting.metadata["allowed"] if kind is str else None
    placeholder = {int: "N", float: "X", str: "|".join(words or ["NAME"])}[kind]
    convert = {int: whole_number, float: number, str: str}[kind]
    section.add_argument(name, type=convert, metavar=placeholder, **common)


def _default(setting: dataclasses.Field) -> str:
    if setting.default is None:
        return ""
    shown = {True: "yes", False: "no"}[setting.default] if setting.type is bool else setting.default
    return f" (default: {shown})"


def chosen_recipe(options: argparse.Namespace, out: str | None = None) -> Recipe | None:
    """Return the recipe that the options describe: a preset, a file or the recipe of another run,
    with single settings changed.

    Return None if a run is resumed and no setting is given: the stored recipe is used.
    out: the folder of the run. Single settings of a resumed run change its stored recipe, so that a
    message about a setting names one that was given.
    Raises UserError for contradictory options and for a file that cannot be read.
    """
    given = {
        name.removeprefix(DESTINATION): value
        for name, value in vars(options).items()
        if name.startswith(DESTINATION)
    }
    if options.resume and not (given or options.preset or options.recipe or options.start_from):
        return None
    only_heads = given.get("heads") in ONE_HEAD and given.get("freeze_trunk", False)
    base = _stored_settings(options, out) or _base_settings(options, only_heads)
    new_heads = "heads" in given and "draft_depth" not in given
    if new_heads and (given["heads"] == "none" or not base.get("draft_depth")):
        base.pop("draft_depth", None)  # it belonged to other heads
    if given.get("heads", ONE_HEAD[0]) not in ONE_HEAD:
        for name in ("draft_vocabulary_size", "head_start_scale"):
            base.pop(name, None)
    with naming(options.recipe) if options.recipe else nullcontext():
        return Recipe.from_dict(base | given)


def _stored_settings(options: argparse.Namespace, out: str | None) -> dict[str, object]:
    """Return the settings of the run to resume, {} if the command describes a whole recipe."""
    from minimtp.training.run import checkpoint

    whole = options.preset or options.recipe or options.start_from
    if not options.resume or whole or out is None or not checkpoint.exists(out):
        return {}
    return checkpoint.read_header(out).recipe.to_dict()


def _base_settings(options: argparse.Namespace, only_heads: bool) -> dict[str, object]:
    """Return the settings to start from. A model that is loaded with --from keeps its size.

    options.start_from: a run folder, or a loaded model of another format. only_heads: the command
    trains token-conditioned heads, and nothing else.
    """
    if options.preset and options.recipe:
        raise UserError(
            "--preset and --recipe both choose the settings to start from: use one of them"
        )
    base: dict[str, object] = {}
    if options.preset:
        base = dict(PRESETS[options.preset])
    elif options.recipe:
        from minimtp.training.run.checkpoint import read_settings

        base = read_settings(options.recipe)
    if options.start_from:
        from minimtp.training.build import MODEL_SETTINGS
        from minimtp.training.run.checkpoint import read

        is_run = isinstance(options.start_from, str)
        found = read(options.start_from, optimizer=False) if is_run else options.start_from
        source = found.recipe.to_dict()
        if is_run and not base:
            return source
        sizes = {name: source[name] for name in MODEL_SETTINGS}
        if base:
            base |= sizes
        else:
            base = head_training(sizes) if only_heads else fine_tuning(sizes)
        if base.get("sequence_length"):
            base["sequence_length"] = min(base["sequence_length"], base["context_length"])
    return base


def default_folder(options: argparse.Namespace) -> str:
    """Return the run folder of `train` without --out."""
    if options.start_from:
        path = Path(options.start_from)
        return f"{path}-next" if path.is_dir() else f"runs/{path.stem}-next"
    return f"runs/{options.preset or 'run'}"
