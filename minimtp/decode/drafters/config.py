"""How a decoder drafts and verifies, as a user configures it."""

from dataclasses import dataclass
from typing import Literal

from minimtp.arguments import as_whole, check_fields, number, one_of, refuse, whole
from minimtp.decode.drafters.function import DraftFunction
from minimtp.decode.drafters.lookup import MEMORY
from minimtp.decode.drafters.registry import AUTO, TITLES
from minimtp.decode.options import TREE
from minimtp.decode.rules.registry import RULES
from minimtp.model.draft_head import DraftHead
from minimtp.model.loaded import LoadedModel

CONFIDENCE = 0.05  # a chain ends when the product of its probabilities is below this


@dataclass(frozen=True)
class DraftConfig:
    """How tokens are drafted and verified. This changes the speed, and never the distribution.

    drafter: one of

        a name         "heads" (the model's own prediction heads), "ngram" (repetitions in the
                       text), "combined" (repetitions if there are any, otherwise heads), "none",
                       or "auto": combined if the model has heads, otherwise none
        a LoadedModel  another, usually smaller model with the same tokenizer
        a DraftHead    a head from a file of its own (`minimtp.load_draft`)
        a function     (tokens so far, depth, rule) -> (drafts, scores or None): at most `depth`
                       token ids, and floats (K, V), for each of the K drafts the logarithms of the
                       distribution q that it was sampled from, plus any constant. None: the drafts
                       were not sampled, so q(draft) = 1. Any other answer raises UserError when
                       it is given

    length: the maximum number of drafts in a row. "auto" measures and chooses the fastest.
    min_confidence: heads and draft models stop drafting when they give the whole draft a lower
        probability than this.
    tree: the maximum number of drafts per round as a tree, at most `length` deep; 0 drafts chains.
        With length "auto", trees are used only while they are faster than chains.
    memory: the number of tokens of earlier texts of a `Decoder` in which the combined drafter looks
        for repetitions.
    rule: the verification rule: "shared-noise" (the same seed gives the same text with any drafter,
        or none), "token", "block" or "match" (see rules/). "auto": block for chains on the CPU with
        Numba if a text gets no seed, otherwise shared-noise (`Decoder.rule_for`).

    Raises UserError if one of these settings cannot be used.
    """

    drafter: str | LoadedModel | DraftHead | DraftFunction = AUTO
    length: int | Literal["auto"] = "auto"
    min_confidence: float = CONFIDENCE
    tree: int = 0
    rule: str = AUTO
    memory: int = MEMORY

    def __post_init__(self) -> None:
        check_fields(
            self,
            drafter=_drafter,
            length=_length,
            min_confidence=number("a draft confidence from 0 to 1", lambda p: 0 <= p <= 1),
            tree=TREE,
            rule=one_of(AUTO, *RULES),
            memory=whole(0, meaning="0 forgets earlier texts"),
        )


def _drafter(name: str, value: object) -> str | LoadedModel | DraftHead | DraftFunction:
    if isinstance(value, str) and value in (AUTO, *TITLES):
        return str(value)
    is_word = isinstance(value, str)
    if is_word or not (isinstance(value, LoadedModel | DraftHead) or callable(value)):
        names = ", ".join([AUTO, *TITLES])
        refuse(name, f"one of {names}, a loaded model, a loaded head or a function", value)
    return value


def _length(name: str, value: object) -> int | str:
    if isinstance(value, str) and value == "auto":
        return "auto"
    found = as_whole(value)
    if found is None or found < 0:
        refuse(name, "a draft length: a whole number of at least 0, or auto", value)
    return found


DEFAULT_DRAFT, NO_DRAFT = DraftConfig(), DraftConfig("none")
