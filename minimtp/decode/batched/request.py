"""A text that is requested, and the text that comes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minimtp.decode.batched.loops import ends_in_a_loop
from minimtp.decode.sampling.params import GREEDY, SamplingParams


@dataclass(frozen=True)
class TextRequest:
    """A text to generate: up to `max_new_tokens` tokens after `prompt`, token ids.

    follow_up: what the user says after the model's answer, from the end token of the answer on. If
    the model ends its answer with this end token, the rest is appended, and the model answers once
    more, with up to `max_new_tokens` further tokens.
    ends_in_loops: the text ends when the model repeats itself (loops.py).
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: SamplingParams = GREEDY
    seed: int = 0
    follow_up: Sequence[int] = ()
    ends_in_loops: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")

    @property
    def longest(self) -> int:
        """The tokens that the model reads at most."""
        turns = 2 if self.follow_up else 1
        return len(self.prompt) + len(self.follow_up) + turns * self.max_new_tokens - 1

    def follows(self, tokens: Sequence[int], already: bool) -> bool:
        """Return whether the follow-up comes after the new tokens. already: it came before."""
        return bool(self.follow_up) and not already and tokens[-1] == self.follow_up[0]

    def loops(self, answer: Sequence[int]) -> bool:
        """Return whether the text ends because the answer runs in a loop."""
        return self.ends_in_loops and ends_in_a_loop(answer)


class GeneratedText(NamedTuple):
    """The tokens of a text after its prompt.

    ended: the last one is an end token of the model. first_answer: how many of them belong to the
    first answer, if the follow-up comes after it, otherwise None.
    """

    tokens: list[int]
    ended: bool
    first_answer: int | None = None
