"""The decoding loop: one for plain and for speculative decoding, since plain decoding is drafting nothing.

A round, for m committed tokens of which the last is pending (chosen, not yet fed):

    draft     d_1 .. d_K from the drafter
    verify    one pass of the target over [pending, d_1 .. d_K] gives K + 1 rows of logits; the rule accepts the first a
              drafts and draws the token that follows them: a + 1 tokens are committed at once
    truncate  the target's cache to its committed rows: m - 1 for the new m, always
    commit    the committed rows, with the tokens that follow them, go to the drafter; where it is not asked for a while, once
              for all of them

With a tree of drafts (trees.py) one pass goes over all of its rows, the rule returns a path, and the target keeps the rows of
that path: then everything is as if the path had been drafted as a chain.

The prompt is the first round: many pending tokens, no draft; of a long one, all pieces but the last are fed before. How many
tokens are drafted is planned for several rounds at once (`Lengths`), so that where drafting does not pay its rounds are those
of plain decoding. K is clipped so that a round can neither pass `max_new_tokens` nor feed a position the model does not have; K = 0
runs the same lines.

A text ends with a reason: "stop" (a stop token, or the one that completes a stop string, was emitted; it is the last token),
"length" (`max_new_tokens` tokens were emitted) or "context" (the model has no position left to feed the last token to), in this
order of precedence. A stop inside a draft ends the text exactly there: nothing is drafted behind it.
"""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.rules.trees import Tree
from minimtp.decode.rules.verify import Rule
from minimtp.decode.statistics import DraftPlan, Round, Statistics
from minimtp.decode.stopping import Stop
from minimtp.decode.target import Target


class DraftPolicy(Protocol):
    """Who decides how rounds draft (adaptive.py). Without one it is always as far as possible."""

    def choose(self, most: int, length: int, statistics: Statistics) -> DraftPlan:
        """The plan of the next rounds, at most `most` drafts deep, with `length` rows in the target's cache.

        statistics: of the text so far, always the same object for one text, from which it can be seen what became of the last
        plan; a text's first call comes before its first step.
        """


class Proposal(NamedTuple):
    """What is to be verified."""

    drafts: list[int]  # a chain; none where there is a tree
    scores: np.ndarray | None = None  # see verify.py
    tree: Tree | None = None
    ends: bool = False  # with its last draft the text is at its end, so no token follows that


NOTHING = Proposal([])


