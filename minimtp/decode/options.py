"""Validate the options and start a generation."""

from collections.abc import Iterable, Sequence

from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter, TreeDrafter
from minimtp.decode.generation import Generation, Limits, max_length
from minimtp.decode.logits_processors import LogitsProcessor, ProcessedRule
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.rules.registry import make_rule
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.decode.stopping import DecodeBytes, Stop
from minimtp.decode.target import Target
from minimtp.errors import UserError


def start_generation(
    target: Target,
    drafter: Drafter | None,
    prompt: Iterable[int],
    *,
    max_new_tokens: int,
    sampling: SamplingParams = GREEDY,
    seed: int = 0,
    rule: str = "shared-noise",
    draft_depth: int | None = None,
    tree: int = 0,
    policy: DraftPolicy | None = None,
    stop_tokens: Iterable[int] = (),
    stop_strings: Iterable[str | bytes] = (),
    decode_bytes: DecodeBytes | None = None,
    spell: DecodeBytes | None = None,
    logits_processors: Sequence[LogitsProcessor] = (),
) -> Generation:
    """Validate the options, and start continuing `prompt` by at most `max_new_tokens` tokens.

    The output is the target's own. The drafter only makes it faster. When the first token is
    requested, the target's cache is cleared and the computation starts.

    prompt: token ids, 1 to context_length of them.
    rule: the verification rule for sampled drafts, a name of RULES.
    draft_depth: the maximum number of drafts in a row. None: the maximum of the drafter. 0: plain
    decoding.
    tree: the maximum number of drafts per round as a tree, at most `draft_depth` deep; 0: chains.
    policy: chooses the draft depth of each round (default: always the maximum).
    stop_tokens, stop_strings: end the text (stopping.py); strings need `decode_bytes`, and `spell`
    if they may be names of special tokens.
    logits_processors: change the logits depending on the text so far (logits_processors.py).

    Raises UserError if the prompt, an option or a combination of options cannot be used.
    """
    tokens = _checked_prompt(prompt, target)
    if not (_is_integer(max_new_tokens) and max_new_tokens >= 1):
        raise UserError(
            f"the number of new tokens must be a whole number of at least 1, not {max_new_tokens!r}"
        )
    require_seed(seed)
    depth = _checked_depth(draft_depth, drafter)
    require_tree(tree, target)
    if tree and depth and not isinstance(drafter, TreeDrafter):
        raise UserError(f"a {type(drafter).__name__} drafts chains only: leave the tree out")
    verification = make_rule(rule, sampling, seed, target.vocabulary_size, len(tokens))
    if logits_processors:
        longest = max_length(len(tokens), max_new_tokens, target)
        verification = ProcessedRule(verification, logits_processors, tokens, longest)
    stop = Stop(stop_tokens, stop_strings, decode_bytes, spell)
    limits = Limits(max_new_tokens, depth, tree, stop)
    return Generation(target, drafter if depth else None, tokens, verification, limits, policy)


def require_seed(seed: int) -> None:
    """Raise UserError unless `seed` is a whole number from 0 to 2^64 - 1."""
    if not (_is_integer(seed) and 0 <= seed < 2**64):
        raise UserError(f"a seed must be a whole number from 0 to 2^64 - 1, not {seed!r}")


def require_tree(tree: int, target: Target) -> None:
    """Raise UserError unless `tree` is a number of drafts that fits the model's context."""
    if not (_is_integer(tree) and tree >= 0):
        raise UserError(
            "the number of drafts in a tree must be a whole number of at least 0 "
            f"(0 drafts a chain), not {tree!r}"
        )
    if tree > target.context_length:
        raise UserError(
            f"a tree of {tree} drafts is larger than the model's context: "
            f"use at most {target.context_length} drafts"
        )


def _checked_depth(draft_depth: int | None, drafter: Drafter | None) -> int:
    deepest = 0 if drafter is None else drafter.max_depth
    if draft_depth is None:
        return deepest
    if _is_integer(draft_depth) and 0 <= draft_depth <= deepest:
        return draft_depth
    if drafter is None:
        reason = "there is no drafter: leave it out, or choose a drafter"
    else:
        reason = (
            f"this drafter drafts at most {deepest} tokens, use a whole number from 0 to {deepest}"
        )
    raise UserError(f"draft depth {draft_depth!r} is not possible: {reason}")


def _checked_prompt(prompt: Iterable[int], target: Target) -> np.ndarray:
    """Return the prompt as (P,) int64."""
    tokens = np.asarray(prompt if isinstance(prompt, np.ndarray) else list(prompt))
    if tokens.size == 0:
        raise UserError("the prompt is empty: give at least one token to continue")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError("a prompt must be a sequence of token ids: encode text first")
    if len(tokens) > target.context_length:
        raise UserError(
            f"the prompt has {len(tokens)} tokens and the model's context is "
            f"{target.context_length}: shorten it"
        )
    outside = tokens[(tokens < 0) | (tokens >= target.vocabulary_size)]
    if outside.size:
        raise UserError(
            f"the prompt contains token {outside[0]}, but the model knows only 0 to "
            f"{target.vocabulary_size - 1}: encode the prompt with the model's own tokenizer"
        )
    return tokens.astype(np.int64)


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
