"""One round of speculative decoding: draft, verify, truncate, commit.

A language model (the *target*) generates one token per forward pass. Speculative decoding lets a
cheap *drafter* propose the next few tokens. The target then verifies all of them in one forward
pass, which takes less time than one pass per token. A verification *rule* keeps the output exactly
the target's own, however poor the drafts are.

**Invariant.** Between rounds, for m committed tokens, the target's cache holds exactly m - 1 rows:
one for every token but the last. That last token is *pending*: it belongs to the text, but the
target has not seen it yet.

    draft      The drafter proposes K <= depth tokens d_1 .. d_K.
    verify     One forward pass over [pending, d_1 .. d_K] gives K + 1 rows of logits. Row j
               predicts the token after d_j. The rule accepts the first a drafts and samples the
               token that follows them.
    truncate   The pass added K + 1 cache rows. Keep those of pending, d_1 .. d_a: m + a rows, for
               m + a + 1 committed tokens.
    commit     The drafter receives the a + 1 new tokens and the hidden states that predicted them.

With K = 0 the same lines are plain decoding. The prompt is fed by `prefill`, which also samples
the first new token.

Source: Leviathan et al. 2023 (2211.17192), algorithm 1; Chen et al. 2023 (2302.01318), algorithm 2.
"""

from typing import NamedTuple

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.rules.rule import Rule
from minimtp.decode.rules.tree import Tree
from minimtp.decode.target import Target


class Round(NamedTuple):
    """The result of one round."""

    position: int  # position of its first committed token in the text
    drafts: list[int]  # d_1 .. d_K; of a tree, the accepted path and its best continuation
    accepted: int  # a
    tokens: list[int]  # committed: the accepted drafts and the token that follows them
    tree: Tree | None = None  # the drafts, if they were a tree (tree_round.py)


def prefill(tokens: list[int], target: Target, drafter: Drafter, rule: Rule) -> Round:
    """Reset target and drafter, feed the prompt `tokens`, and append the first new token."""
    target.truncate(0)
    drafter.reset(tokens[0])
    prompt, hidden = np.array(tokens), []
    for start in range(0, len(prompt), target.max_rows):
        step = target.forward(prompt[start : start + target.max_rows])
        hidden.append(step.hidden)
    _, token = rule.verify(step.logits[-1:], [], None)
    tokens.append(token)
    drafter.commit(array_module(*hidden).concatenate(hidden), np.array(tokens[1:]))
    return Round(len(prompt), [], 0, [token])


def speculative_round(
    tokens: list[int], target: Target, drafter: Drafter, rule: Rule, depth: int
) -> Round:
    """Draft at most `depth` tokens, and append 1 to depth + 1 tokens to the committed `tokens`."""
    position = len(tokens)
    # Draft.
    drafts, scores = drafter.draft(depth, rule)  # scores (K, V)
    # Verify.
    step = target.forward(np.array([tokens[-1], *drafts]))  # logits (K + 1, V), hidden (K + 1, W)
    accepted, token = rule.verify(step.logits, drafts, scores)
    # Truncate.
    target.truncate(position + accepted)
    # Commit.
    committed = [*drafts[:accepted], token]
    tokens += committed
    drafter.commit(step.hidden[: accepted + 1], np.array(committed))
    return Round(position, drafts, accepted, committed)
