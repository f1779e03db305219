"""The decoding loop: one for plain and for speculative decoding, since plain decoding is drafting nothing.

A round, for m committed tokens of which the last is pending (chosen, not yet fed):

    draft     d_1 .. d_K from the drafter; how many are asked for, `lengths` decides anew every round (adaptive.py)
    verify    one pass of the target over [pending, d_1 .. d_K] gives K + 1 rows of logits; the rule accepts the first a
              drafts and draws the token that follows them: a + 1 tokens are committed at once
    truncate  the target's cache to its committed rows: m - 1 for the new m, always
    commit    the committed rows, with the tokens that follow them, go to the drafter; where it is not asked for a while, once
              for all of them

With a tree of drafts (trees.py) one pass goes over all of its rows, the rule returns a path, and the target keeps the rows of
that path: then everything is as if the path had been drafted as a chain.

The prompt is the first round: many pending tokens, no draft. K is clipped so that a round can neither pass `max_new`
nor feed a position the model does not have; K = 0 runs the same lines.

A text ends with a reason: "stop" (a stop token, or the one that completes a stop string, was emitted; it is the last token),
"length" (`max_new` tokens were emitted) or "context" (the model has no position left to feed the last token to), in this
order of precedence. A stop inside a draft ends the text exactly there: nothing is drafted behind it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple, Protocol

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.drafters import Drafter
from minimtp.decode.processors import Processed, Processor
from minimtp.decode.sampling import GREEDY, Law
from minimtp.decode.stopping import Stop
from minimtp.decode.trees import Tree
from minimtp.decode.verify import Rule, make_rule
from minimtp.errors import UserError


class Step(Protocol):
    """What one pass of a target returns: logits (T, V), and hidden (T, D) or None."""

    logits: object
    hidden: object


class Target(Protocol):
    """The model whose text is wanted. Arrays it is given are reused by the caller: it must not keep them."""

    vocabulary_size: int
    context_length: int
    length: int  # rows in its cache

    def forward(self, tokens: np.ndarray) -> Step:
        """Feed (T,) int64 tokens behind the cached rows; appends T rows to the cache. What it returns is not used again."""

    def truncate(self, length: int) -> None:
        """Forget the rows at and beyond `length`."""

    def twin(self) -> "Target":
        """The same model with an empty cache of its own, for another text."""

    def forward_tree(self, tokens: Sequence[int], depths: Sequence[int]) -> Step:
        """Feed the rows of a tree, in depth-first order; the cache stays as it is. For trees only, as is `keep`."""

    def keep(self, rows: Sequence[int]) -> None:
        """Append these rows of the tree that was fed last, a path that begins at its root."""


class Lengths(Protocol):
    """Who decides how many tokens a round drafts (adaptive.py). Without one it is always as many as possible."""

    listening: bool

    def choose(self, most: int, length: int) -> int:
        """How many tokens to ask the drafter for, 0 to `most`, with `length` rows in the target's cache."""

    def observe(self, asked: int, drafted: int, accepted: int, seconds_draft: float, seconds_verify: float) -> None:
        """What became of the last choice, if it was `listening`."""


class Round(NamedTuple):
    """What one pass of the target brought."""

    position: int  # of the first token emitted
    drafts: list[int]  # what was proposed for that position and the following ones; of a tree, one path
    accepted: int  # how many of the drafts stand
    tokens: list[int]  # emitted: the accepted drafts and, unless a drafted stop token ended the text, one token more
    tree: Tree | None = None  # what was proposed, where that was a tree


@dataclass
class Statistics:
    """Counts and seconds of one generation. The prompt's own pass is no step, though it emits the first token."""

    prompt_tokens: int = 0
    emitted: int = 0
    steps: int = 0  # passes of the target after the prompt's
    seconds_prompt: float = 0.0
    seconds_draft: float = 0.0  # in the drafter, its bookkeeping included
    seconds_verify: float = 0.0  # in the target and the rule
    drafts_of_length: list[int] = field(default_factory=list)  # steps that drafted exactly i tokens
    drafts_accepted: list[int] = field(default_factory=list)  # steps that accepted exactly i tokens

    @property
    def drafted(self) -> list[int]:
        """By depth: how often a first, second, ... token was drafted."""
        return _at_least(self.drafts_of_length)

    @property
    def accepted(self) -> list[int]:
        """By depth: how often the first, second, ... drafted token was accepted."""
        return _at_least(self.drafts_accepted)

    @property
    def tokens_per_step(self) -> float:
        """Tokens emitted by a verification step, 1 for plain decoding; 1 as well where there was no step."""
        return (self.emitted - 1) / self.steps if self.steps else 1.0

    @property
    def tokens_per_second(self) -> float:
        """Speed after the prompt, the reader's own time excluded; 0 where there was no step."""
        seconds = self.seconds_draft + self.seconds_verify
        return (self.emitted - 1) / seconds if self.steps and seconds > 0 else 0.0


