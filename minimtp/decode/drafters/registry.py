"""What can draft, by the names that the user gives: one list for `generate`, for its help and for `bench decode`."""

from collections.abc import Callable
from dataclasses import dataclass

from minimtp.decode.drafters.drafter import Drafter, FunctionDrafter
from minimtp.decode.drafters.model import ModelDrafter
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.errors import UserError

FUNCTION_DEPTH = 8  # tokens that a function is asked for at most, where nobody says otherwise


@dataclass(frozen=True)
class Source:
    """A kind of drafter. make: from the run's own heads (None where it has none), None where there is nothing to draft with."""

    title: str
    explanation: str
    make: Callable[[Drafter | None], Drafter | None]


SOURCES = {
    "heads": Source("heads", "the run's own prediction heads, if it has any", lambda heads: heads),
    "ngram": Source(
        "n-gram", "what followed the last time the text said this", lambda heads: NgramDrafter()
    ),
    "none": Source("none", "nothing", lambda heads: None),
}
ANOTHER_RUN = Source(
    "another run", "another run of the same tokens, usually a smaller one", lambda drafter: drafter
)


def make_drafter(
    source: object, run: object, heads: Drafter | None, deploy: Callable
) -> Drafter | None:
    """A drafter for the loaded `run`. source: a name of SOURCES, another loaded run, or a function (see `FunctionDrafter`).

    Raises UserError for a name that nobody knows and a run of other tokens.
    """
    if isinstance(source, str):
        if source not in SOURCES:
            raise UserError(
                f"unknown draft {source!r}: use {', '.join(SOURCES)}, or another run as model:RUN"
            )
        return SOURCES[source].make(heads)
    if callable(source):
        return FunctionDrafter(source, FUNCTION_DEPTH)
    if source.tokenizer.to_dict() != run.tokenizer.to_dict():
        raise UserError(
            f"{source.folder} has another tokenizer than {run.folder}: draft with a run of the same"
        )
    return ModelDrafter(deploy(source.model)[0])


def every_drafter(
    run: object, heads: Drafter | None, small: object | None, deploy: Callable
) -> dict[str, Drafter]:
    """All that can draft for the loaded `run`, by title; small: another run, which drafts as well."""
    made = {source.title: source.make(heads) for source in SOURCES.values()}
    if small is not None:
        made[ANOTHER_RUN.title] = make_drafter(small, run, heads, deploy)
    return {title: drafter for title, drafter in made.items() if drafter is not None}
