"""The front door of decoding: options that can be used, or one sentence that says what is wrong with them."""

from collections.abc import Callable, Iterable, Sequence

from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.generation import Generation, Limits, max_length
from minimtp.decode.logits_processors import LogitsProcessor, ProcessedRule
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.rules.verify import make_rule
from minimtp.decode.sampling import GREEDY, SamplingParams
from minimtp.decode.stopping import Stop
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
    draft_depth: int | None = None,
    policy: DraftPolicy | None = None,
    tree: int = 0,
    stop_tokens: Iterable[int] = (),
    stop_strings: Iterable[str | bytes] = (),
    decode_bytes: Callable[[Sequence[int]], bytes] | None = None,
    logits_processors: Sequence[LogitsProcessor] = (),
    rule: str = "shared-noise",
) -> Generation:
    """Continue `prompt` by at most `max_new_tokens` tokens, as `target` alone would, with `drafter` for speed.

    prompt: token ids, 1 to context_length of them. draft_depth: tokens drafted a round at most, None for as many as the
    drafter can, 0 for plain decoding; policy: who chooses among those (None: always that many). tree: verify so many drafts a
    round, at most context_length and at most draft_depth behind one another, as a tree; 0 for a chain. rule: how sampled drafts
    are verified, a name of `verify.RULES`; by default one where the seed alone decides the text. stop_tokens and stop_strings
    end the text (stopping.py; strings need decode_bytes). processors: change the logits by what was said before
    (decode/logits_processors.py). The target's cache is cleared first.

    Raises UserError for a prompt, an option or a combination that cannot be used.
    """
    prompt = _checked_prompt(prompt, target)
    if not (_is_whole(max_new_tokens) and max_new_tokens >= 1):
        raise UserError(
            f"the number of new tokens must be a whole number of at least 1, not {max_new_tokens!r}"
        )
    require_seed(seed)
    most = 0 if drafter is None else drafter.max_depth
    if draft_depth is None:
        draft_depth = most
    if not (_is_whole(draft_depth) and 0 <= draft_depth <= most):
        has = (
            "there is no drafter"
            if drafter is None
            else f"this drafter drafts at most {most} tokens"
        )
        raise UserError(
            f"draft depth {draft_depth!r} is not possible: {has}, use a whole number from 0 to {most}"
        )
    require_tree(tree, target)
    if tree and draft_depth and not hasattr(drafter, "draft_tree"):
        raise UserError(f"a {type(drafter).__name__} drafts chains only: leave the tree out")
    chosen = make_rule(rule, sampling, seed, target.vocabulary_size, len(prompt))
    if logits_processors:
        chosen = ProcessedRule(
            chosen, logits_processors, prompt, max_length(len(prompt), max_new_tokens, target)
        )
    stop = Stop(stop_tokens, stop_strings, decode_bytes)
    limits = Limits(max_new_tokens, draft_depth, tree, stop)
    return Generation(target, drafter if draft_depth else None, prompt, chosen, limits, policy)


def require_seed(seed: int) -> None:
    """Raise UserError for a seed that cannot be used."""
    if not (_is_whole(seed) and 0 <= seed < 2**64):
        raise UserError(f"a seed must be a whole number from 0 to 2^64 - 1, not {seed!r}")


def require_tree(tree: int, target: Target) -> None:
    """Raise UserError unless `tree` is a number of drafts that room may be made for."""
    if not (_is_whole(tree) and tree >= 0):
        raise UserError(
            f"the drafts of a tree must be a whole number of at least 0 (0 drafts a chain), not {tree!r}"
        )
    if tree > target.context_length:
        raise UserError(
            f"a tree of {tree} drafts is larger than the model's context: use at most {target.context_length} drafts"
        )


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
