"""Validate the options and start a generation."""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from minimtp.arguments import (
    as_whole,
    check_fields,
    instance,
    one_of,
    optional,
    quoted,
    refuse,
    whole,
)
from minimtp.backend import is_array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter, TreeDrafter
from minimtp.decode.generation import Generation, Limits, max_length
from minimtp.decode.logits_processors import LogitsProcessor, ProcessedRule
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.rules.registry import RULES, make_rule
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.decode.stopping import DecodeBytes, Stop
from minimtp.decode.target import Target
from minimtp.errors import UserError

NEW_TOKENS = whole(1)
SEED = whole(0, 2**64 - 1)
SAMPLING = instance(SamplingParams, expected="SamplingParams")
RULE = one_of(*RULES)
TREE = whole(0, meaning="0 drafts chains")
TOKENS = "text, bytes or a list of token ids"


@dataclass(frozen=True)
class GenerationOptions:
    """How a text is generated, checked.

    rule: the verification rule for sampled drafts, a name of RULES.
    draft_depth: the maximum number of drafts in a row. None: the maximum of the drafter. 0: plain
    decoding.
    tree: the maximum number of drafts per round as a tree, at most `draft_depth` deep; 0: chains.
    stop_tokens, stop_strings: end the text (stopping.py); strings need `decode_bytes`, and `spell`
    if they may be names of special tokens.
    logits_processors: change the logits depending on the text so far (logits_processors.py).

    Raises UserError if an option cannot be used.
    """

    max_new_tokens: int
    sampling: SamplingParams = GREEDY
    seed: int = 0
    rule: str = "shared-noise"
    draft_depth: int | None = None
    tree: int = 0
    stop_tokens: Iterable[int] = ()
    stop_strings: Iterable[str | bytes] = ()
    decode_bytes: DecodeBytes | None = None
    spell: DecodeBytes | None = None
    logits_processors: Sequence[LogitsProcessor] = ()

    def __post_init__(self) -> None:
        check_fields(
            self,
            max_new_tokens=NEW_TOKENS,
            sampling=SAMPLING,
            seed=SEED,
            rule=RULE,
            draft_depth=optional(whole(0)),
            tree=TREE,
        )


def start_generation(
    target: Target,
    drafter: Drafter | None,
    prompt: Iterable[int],
    options: GenerationOptions,
    policy: DraftPolicy | None = None,
) -> Generation:
    """Start one text on a target and a drafter that no other text uses at the same time.

    policy: chooses the draft depth of each round (default: always the maximum). Otherwise as
    `start_text`.
    """
    return start_text(DecodingStates(target, drafter, lambda target: policy), prompt, options)


def start_text(
    states: DecodingStates, prompt: Iterable[int], options: GenerationOptions
) -> Generation:
    """Start continuing `prompt` by at most `max_new_tokens` tokens.

    The output is the target's own. The drafter only makes it faster. When the first token is
    requested, the text gets a cache and the computation starts.

    prompt: token ids, 1 to context_length of them.

    Raises UserError if the prompt or the combination of options cannot be used.
    """
    target, drafter = states.target, states.drafter
    tokens = checked_prompt(prompt, target)
    depth = _checked_depth(options.draft_depth, drafter)
    require_tree(options.tree, target)
    if options.tree and depth and not isinstance(drafter, TreeDrafter):
        raise UserError(f"a {type(drafter).__name__} drafts chains only: leave the tree out")
    rule = make_rule(
        options.rule, options.sampling, options.seed, target.vocabulary_size, len(tokens)
    )
    if options.logits_processors:
        longest = max_length(len(tokens), options.max_new_tokens, target)
        rule = ProcessedRule(rule, options.logits_processors, tokens, longest)
    stop = Stop(options.stop_tokens, options.stop_strings, options.decode_bytes, options.spell)
    limits = Limits(options.max_new_tokens, depth, options.tree, stop)
    return Generation(states, tokens, rule, limits)


def require_tree(tree: int, target: Target) -> None:
    """Raise UserError unless a tree of this many drafts fits the model's context."""
    if tree > target.context_length:
        raise UserError(
            f"a tree of {quoted(tree)} drafts is larger than the model's context: "
            f"use at most {target.context_length} drafts"
        )


def _checked_depth(draft_depth: int | None, drafter: Drafter | None) -> int:
    deepest = 0 if drafter is None else drafter.max_depth
    if draft_depth is None or draft_depth <= deepest:
        return deepest if draft_depth is None else draft_depth
    if drafter is None:
        reason = "there is no drafter: leave it out, or choose a drafter"
    else:
        reason = (
            f"this drafter drafts at most {deepest} tokens, use a whole number from 0 to {deepest}"
        )
    raise UserError(f"draft length {quoted(draft_depth)} is not possible: {reason}")


def checked_prompt(prompt: Iterable[int], target: Target) -> np.ndarray:
    """Return the prompt as (P,) int64. Raises UserError if the target cannot continue it."""
    tokens = known_tokens(prompt, target)
    if not len(tokens):
        raise UserError("the prompt is empty: give at least one token to continue")
    if len(tokens) > target.context_length:
        raise UserError(
            f"the prompt has {len(tokens)} tokens, but the context holds {target.context_length}: "
            "shorten it"
        )
    return tokens


def known_tokens(prompt: Iterable[int], target: Target) -> np.ndarray:
    """Return token ids as (P,) int64. Raises UserError if the target does not know one of them."""
    tokens = _whole_numbers(prompt)
    for token in tokens:
        if not 0 <= token < target.vocabulary_size:
            raise UserError(
                f"the prompt contains token {quoted(token)}, but the model knows only 0 to "
                f"{target.vocabulary_size - 1}: encode the prompt with the model's own tokenizer"
            )
    return np.array(tokens, np.int64)


def _whole_numbers(prompt: object) -> list[int]:
    """Return the token ids of an array, a list or another sequence of whole numbers."""
    if is_array(prompt):
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
            refuse("prompt", TOKENS, prompt)
        return to_numpy(prompt).tolist()
    if isinstance(prompt, str | Mapping | Set) or not isinstance(prompt, Collection):
        refuse("prompt", TOKENS, prompt)
    tokens = [as_whole(token) for token in prompt]
    if None in tokens:
        refuse("prompt", TOKENS, prompt)
    return tokens
