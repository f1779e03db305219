"""A text that is requested, and the text that comes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minimtp.decode.sampling.params import GREEDY, SamplingParams


@dataclass(frozen=True)
class TextRequest:
    """A text to generate: up to `max_new_tokens` tokens after `prompt`, token ids."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: SamplingParams = GREEDY
    seed: int = 0


class GeneratedText(NamedTuple):
    """The new tokens of a text. ended: the last one is an end token of the model."""

    tokens: list[int]
    ended: bool
