"""The verification rules by the names that users give."""

from minimtp.decode.rules.block import BlockRule
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.rule import Rule
from minimtp.decode.rules.shared_noise import SharedNoise
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling.gumbel_noise import GumbelNoise
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.sampling.random_source import SeededRandomSource
from minimtp.errors import UserError, shown

RULES = ("shared-noise", "token", "block", "match")


def make_rule(
    name: str, sampling: SamplingParams, seed: int, vocabulary_size: int, position: int
) -> Rule:
    """Return the rule called `name` for a sequence whose first new token has this `position`.

    Greedy sampling parameters make all rules the same, so the result is `Greedy` for any name.

    Raises UserError if no rule has this name.
    """
    if name not in RULES:
        raise UserError(f"unknown verification rule {shown(name)!r}: use one of {', '.join(RULES)}")
    if sampling.greedy:
        return Greedy()
    if name == "shared-noise":
        return SharedNoise(sampling, GumbelNoise(seed, vocabulary_size), position)
    kinds = {"token": TokenRule, "block": BlockRule, "match": Match}
    return kinds[name](sampling, SeededRandomSource(seed))
