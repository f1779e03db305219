"""Drafting with the token-conditioned head: a recurrence that starts at the last committed hidden
state.
"""

from copy import copy

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.drafters.acceptance import SHARPNESS
from minimtp.decode.drafters.drafter import join_samples, of_all_tokens
from minimtp.decode.drafters.tree_growth import WIDTH, depth_first, grow
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.rules.rule import Rule, Scores, VocabularyScores
from minimtp.decode.rules.tree import Tree
from minimtp.kernels.plain.decoding.draft_chain import draft_chain
from minimtp.kernels.plain.decoding.gated_head import PreparedFeedForward
from minimtp.model.config import MAX_DRAFTS
from minimtp.model.heads import (
    LargerTokenConditionedHeads,
    TokenConditionedHeads,
    TokenConditionedHeadWithFeedForward,
)

# A table of token parts is kept in memory if its share of the model's weights and cache is smaller.
TABLE_SHARE = 0.1
LONG_TEXT = 2048  # positions; the memory of decoding is judged for a text of this length


class TokenConditionedDrafter:
    """Drafts with one head for every depth, so it may draft deeper than it was trained for, up to
    `max_depth`.

    A draft ends when the product of its maximum probabilities falls below `min_confidence`. That is
    decided before a token is sampled, from the tokens before it, so the output keeps the target's
    distribution.

    With a draft vocabulary, the rows of the output that belong to it are copied once, in the format
    in which they are stored. A few thousand rows are a few MB.
    """

    reads_hidden = True
    stops_early = True
    max_depth = MAX_DRAFTS
    min_confidence = 0.0

    def __init__(self, heads: TokenConditionedHeads, runner: ModelRunner) -> None:
        head, epsilon = heads.head, runner.config.norm_eps
        hidden_size = runner.config.hidden_size
        self._xp = array_module(runner.final_norm)
        self._kernel = runner.kernel
        # Each half of the inputs is rounded on its own. With one scale per token this is slightly
        # more precise than in training, where one scale serves both halves.
        from_state = head.gate_candidate.prepare(self._kernel, 0, hidden_size)
        self._from_token = head.gate_candidate.prepare(self._kernel, hidden_size)
        self._token_norm = head.token_norm.weight.data
        self._embed = runner.embed
        self._epsilon = epsilon
        norms = head.state_norm.weight.data, head.norm.weight.data
        output = runner.prepared(heads.draft_output(runner.output_matrix))
        ids = None if heads.draft_vocabulary is None else heads.draft_vocabulary.tokens
        self._ids = None if ids is None else self._xp.asarray(ids)  # (V',)
        self._host_ids = ids
        self._vocabulary_size = runner.vocabulary_size
        feed_forward = None
        if isinstance(head, TokenConditionedHeadWithFeedForward):
            feed_forward = PreparedFeedForward(
                head.feed_forward_norm.weight.data,
                head.feed_forward.gate_up.prepare(self._kernel),
                head.feed_forward.down.prepare(self._kernel),
            )
        self._step = self._kernel.prepare_gated_step(
            norms[0], from_state, norms[1], output, epsilon, ids, feed_forward
        )
        self._layer_norms, self._fc = [], None
        if isinstance(heads, LargerTokenConditionedHeads) and heads.fc is not None:
            self._layer_norms = [norm.weight.data for norm in heads.layer_norms]
            self._fc = heads.fc.prepare(self._kernel)
        self._token_parts = None  # see `_token_part`; needed to draft in one call
        table_bytes = runner.vocabulary_size * self._from_token.rows * runner.final_norm.itemsize
        cache_bytes = runner.cache_bytes(min(runner.context_length, LONG_TEXT))
        if table_bytes <= TABLE_SHARE * (runner.weight_bytes + cache_bytes):
            self._token_parts = self._token_part(self._xp.arange(runner.vocabulary_size))
        elif runner.table is not None:
            self._token_parts = self._kernel.prepare_token_parts(
                runner.table, self._token_norm, self._from_token, epsilon
            )
        self._hidden: Array | None = None  # (1, D), s_0 of the last committed row
        self._pending = 0  # the pending token

    def clone(self) -> "TokenConditionedDrafter":
        return copy(self)  # the state of a sequence is replaced, never changed in place

    def reset(self, first_token: int) -> None:
        self._hidden = None

    def commit(self, hidden: Array, tokens: np.ndarray) -> None:
        self._hidden = self._first_state(hidden[-1:])
        self._pending = int(tokens[-1])

    def _first_state(self, hidden: Array) -> Array:
        """hidden (1, W), the trunk's states of a row -> s_0 (1, D), a new array."""
        if self._fc is None:
            return hidden.copy()
        size, xp, parts = self._fc.rows, self._xp, [hidden[:, : self._fc.rows]]
        for number, norm in enumerate(self._layer_norms, start=1):
            part = xp.ascontiguousarray(hidden[:, number * size : (number + 1) * size])
            parts.append(self._kernel.rms_norm(part, norm, self._epsilon)[0])
        return self._kernel.linear(xp.concatenate(parts, axis=1), self._fc)

    def draft(self, depth: int, rule: Rule) -> tuple[Array, Scores | None]:
        if self._token_parts is not None:
            start = self._hidden, self._pending, self._token_parts, depth
            argmax = rule.perturbed_argmax(depth, self._xp)
            if argmax is not None:
                drafts = self._kernel.gated_draft(
                    *start, self.min_confidence, self._step, argmax.noise, *argmax.sampling.shaping
                )
                return drafts, None
            softmax = rule.softmax_points(depth)
            if softmax is not None:
                drafts, scores = self._kernel.gated_sampled_draft(
                    *start,
                    self.min_confidence,
                    self._step,
                    softmax.points,
                    *softmax.sampling.shaping,
                )
                ids = self._host_ids
                return drafts, scores if ids is None else VocabularyScores(scores, ids)
        state, samples = self._hidden.copy(), []

        def follow(token: Array) -> tuple[Array, Array]:
            return self._next_logits(state, token)

        def choose(logits: Array, index: int) -> Array:
            token, scores = rule.sample(logits, index)
            token = self._xp.asarray(token)  # stays on the GPU if it was sampled there
            samples.append((token, scores))
            return token

        draft_chain(follow, choose, self._pending_token(), depth, self.min_confidence)
        return join_samples(samples)

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        argmax = None if self._token_parts is None else rule.perturbed_argmax(depth)
        if argmax is not None:
            sizes, sharpness = (nodes, depth, WIDTH), SHARPNESS[rule.coupling]
            tokens, parents = self._kernel.gated_tree(
                self._hidden, self._pending, self._token_parts, sizes, min_acceptance, sharpness,
                self._step, argmax.noise, *argmax.sampling.shaping,
            )  # fmt: skip
            return depth_first(tokens.tolist(), parents.tolist())
        states = {-1: self._hidden}  # by node

        def follow(node: int, parent: int, path: list[int]) -> Array:
            states[node] = states[parent].copy()
            token = self._xp.asarray(path[-1:]) if path else self._pending_token()
            return self._next_logits(states[node], token)[0]

        return grow(self._pending, follow, rule, nodes, depth, min_acceptance)

    def _next_logits(self, state: Array, token: Array) -> tuple[Array, Array]:
        """Return the logits (1, V) of the token after `token` (1,), and their maximum probability.
        Changes the state (1, D) in place.
        """
        logits, probability = self._kernel.gated_step(state, self._token_part(token), self._step)
        return of_all_tokens(logits, self._ids, self._vocabulary_size), probability

    def _pending_token(self) -> Array:
        return self._xp.full(1, self._pending, np.int64)

    def _token_part(self, tokens: Array) -> Array:
        """Return the part (R, 2D) of gate and candidate that depends on the tokens (R,) alone."""
        if self._token_parts is not None:
            return self._token_parts[tokens]
        normed, _ = self._kernel.rms_norm(self._embed(tokens), self._token_norm, self._epsilon)
        return self._kernel.linear(normed, self._from_token)
