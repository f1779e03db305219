"""Drafters by the names that users give: one list for `generate` and `bench decode`."""

from minimtp.decode.drafters.combined import CombinedDrafter
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.drafters.function import DraftFunction, FunctionDrafter
from minimtp.decode.drafters.model import ModelDrafter
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.errors import UserError
from minimtp.model.draft_head import DraftHead
from minimtp.model.loaded import LoadedModel
from minimtp.model.tokenizer import same_tokens

FUNCTION_DEPTH = 8  # maximum number of drafts to request from a user's function

# by the name that the user gives
TITLES = {"heads": "heads", "ngram": "n-gram", "combined": "combined", "none": "none"}
AUTO = "auto"  # heads together with lookups, or heads alone for trees; nothing without heads
ANOTHER_RUN = "another run"


def make_drafter(
    source: str | LoadedModel | DraftHead | DraftFunction,
    run: LoadedModel,
    heads: Drafter | None,
    memory: int = 0,
    trees: bool = False,
) -> Drafter | None:
    """Return the drafter for the loaded `run`, None if it has nothing to draft with.

    source: "auto", "heads", "ngram", "combined" or "none", another loaded run, a head that was
    loaded apart from it, or a function (function.py). heads: the drafter of the run's own heads, or
    of this head. memory: see `CombinedDrafter`. trees: whether the drafter has to draft trees.

    Raises UserError if the other run has another tokenizer.
    """
    if isinstance(source, str):
        if source == AUTO:
            source = "heads" if heads is None or trees else "combined"
        if source == "combined":
            return CombinedDrafter(heads, memory)
        return {"heads": heads, "ngram": NgramDrafter(), "none": None}[source]
    if isinstance(source, DraftHead):
        return heads
    if callable(source):
        return FunctionDrafter(source, FUNCTION_DEPTH, run.config.vocabulary_size)
    if not same_tokens(source.tokenizer, run.tokenizer):
        raise UserError(
            f"{source.path} has another tokenizer than {run.path}: draft with a run that has "
            "the same tokenizer"
        )
    return ModelDrafter(deploy(source.model)[0])


def every_drafter(
    run: LoadedModel, heads: Drafter | None, small: LoadedModel | DraftHead | None
) -> dict[str, Drafter]:
    """Return all drafters for `run` by title, without a memory of earlier texts. small: another run
    to draft with, the head that `heads` drafts with, or None.
    """
    sources = {title: name for name, title in TITLES.items()}
    if small is not None and not isinstance(small, DraftHead):
        sources[ANOTHER_RUN] = small
    made = {title: make_drafter(source, run, heads) for title, source in sources.items()}
    return {title: drafter for title, drafter in made.items() if drafter is not None}