def _at_least(exactly: Sequence[int]) -> list[int]:
    return [sum(exactly[depth:]) for depth in range(1, len(exactly))]


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
        max_new: int,
        draft_depth: int,
        stop: Stop,
        lengths: Lengths | None = None,
        tree_nodes: int = 0,
    ) -> None:
        self.reason: str | None = None
        self.tokens: list[int] = prompt.tolist()
        self.statistics = Statistics(
            prompt_tokens=len(prompt),
            drafts_of_length=[0] * (draft_depth + 1),
            drafts_accepted=[0] * (draft_depth + 1),
        )
        self._rounds = self._run(target, drafter, prompt, rule, max_new, draft_depth, stop, lengths, tree_nodes)
        self._stream = (token for round_ in self._rounds for token in round_.tokens)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return next(self._stream)

    def rounds(self) -> Iterator[Round]:
        """The rounds that are still to come."""
        return self._rounds

    def _run(
        self,
        target: Target,
        drafter: Drafter | None,
        prompt: np.ndarray,
        rule: Rule,
        max_new: int,
        draft_depth: int,
        stop: Stop,
        lengths: Lengths | None,
        tree_nodes: int,
    ) -> Iterator[Round]:
        statistics = self.statistics
        context, longest = target.context_length, _longest(prompt, max_new, target)
        # The committed tokens, then the drafts: what is fed, and what follows each row, are both views of it.
        text = np.empty(longest, np.int64)
        text[: len(prompt)] = prompt
        fed, committed = 0, len(prompt)
        told, rows = 0, []  # rows that the drafter knows of, and the hidden states of those behind them
        drafts: list[int] = []
        scores: np.ndarray | None = None
        tree: Tree | None = None
        asked, ends_with_draft, drafting = 0, False, 0.0
        target.truncate(0)
        if drafter is not None:
            drafter.reset(int(prompt[0]))
        while True:
            started = perf_counter()
            if tree is None:
                step = target.forward(text[fed : committed + len(drafts)])
                accepted, token = rule.verify(step.logits[committed - fed - 1 :], drafts, scores)
            else:
                step = target.forward_tree(tree.tokens, tree.depths)
                path, token = rule.verify_tree(step.logits, tree)
                drafts, accepted = tree.along(path), len(path)
                kept = stop.find(drafts[:accepted])
                if kept is not None:
                    drafts, accepted, ends_with_draft = drafts[:kept], kept, True
                text[committed : committed + accepted] = drafts[:accepted]
            tokens = drafts[:accepted]
            if not (ends_with_draft and accepted == len(drafts)):
                text[committed + accepted] = token
                tokens.append(token)
            position = committed
            committed += len(tokens)
            if tree is None:
                target.truncate(committed - 1)
                fresh = slice(committed - 1 - fed)
            else:
                fresh = [0, *path][: len(tokens)]
                target.keep(fresh)
            verified = perf_counter()
            self.tokens += tokens
            statistics.emitted += len(tokens)
            if position > len(prompt):
                statistics.steps += 1
                statistics.drafts_of_length[len(drafts)] += 1
                statistics.drafts_accepted[accepted] += 1
                statistics.seconds_verify += verified - started
                statistics.seconds_draft += drafting
                if lengths is not None and lengths.listening:
                    lengths.observe(asked, len(drafts), accepted, drafting, verified - started)
            if stop.extend(tokens):
                self.reason = "stop"
            elif statistics.emitted >= max_new:
                self.reason = "length"
            elif committed > context:
                self.reason = "context"
            asked = 0
            if self.reason is None:
                most = min(draft_depth, longest - committed - 1)
                asked = most if lengths is None else lengths.choose(most, committed - 1)
            if drafter is not None:
                if step.hidden is not None:
                    rows.append(step.hidden[fresh if tree is None else array_module(step.hidden).asarray(fresh)])
                if asked or lengths is None or told == 0:
                    drafter.commit(_joined(rows), text[told + 1 : committed])
                    told, rows = committed - 1, []
            fed = committed - 1
            committing = perf_counter() - verified  # what the next draft needs, and so a part of it
            if position == len(prompt):
                statistics.seconds_prompt, committing = perf_counter() - started, 0.0
            yield Round(position, drafts, accepted, tokens, tree)
            if self.reason is not None:
                return

            started = perf_counter()
            drafts, scores, tree, ends_with_draft = [], None, None, False
            if asked > 0 and tree_nodes:
                tree = drafter.draft_tree(tree_nodes, asked, rule)
            elif asked > 0:
                drafts, scores = self._draft(drafter, asked, rule, target.vocabulary_size)
                kept = stop.find(drafts)
                if kept is not None:
                    drafts, scores, ends_with_draft = drafts[:kept], None if scores is None else scores[:kept], True
                text[committed : committed + len(drafts)] = drafts
            drafting = committing + perf_counter() - started

    @staticmethod
    def _draft(
        drafter: Drafter, depth: int, rule: Rule, vocabulary_size: int
    ) -> tuple[list[int], np.ndarray | None]:
        """At most `depth` drafts and their scores. Raises ValueError for a faulty drafter."""
        proposed, scores = drafter.draft(depth, rule)
        drafts = proposed.tolist() if hasattr(proposed, "tolist") else list(proposed)
        if not drafts:
            return [], None
        if len(drafts) > depth or min(drafts) < 0 or max(drafts) >= vocabulary_size:
            faulty = type(drafter).__name__
            raise ValueError(f"asked for {depth} drafts below {vocabulary_size}, {faulty} gave {drafts}")
        return drafts, scores


