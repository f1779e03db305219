"""The teacher of a run: the model whose probabilities it follows."""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.tokenizer import Tokenizer, same_tokens
from minimtp.model.transformer import LanguageModel
from minimtp.training.build import DRAFT_VOCABULARY
from minimtp.training.recipe import Recipe
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.folder import LoadedRun, load_run, weights_digest

if TYPE_CHECKING:
    from minimtp.model.heads import MultiTokenModel


def load_teacher(
    given: str | Path | LoadedRun | None, recipe: Recipe, device: Device, tokenizer: Tokenizer
) -> LanguageModel | None:
    """Load the model whose probabilities the run follows, or return None if it follows none.

    Raises UserError if the teacher is missing, not needed, or does not fit the recipe.
    """
    follows_heads = recipe.head_targets == "teacher"
    needed = recipe.distill_weight > 0.0 or follows_heads
    if needed and given is None:
        follower = "head_targets teacher" if follows_heads else "distill_weight"
        raise UserError(f"{follower} needs a teacher: give both or neither")
    if given is None:
        return None
    if not needed:
        raise UserError(
            "nothing is learned from the teacher: set distill_weight above 0 or head_targets to "
            "teacher, or leave the teacher out"
        )
    run = given if isinstance(given, LoadedRun) else load_run(given, device.name)
    folder = run.path
    if follows_heads and run.model.depth < recipe.draft_depth:
        raise UserError(
            f"the teacher {folder} has {run.model.depth} heads to follow, "
            f"but {recipe.draft_depth} are trained: lower draft_depth, or use another teacher"
        )
    if follows_heads and recipe.head_stride > 1 and not run.model.heads.can_skip_positions:
        raise UserError(
            f"head_stride {recipe.head_stride} needs a teacher with {recipe.heads} heads, "
            f"not {run.recipe.heads}"
        )
    if not same_tokens(run.tokenizer, tokenizer):
        raise UserError(
            f"the teacher {folder} has another tokenizer than this model: use a teacher that was "
            "trained with the same tokenizer"
        )
    return run.model


def require_same_teacher(teacher: LanguageModel, state: dict[str, object]) -> None:
    """Record the teacher's weights in the state of a run. Raises UserError if the run has followed
    other weights, because its result would be that of neither teacher.
    """
    found = weights_digest(teacher)
    if state.setdefault("teacher_weights", found) != found:
        raise UserError(
            "the run has followed a teacher with other weights: give the teacher that it began "
            "with, or begin a new run"
        )


def require_drafts(teacher: "MultiTokenModel", at: Checkpoint | None, source: object) -> None:
    """Raise UserError if the teacher's heads draft only some tokens, and not those of the run."""
    limited = teacher.heads.draft_vocabulary
    ids = None if at is None else at.parameters.get(DRAFT_VOCABULARY)
    if limited is not None and (ids is None or not np.array_equal(limited.ids.data, ids)):
        raise UserError(
            f"the heads of the teacher {source} draft other tokens than this run: start from the "
            "teacher, with its draft_vocabulary_size, or use a teacher without one"
        )
