"""The kinds of self-generated text, and the share of the new tokens that each kind gets.

    chat    answers to messages of a user, in the model's chat template, some with a second message
    code    continuations of functions, classes and comments
    edit    answers to requests to change a function and to write all of it
    prose   continuations of paragraphs of documentation
    text    continuations of the user's own text

The default shares are those of a study of SmolLM2's draft heads, where more text of this mixture
raised the share of accepted drafts with every doubling.
"""

import math
from collections.abc import Mapping

from minimtp.errors import UserError, shown
from minimtp.training.settings import check_known

KINDS = ("chat", "code", "edit", "prose", "text")
DEFAULT = {"chat": 44.0, "code": 25.0, "edit": 19.0, "prose": 12.0}
OWN_TEXT = {"text": 100.0}
EXAMPLE = "write it like chat=44,code=25,edit=19,prose=12"
MAX_SHARE = 1_000_000
DECIMALS = 6  # of a share; a smaller one counts as 0
Mixture = Mapping[str, float]  # the share of each kind; the shares sum to 1


def default_mixture(chat_template: str | None, own_text: bool = False) -> Mixture:
    """Return the mixture for a model. own_text: the user gave text for the model to continue."""
    shares = OWN_TEXT if own_text else DEFAULT
    if chat_template is None:
        shares = {kind: share for kind, share in shares.items() if kind != "chat"}
    return normalized(shares)


def parse_mixture(text: str) -> Mixture:
    """Return the mixture that an option describes, such as chat=44,code=25.

    Raises UserError for unknown or repeated kinds, and for shares that are no positive numbers.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        kind, sign, share = (piece.strip() for piece in part.partition("="))
        if not sign or not kind:
            raise UserError(f"--mix has the part {shown(part)!r} without a share: {EXAMPLE}")
        check_known("kind of text in --mix", kind, KINDS)
        if kind in shares:
            raise UserError(f"--mix names {kind} twice: {EXAMPLE}")
        try:
            shares[kind] = float(share)
        except ValueError:
            shares[kind] = math.nan
        if not 0 <= shares[kind] <= MAX_SHARE:
            raise UserError(
                f"the share of {kind} in --mix is {shown(share)!r}, but must be a number from 0 to "
                f"{MAX_SHARE:,}: {EXAMPLE}"
            )
    if not sum(shares.values()):
        raise UserError(f"all shares in --mix are 0: {EXAMPLE}")
    return normalized(shares)


def normalized(shares: Mapping[str, float]) -> Mixture:
    """Return positive shares that sum to 1, in the order of KINDS."""
    total = math.fsum(shares.values())
    rounded = {kind: round(shares.get(kind, 0) / total, DECIMALS) for kind in KINDS}
    return {kind: share for kind, share in rounded.items() if share > 0}