def generate(
    target: Target,
    drafter: Drafter | None,
    prompt: Iterable[int],
    *,
    max_new: int,
    law: Law = GREEDY,
    seed: int = 0,
    draft_depth: int | None = None,
    lengths: Lengths | None = None,
    tree: int = 0,
    stop_tokens: Iterable[int] = (),
    stop_strings: Iterable[str | bytes] = (),
    decode_bytes: Callable[[Sequence[int]], bytes] | None = None,
    processors: Sequence[Processor] = (),
    rule: str = "shared-noise",
) -> Generation:
    """Continue `prompt` by at most `max_new` tokens, as `target` alone would, with `drafter` for speed.

    prompt: token ids, 1 to context_length of them. draft_depth: tokens drafted a round at most, None for as many as the
    drafter can, 0 for plain decoding; lengths: who chooses among those (None: always that many). tree: verify so many drafts a
    round, at most draft_depth behind one another, as a tree; 0 for a chain. rule: how sampled drafts are
    verified, a name of `verify.RULES`; by default one where the seed alone decides the text. stop_tokens and stop_strings end
    the text (stopping.py; strings need decode_bytes). processors: change the logits by what was said before (processors.py).
    The target's cache is cleared first.

    Raises UserError for a prompt, an option or a combination that cannot be used.
    """
    prompt = _checked_prompt(prompt, target)
    if not (_is_whole(max_new) and max_new >= 1):
        raise UserError(f"the number of new tokens must be a whole number of at least 1, not {max_new!r}")
    if not (_is_whole(seed) and 0 <= seed < 2**64):
        raise UserError(f"a seed must be a whole number from 0 to 2^64 - 1, not {seed!r}")
    most = 0 if drafter is None else drafter.max_depth
    if draft_depth is None:
        draft_depth = most
    if not (_is_whole(draft_depth) and 0 <= draft_depth <= most):
        has = "there is no drafter" if drafter is None else f"this drafter drafts at most {most} tokens"
        raise UserError(f"draft depth {draft_depth!r} is not possible: {has}, use a whole number from 0 to {most}")
    if not (_is_whole(tree) and tree >= 0):
        raise UserError(f"the drafts of a tree must be a whole number of at least 0 (0 drafts a chain), not {tree!r}")
    if tree and draft_depth and not hasattr(drafter, "draft_tree"):
        raise UserError(f"a {type(drafter).__name__} drafts chains only: leave the tree out")
    chosen = make_rule(rule, law, seed, target.vocabulary_size, len(prompt))
    if processors:
        chosen = Processed(chosen, processors, prompt, _longest(prompt, max_new, target))
    return Generation(
        target, drafter if draft_depth else None, prompt, chosen, max_new, draft_depth,
        Stop(stop_tokens, stop_strings, decode_bytes), lengths, tree,
    )  # fmt: skip


def _longest(prompt: np.ndarray, max_new: int, target: Target) -> int:
    """Tokens that the text can have at the end: the last one needs no position, since it is not fed."""
    return min(len(prompt) + max_new, target.context_length + 1)


def _joined(rows: list[object]) -> object | None:
    """Hidden states (R, D) that came in several arrays, as one; None where there are none."""
    if len(rows) < 2:
        return rows[0] if rows else None
    return array_module(rows[0]).concatenate(rows)


def _checked_prompt(prompt: Iterable[int], target: Target) -> np.ndarray:
    tokens = np.asarray(prompt if isinstance(prompt, np.ndarray) else list(prompt))
    if tokens.size == 0:
        raise UserError("the prompt is empty: give at least one token to continue")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError("a prompt must be a sequence of token ids; encode text first")
    if len(tokens) > target.context_length:
        raise UserError(
            f"the prompt has {len(tokens)} tokens and the model's context is {target.context_length}: shorten it"
        )
    outside = tokens[(tokens < 0) | (tokens >= target.vocabulary_size)]
    if outside.size:
        raise UserError(
            f"the prompt contains token {outside[0]}, the model knows 0 to {target.vocabulary_size - 1}: "
            "encode the prompt with the model's own tokenizer"
        )
    return tokens.astype(np.int64)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
