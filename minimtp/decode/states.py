"""The states of a decoder: what a text changes while it is generated.

Several texts may be generated at the same time, by generators that take turns or by threads. They
share the weights. Everything that changes is a `DecodingState`, and each text has one for itself,
from its first forward pass to its end. The next text uses it again. So one text after the other
needs the memory of one cache, and n texts at a time need n caches.
"""

from collections.abc import Callable
from contextlib import nullcontext
from threading import RLock
from typing import NamedTuple

from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.target import Target


class DecodingState(NamedTuple):
    """The target with its cache, the drafter, and the policy of one text."""

    target: Target
    drafter: Drafter | None
    policy: DraftPolicy | None


def _no_policy(target: Target) -> None:
    return None


_one_round_at_a_time = RLock()  # of all decoders; a round may start a round of another text


class DecodingStates:
    """Gives each text a state that no other text uses.

    target, drafter: the first state, of which the others are clones. make_policy: returns the
    policy of a state, given its target. one_at_a_time: let threads wait for each other's rounds. On
    a GPU they have to, because a recording of launches (kernels/cuda/graph.py) ends if another
    thread uses the GPU. Threads may share this object.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None = None,
        make_policy: Callable[[Target], DraftPolicy | None] = _no_policy,
        one_at_a_time: bool = False,
    ) -> None:
        self.lock = _one_round_at_a_time if one_at_a_time else nullcontext()  # held by a round
        self.target, self.drafter = target, drafter
        self._make_policy = make_policy
        self._unused = [DecodingState(target, drafter, make_policy(target))]

    def take(self) -> DecodingState:
        """Return a state. It holds what an earlier text has left in it."""
        try:
            return self._unused.pop()  # one operation of the interpreter: needs no lock
        except IndexError:
            target = self.target.clone()
            drafter = None if self.drafter is None else self.drafter.clone()
            return DecodingState(target, drafter, self._make_policy(target))

    def give_back(self, state: DecodingState) -> None:
        """Keep one unused state for the next text. Others are freed."""
        if not self._unused:
            self._unused.append(state)
