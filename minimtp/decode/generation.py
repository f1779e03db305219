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
from time import perf_counter

from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.managed_drafter import ManagedDrafter
from minimtp.decode.policy.plan import PAUSE, DraftPlan, DraftPolicy, FixedPolicy, Schedule
from minimtp.decode.round import Round, prefill, speculative_round
from minimtp.decode.rules.rule import Rule
from minimtp.decode.statistics import Statistics
from minimtp.decode.stopping import Stop
from minimtp.decode.target import Target
from minimtp.decode.tree_round import speculative_tree_round


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
    text has ended, then "stop", "length" or "context".

    prompt: token ids, at least one. policy: decides how far to draft (default: always as far as
    `limits` allows).
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None,
        prompt: Sequence[int],
        rule: Rule,
        limits: Limits,
        policy: DraftPolicy | None = None,
    ) -> None:
        depth = 0 if drafter is None else limits.draft_depth
        if policy is None or depth == 0:
            policy = FixedPolicy(depth, limits.tree_nodes)
        self.reason: str | None = None
        self.tokens = [int(token) for token in prompt]
        self.statistics = Statistics.of_prompt(len(self.tokens), depth, limits.tree_nodes)
        self._target, self._rule, self._stop = target, rule, limits.stop
        self._drafter = ManagedDrafter(drafter, limits.stop, target.vocabulary_size)
        self._schedule = Schedule(policy, depth)
        self._max_new_tokens = limits.max_new_tokens
        self._max_length = max_length(len(self.tokens), limits.max_new_tokens, target)
        self._rounds = self._run()
        self._stream = (token for round_ in self._rounds for token in round_.tokens)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return next(self._stream)

    def rounds(self) -> Iterator[Round]:
        """Return the iterator over the remaining rounds. The first one is prefill."""
        return self._rounds

    def _run(self) -> Iterator[Round]:
        tokens, target, drafter, rule = self.tokens, self._target, self._drafter, self._rule
        statistics = self.statistics
        started = perf_counter()
        round_ = self._end(prefill(tokens, target, drafter, rule))
        statistics.emitted = 1
        plan = self._next_plan()
        statistics.seconds_prompt = perf_counter() - started
        yield round_
        while self.reason is None:
            drafted_before, started = drafter.seconds, perf_counter()
            if plan.nodes and plan.drafts:
                round_ = speculative_tree_round(tokens, target, drafter, rule, plan)
            else:
                round_ = speculative_round(tokens, target, drafter, rule, plan.drafts)
            seconds = perf_counter() - started
            seconds_draft = drafter.seconds - drafted_before
            round_ = self._end(round_)
            statistics.add(round_, seconds_draft, seconds - seconds_draft)
            plan = self._next_plan()
            yield round_

    def _next_plan(self) -> DraftPlan:
        """Return the plan of the next round, which may commit one token more than it drafts."""
        if self.reason is not None:
            return PAUSE
        length = len(self.tokens)
        return self._schedule.next_plan(self._max_length - length - 1, length - 1, self.statistics)

    def _end(self, round_: Round) -> Round:
        """Set `reason` if the text ends with this round. Return the round without the tokens after
        a stop.
        """
        kept = self._stop.extend(round_.tokens)
        if kept is not None:
            self.reason = "stop"
            return round_ if kept == len(round_.tokens) else self._cut(round_, kept)
        if len(self.tokens) - self.statistics.prompt_tokens >= self._max_new_tokens:
            self.reason = "length"
        elif len(self.tokens) > self._target.context_length:
            self.reason = "context"
        return round_

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