class Generation:
    """A text being written: iterate over it for its tokens, or over `rounds()` to see how they came about.

    The two draw from the same text; work happens when a token is asked for. `reason` is None until the text has ended,
    then "stop", "length" or "context". `tokens` are all the committed ones, the prompt's included.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None,
        prompt: np.ndarray,
        rule: Rule,
        max_new_tokens: int,
        draft_depth: int,
        stop: Stop,
        policy: DraftPolicy | None = None,
        tree_nodes: int = 0,
    ) -> None:
        self.reason: str | None = None
        self.tokens: list[int] = prompt.tolist()
        self.statistics = Statistics(
            prompt_tokens=len(prompt),
            drafts_of_length=[0] * (draft_depth + 1),
            drafts_accepted=[0] * (draft_depth + 1),
            passes_of_length=[0] * (max(draft_depth, tree_nodes) + 2),
        )
        self._target, self._drafter, self._rule, self._stop, self._policy = (
            target,
            drafter,
            rule,
            stop,
            policy,
        )
        self._max_new, self._plan = max_new_tokens, DraftPlan(draft_depth, nodes=tree_nodes)
        # The committed tokens, then the drafts: what is fed, and what follows each row, are both views of it.
        self._text = np.empty(longest(prompt, max_new_tokens, target), np.int64)
        self._text[: len(prompt)] = prompt
        self._fed, self._committed = 0, len(prompt)
        self._told, self._rows = (
            0,
            [],
        )  # rows that the drafter knows of, and the hidden states of those behind them
        self._rounds = self._run()
        self._stream = (token for round_ in self._rounds for token in round_.tokens)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return next(self._stream)

    def rounds(self) -> Iterator[Round]:
        """The rounds that are still to come."""
        return self._rounds

    def _run(self) -> Iterator[Round]:
        target, drafter, policy, statistics = (
            self._target,
            self._drafter,
            self._policy,
            self.statistics,
        )
        deepest, rounds_left = self._plan.drafts, 0
        proposal, seconds_draft = NOTHING, 0.0
        reads_hidden = drafter is not None and drafter.reads_hidden
        target.truncate(0)
        if drafter is not None:
            drafter.reset(int(self._text[0]))
        began, first = perf_counter(), True
        self._feed_prompt(reads_hidden)
        while True:
            started = perf_counter()
            round_, hidden = (
                self._verify(proposal) if proposal.tree is None else self._verify_tree(proposal)
            )
            verified = perf_counter()
            self._fed = self._committed - 1
            if first:
                statistics.emitted += 1
            else:
                self._count(round_, proposal, seconds_draft, verified - started)
            self.tokens += round_.tokens
            self.reason = self._ended(round_.tokens)
            asked = seconds_draft = 0
            if reads_hidden and hidden is not None:
                self._rows.append(hidden)
            if rounds_left and self._plan.drafts == 0:  # a rest
                rounds_left -= 1
            elif drafter is not None:
                if self.reason is None:
                    most = min(deepest, len(self._text) - self._committed - 1)
                    if policy is not None and rounds_left == 0:
                        self._plan = policy.choose(most, self._fed, statistics)
                        rounds_left = self._plan.rounds
                        verified = perf_counter()  # planning is no part of one round
                    rounds_left -= 1
                    asked = min(most, self._plan.drafts)
                if asked or policy is None or first:
                    self._tell(drafter)
                seconds_draft = (
                    perf_counter() - verified
                )  # what the next draft needs, and so a part of it
            if first:
                statistics.seconds_prompt, seconds_draft, first = perf_counter() - began, 0.0, False
            yield round_
            if self.reason is not None:
                return
            proposal = NOTHING
            if asked:
                started = perf_counter()
                proposal = self._propose(drafter, asked)
                seconds_draft += perf_counter() - started

    def _feed_prompt(self, reads_hidden: bool) -> None:
        """Feed all of the prompt but its last piece, whose last row says what follows."""
        most = self._target.max_rows
        while self._committed - self._fed > most:
            hidden = self._target.forward(self._text[self._fed : self._fed + most]).hidden
            self._fed += most
            if reads_hidden and hidden is not None:
                self._rows.append(hidden)

    def _verify(self, proposal: Proposal) -> tuple[Round, object]:
        """Verify a chain: (the round, the hidden states of the rows it committed)."""
        drafts, position, text = proposal.drafts, self._committed, self._text
        step = self._target.forward(text[self._fed : position + len(drafts)])
        known = position - self._fed - 1  # rows whose next token is committed already: the prompt's
        accepted, token = self._rule.verify(
            step.logits[known:] if known else step.logits, drafts, proposal.scores
        )
        tokens = drafts[:accepted]
        if not (proposal.ends and accepted == len(drafts)):
            text[position + accepted] = token
            tokens.append(token)
        self._committed = committed = position + len(tokens)
        if accepted < len(drafts) or proposal.ends:
            self._target.truncate(committed - 1)
        hidden = step.hidden
        return Round(position, drafts, accepted, tokens), None if hidden is None else hidden[
            : committed - 1 - self._fed
        ]

    def _verify_tree(self, proposal: Proposal) -> tuple[Round, object]:
        """Verify a tree: as `_verify`."""
        tree, position = proposal.tree, self._committed
        step = self._target.forward_tree(tree.tokens, tree.depths)
        path, token = self._rule.verify_tree(step.logits, tree)
        drafts, accepted = tree.along(path), len(path)
        tokens = drafts[:accepted]
        kept = self._stop.find(tokens)
        if kept is None:
            tokens.append(token)
        else:
            drafts = tokens = tokens[:kept]
            accepted = kept
        self._committed = position + len(tokens)
        self._text[position : self._committed] = tokens
        rows = [0, *path][: len(tokens)]
        self._target.keep(rows)
        hidden = step.hidden
        return (
            Round(position, drafts, accepted, tokens, tree),
            None if hidden is None else hidden[array_module(hidden).asarray(rows)],
        )

    def _count(
        self, round_: Round, proposal: Proposal, seconds_draft: float, seconds_verify: float
    ) -> None:
        statistics = self.statistics
        statistics.emitted += len(round_.tokens)
        statistics.steps += 1
        statistics.drafts_of_length[len(round_.drafts)] += 1
        statistics.drafts_accepted[round_.accepted] += 1
        statistics.passes_of_length[
            1 + len(proposal.drafts if proposal.tree is None else proposal.tree)
        ] += 1
        statistics.seconds_draft += seconds_draft
        statistics.seconds_verify += seconds_verify

    def _ended(self, tokens: Sequence[int]) -> str | None:
        """Why the text ends with these tokens, if it does."""
        if self._stop.extend(tokens):
            return "stop"
        if self.statistics.emitted >= self._max_new:
            return "length"
        return "context" if self._committed > self._target.context_length else None

    def _tell(self, drafter: Drafter) -> None:
        """Commit to the drafter what it does not know of yet."""
        rows = self._rows
        hidden = (
            None
            if not rows
            else rows[0]
            if len(rows) == 1
            else array_module(rows[0]).concatenate(rows)
        )
        drafter.commit(hidden, self._text[self._told + 1 : self._committed])
        self._told, self._rows = self._committed - 1, []

    def _propose(self, drafter: Drafter, depth: int) -> Proposal:
        """At most `depth` drafts behind one another. Raises ValueError for a faulty drafter."""
        if self._plan.nodes:
            return Proposal(
                [],
                tree=drafter.draft_tree(
                    self._plan.nodes, depth, self._rule, self._plan.min_acceptance
                ),
            )
        proposed, scores = drafter.draft(depth, self._rule)
        drafts = proposed.tolist() if hasattr(proposed, "tolist") else list(proposed)
        if not drafts:
            return NOTHING
        vocabulary_size = self._target.vocabulary_size
        if len(drafts) > depth or min(drafts) < 0 or max(drafts) >= vocabulary_size:
            faulty = type(drafter).__name__
            raise ValueError(
                f"asked for {depth} drafts below {vocabulary_size}, {faulty} gave {drafts}"
            )
        kept = self._stop.find(drafts)
        if kept is not None:
            drafts, scores = drafts[:kept], None if scores is None else scores[:kept]
        self._text[self._committed : self._committed + len(drafts)] = drafts
        return Proposal(drafts, scores, ends=kept is not None)


def longest(prompt: np.ndarray, max_new_tokens: int, target: Target) -> int:
    """Tokens that the text can have at the end: the last one needs no position, since it is not fed."""
    return min(len(prompt) + max_new_tokens, target.context_length + 1)
