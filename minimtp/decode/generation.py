"""One running generation: rounds (round.py) until the text ends.

The round does the decoding. This file asks the policy how far to draft, measures time, and ends the
text. Plain decoding is the same loop with a policy that never drafts.

A text ends for one of three reasons, in this order of precedence:

    "stop"      a stop token, or the token that completes a stop string, is the last token
    "length"    `max_new_tokens` tokens were emitted
    "context"   the model has no position left for the last token

The draft depth is limited so that a round can neither exceed `max_new_tokens` nor feed a position
that the model does not have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import NoReturn

from minimtp.decode.drafters.drafter import SourcesDrafter
from minimtp.decode.managed_drafter import ManagedDrafter
from minimtp.decode.policy.plan import PAUSE, DraftPlan, FixedPolicy, Schedule
from minimtp.decode.round import Round, prefill, speculative_round
from minimtp.decode.rules.rule import Rule
from minimtp.decode.states import DecodingState, DecodingStates
from minimtp.decode.statistics import Statistics
from minimtp.decode.stopping import Stop
from minimtp.decode.target import Target
from minimtp.decode.tree_round import speculative_tree_round
from minimtp.errors import UserError

IN_A_ROUND = (
    "this text is in the middle of a round: another thread, or a function that the round calls, "
    "must start a generation of its own"
)


@dataclass(frozen=True)
class Limits:
    """Where a text ends, and how far a round may draft."""

    max_new_tokens: int
    draft_depth: int = 0  # tokens
    tree_nodes: int = 0  # 0 drafts chains
    stop: Stop = field(default_factory=Stop)


class Generation:
    """A text that is being generated: iterate over it for its tokens, or over `rounds()` to see how
    they were generated.

    Both iterators advance the same text, and each forward pass runs only when its tokens are
    requested. `tokens` are all committed tokens, including the prompt. `reason` is None until the
    text has ended, then "stop", "length" or "context", "closed" after `close`, and "error" after an
    exception in a round, for example in a drafter.

    states: where the text gets its cache and its drafter, when the first token is requested. They
    are given back when the text ends, or is no longer referred to. prompt: token ids, at least one.

    Raises UserError, when the next token is requested, if an earlier round ended with an exception,
    or if another thread, or a caller of this one, is in the middle of a round.
    """

    _state: DecodingState | None = None

    def __init__(
        self, states: DecodingStates, prompt: Sequence[int], rule: Rule, limits: Limits
    ) -> None:
        self.reason: str | None = None
        self.tokens = [int(token) for token in prompt]
        self._depth = 0 if states.drafter is None else limits.draft_depth
        sources = len(states.drafter.depths) if isinstance(states.drafter, SourcesDrafter) else 0
        self.statistics = Statistics.of_prompt(
            len(self.tokens), self._depth, limits.tree_nodes, sources
        )
        self._states, self._rule, self._limits = states, rule, limits
        self._max_length = max_length(len(self.tokens), limits.max_new_tokens, states.target)
        self._unread: Iterator[int] = iter(())
        self._round_lock = Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        for token in self._unread:
            return token
        round_ = self.next_round()
        if round_ is None:
            raise StopIteration
        tokens = round_.tokens
        if len(tokens) > 1:
            self._unread = iter(tokens[1:])
        return tokens[0]

    def rounds(self) -> Iterator[Round]:
        """Yield the remaining rounds. The first one of a text is prefill."""
        while (round_ := self.next_round()) is not None:
            yield round_

    def next_round(self) -> Round | None:
        """Generate and return the next round, None if the text has ended."""
        if not self._round_lock.acquire(False):
            raise UserError(IN_A_ROUND)
        try:
            with self._states.lock:
                return self._next_round()
        except BaseException as error:
            self._finish("error")
            if isinstance(error, StopIteration):  # of a caller's function: would end the loop
                raise RuntimeError("a round raised StopIteration") from error
            raise
        finally:
            self._round_lock.release()

    def close(self) -> None:
        """End the text, unless it has ended, and give its cache back."""
        if not self._round_lock.acquire(False):
            raise UserError(IN_A_ROUND)
        self._finish("closed")
        self._unread = iter(())
        self._round_lock.release()

    def __del__(self) -> None:
        self._give_back()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a running text cannot be copied or pickled: copy its list `tokens`")

    def _next_round(self) -> Round | None:
        """Return prefill, then rounds of drafts, and None when the text has ended."""
        if self._state is not None:
            return self._decode()
        if self.reason is None:
            return self._prefill()
        if self.reason == "error":
            raise UserError("this text ended with an error: start a new generation")
        return None

    def _prefill(self) -> Round:
        started = perf_counter()
        self._state = state = self._states.take()
        self._target, policy = state.target, state.policy
        if policy is None or self._depth == 0:
            policy = FixedPolicy(self._depth, self._limits.tree_nodes)
        self._schedule = Schedule(policy, self._depth)
        drafter = state.drafter if self._depth else None
        self._drafter = ManagedDrafter(drafter, self._limits.stop, state.target.vocabulary_size)
        round_ = self._end(prefill(self.tokens, self._target, self._drafter, self._rule))
        self.statistics.emitted = 1
        self._plan = self._next_plan()
        self.statistics.seconds_prompt = perf_counter() - started
        return round_

    def _decode(self) -> Round:
        tokens, target, drafter, rule = self.tokens, self._target, self._drafter, self._rule
        plan, drafted_before, started = self._plan, drafter.seconds, perf_counter()
        drafter.depths = plan.depths
        if plan.nodes and plan.drafts:
            round_ = speculative_tree_round(tokens, target, drafter, rule, plan)
        else:
            round_ = speculative_round(tokens, target, drafter, rule, plan.drafts)
        seconds = perf_counter() - started
        seconds_draft = drafter.seconds - drafted_before
        round_ = self._end(round_)
        self.statistics.add(round_, seconds_draft, seconds - seconds_draft, drafter.source)
        self._plan = self._next_plan()
        return round_

    def _next_plan(self) -> DraftPlan:
        """Return the plan of the next round, which may commit one token more than it drafts.

        Gives the state back if there is no next round.
        """
        if self.reason is not None:
            self._give_back()
            return PAUSE
        length = len(self.tokens)
        return self._schedule.next_plan(self._max_length - length - 1, length - 1, self.statistics)

    def _end(self, round_: Round) -> Round:
        """Set `reason` if the text ends with this round. Return the round without the tokens after
        a stop.
        """
        kept = self._limits.stop.extend(round_.tokens)
        if kept is not None:
            self.reason = "stop"
            return round_ if kept == len(round_.tokens) else self._cut(round_, kept)
        if len(self.tokens) - self.statistics.prompt_tokens >= self._limits.max_new_tokens:
            self.reason = "length"
        elif len(self.tokens) > self._target.context_length:
            self.reason = "context"
        return round_

    def _finish(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        self._give_back()

    def _give_back(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            self._states.give_back(state)

    def _cut(self, round_: Round, kept: int) -> Round:
        """Keep the first `kept` tokens of the last round, all of them accepted drafts."""
        del self.tokens[round_.position + kept :]
        self._target.truncate(len(self.tokens) - 1)
        drafts = round_.drafts[:kept]
        return round_._replace(drafts=drafts, accepted=kept, tokens=drafts)


def max_length(prompt_tokens: int, max_new_tokens: int, target: Target) -> int:
    """Return how long a text can become. Its last token needs no position, because it is never
    fed.
    """
    return min(prompt_tokens + max_new_tokens, target.context_length + 1)
