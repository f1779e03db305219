"""Drafting with a model's own prediction heads (minimtp/model/heads/__init__.py), on raw arrays.

For m committed tokens t_0 .. t_{m-1} the trunk has fed rows 0 .. m-2, and t_{m-1} is pending. Head k at row i predicts
token i+1+k, so at the last row, i = m-2, heads 1, 2, ... predict exactly the tokens that a draft wants:

    d_k = token drawn from output(s_k[m-2])

What a head needs for that differs by kind:

    token-conditioned   [g; c] = W [norm(s_{k-1}); norm(e(t))],  t = t_{m-1}, d_1, d_2, ...
                        only the last hidden state; the part of the product that depends on the token alone is a table
                        lookup, so a drafted token costs one small product and the output
    parallel            s_k = Block_k(h), which attends to all rows: one cache a head, filled with committed rows only
    sequential          s_k[i] = Block_k([s_{k-1}[i]; e(t_{i+k})]): module k at row i reads k tokens ahead, so with m
                        tokens only its rows 0 .. m-1-k are known; the k-1 rows up to m-2 read drafted tokens and are
                        provisional

Provisional rows are run with the drafts, used, and dropped from the cache at once. The next call runs them again with
what was really committed, from the true states: keeping what the drafts made of them costs acceptance (vLLM #14649,
#33561). One batched pass a module does both, the true rows that are missing and the provisional ones.
"""

from copy import copy
from typing import Any

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.cache import KeyValueCache
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.drafters.tree_growth import WIDTH, depth_first, grow
from minimtp.decode.rules.trees import Tree
from minimtp.decode.rules.verify import Rule
from minimtp.decode.runtime import BlockWeights, ModelRunner, prepare_product
from minimtp.model.heads import (
    Heads,
    ParallelHead,
    ParallelHeads,
    SequentialHead,
    SequentialHeads,
    TokenConditionedHeads,
)

TABLE_SHARE = (
    0.1  # of a model's weights and cache: token parts that take less are computed once and kept
)


def head_drafter(heads: Heads, runtime: ModelRunner) -> Drafter:
    """The drafter for these heads on this trunk; both in full precision or converted to packed modules.

    Raises TypeError for a kind of heads that no drafter exists for, or that has to be converted first.
    """
    for kind, drafter in DRAFTERS.items():
        if isinstance(heads, kind):
            return drafter(heads, runtime)
    raise TypeError(f"no drafter for {type(heads).__name__}")


def _gather(
    tokens: list[Array], scores: list[np.ndarray | None]
) -> tuple[Array, np.ndarray | None]:
    """Draws made one at a time, as one array of tokens and one of scores."""
    return array_module(tokens[0]).concatenate(tokens), None if scores[
        0
    ] is None else np.concatenate(scores)


class TokenConditionedDrafter:
    """Drafts with the token-conditioned head: a recurrence that starts at the last committed hidden state.

    The one head serves every depth, so it may draft further than it was trained to, up to `max_depth`. It stops where it no
    longer believes in its draft: when the product of its largest probabilities falls below `least_confidence`. That is
    decided before the token is drawn, from what was drawn before it, so it does not touch the law of the text.
    """

    reads_hidden, stops_early = True, True
    max_depth = 15  # with the pending token, the 16 rows that the kernels verify best

    def __init__(
        self, heads: TokenConditionedHeads, runtime: ModelRunner, min_confidence: float = 0.0
    ) -> None:
        head, config = heads.head, runtime.config
        self.min_confidence = min_confidence
        self._xp, self._kernel = array_module(runtime.final_norm), runtime.kernel
        # Each half of the inputs is rounded by itself: with one scale a token, a little finer than both together in training.
        from_state = prepare_product(head.gate_candidate, self._kernel, 0, config.hidden_size)
        self._from_token = prepare_product(head.gate_candidate, self._kernel, config.hidden_size)
        self._token_norm, self._embed, self._epsilon = (
            head.token_norm.weight.data,
            runtime.embed,
            config.norm_eps,
        )
        self._step = self._kernel.prepare_gated_step(
            head.state_norm.weight.data,
            from_state,
            head.norm.weight.data,
            runtime.output,
            config.norm_eps,
        )
        self._token_parts = None  # for drafts in one call
        table_bytes = runtime.vocabulary_size * self._from_token.rows * runtime.final_norm.itemsize
        if table_bytes <= TABLE_SHARE * (runtime.weight_bytes + runtime.cache.nbytes):
            self._token_parts = self._token_part(
                self._xp.arange(runtime.vocabulary_size)
            )  # (V, 2D)
        elif runtime.table is not None:
            self._token_parts = self._kernel.prepare_token_parts(
                runtime.table, self._token_norm, self._from_token, self._epsilon
            )  # fmt: skip
        self._hidden: Array | None = None  # (1, D)
        self._pending = 0  # the token; on the host, where it is known anyway

    def clone(self) -> "TokenConditionedDrafter":
        return copy(self)  # what it knows of a text is replaced, never changed in place

    def reset(self, first_token: int) -> None:
        self._hidden = None

    def commit(self, hidden: Array, tokens: np.ndarray) -> None:
        self._hidden = hidden[-1:].copy()
        self._pending = int(tokens[-1])

    def draft(self, depth: int, rule: Rule) -> tuple[Array, np.ndarray | None]:
        guess = rule.guess(depth, self._xp) if self._token_parts is not None else None
        if guess is not None:
            arguments = self._hidden.copy(), self._pending, self._token_parts
            if guess.noise is None:
                return self._kernel.gated_greedy_draft(
                    *arguments, depth, self.min_confidence, self._step
                ), None
            settings = guess.noise, guess.temperature, self.min_confidence, self._step
            return self._kernel.gated_sampled_draft(*arguments, *settings), None
        state, token, tokens, scores, confidence = (
            self._hidden.copy(),
            self._pending_token(),
            [],
            [],
            1.0,
        )
        for index in range(depth):
            logits, largest_probability = self._kernel.gated_step(
                state, self._token_part(token), self._step
            )
            if self.min_confidence:
                confidence *= float(largest_probability)
                if confidence < self.min_confidence:
                    break
            token, score = rule.draw(logits, index)
            token = self._xp.asarray(token)  # stays on the device when it was drawn there
            tokens.append(token)
            scores.append(score)
        return _gather(tokens, scores) if tokens else ([], None)

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        guess = rule.guess(depth) if self._token_parts is not None else None
        if guess is not None:
            tokens, parents = self._kernel.gated_tree(
                self._hidden, self._pending, self._token_parts, (nodes, depth, WIDTH), min_acceptance, guess.sharpness,
                self._step, guess.noise, guess.temperature,
            )  # fmt: skip
            return depth_first(tokens.tolist(), parents.tolist())
        states = {-1: self._hidden}  # by node

        def follow(node: int, parent: int, path: list[int]) -> Array:
            states[node] = states[parent].copy()
            token = self._xp.asarray(path[-1:]) if path else self._pending_token()
            return self._kernel.gated_step(states[node], self._token_part(token), self._step)[0]

        return grow(self._pending, follow, rule, nodes, depth, min_acceptance)

    def _pending_token(self) -> Array:
        return self._xp.full(1, self._pending, np.int64)

    def _token_part(self, tokens: Array) -> Array:
        """(R,) tokens -> (R, 2D): their share of gate and candidate, which no state enters."""
        if (
            isinstance(self._token_parts, np.ndarray) and tokens.shape[0] == 1
        ):  # a view costs a tenth of a lookup
            return self._token_parts[int(tokens[0]) : int(tokens[0]) + 1]
        if self._token_parts is not None:
            return self._token_parts[tokens]
        normed, _ = self._kernel.rms_norm(self._embed(tokens), self._token_norm, self._epsilon)
        return self._kernel.linear(normed, self._from_token)


class BlockHead:
    """A head with a transformer block: its weights, its cache, and the states of its rows."""

    def __init__(self, head: ParallelHead | SequentialHead, runtime: ModelRunner) -> None:
        self._runtime, self._shape = runtime, runtime.config
        self._kernel = runtime.kernel
        self._block, self._norm = (
            BlockWeights(head.block, runtime.config, self._kernel),
            head.norm.weight.data,
        )
        xp, dtype = array_module(runtime.final_norm), runtime.final_norm.dtype
        self.cache = KeyValueCache(
            1, runtime.context_length, self._shape.num_kv_heads, self._shape.head_dim, dtype, xp
        )
        self.states = xp.empty((runtime.context_length, self._shape.hidden_size), dtype)

    def clone(self) -> "BlockHead":
        """Another one with these weights and rows of its own."""
        other = copy(self)
        other.cache, other.states = (
            self.cache.clone(),
            array_module(self.states).empty_like(self.states),
        )
        return other

    def extend(self, x: Array) -> None:
        """Run (R, D) inputs of the block, the rows behind the cached ones, and keep their states; x is overwritten."""
        start, stop = self.cache.length, self.cache.length + len(x)
        cosine, sine = self._runtime.cosine[start:stop], self._runtime.sine[start:stop]
        self._block.forward(x, self.cache, 0, cosine, sine)
        self.cache.extend(len(x))
        self.states[start:stop], _ = self._kernel.rms_norm(x, self._norm, self._shape.norm_eps)


class SequentialStep(BlockHead):
    """A sequential module: joins the state before it and a token, then runs its block."""

    def __init__(self, head: SequentialHead, runtime: ModelRunner) -> None:
        super().__init__(head, runtime)
        self._state_norm, self._token_norm = (
            head.state_norm.weight.data,
            head.token_norm.weight.data,
        )
        self._join = prepare_product(head.join, self._kernel)

    def extend_from(self, states: Array, tokens: Array) -> None:
        """states (R, D) of the module before, tokens (R,) that this one reads beside them."""
        kernel, epsilon = self._kernel, self._shape.norm_eps
        if not len(tokens):
            return
        state, _ = kernel.rms_norm(states, self._state_norm, epsilon)
        token, _ = kernel.rms_norm(self._runtime.embed(tokens), self._token_norm, epsilon)
        self.extend(
            kernel.linear(array_module(state).concatenate([state, token], axis=1), self._join)
        )


class BlockHeadDrafter:
    """What parallel and sequential heads share: the committed text, its hidden states, and one block a head.

    Committed rows are only stored; the heads run when a draft is asked for, over all that they have not seen. A long
    stretch (the prompt) is run at once instead, so that its cost is not counted as drafting.
    """

    step: type[BlockHead] = BlockHead
    reads_hidden, stops_early, min_confidence = True, False, 0.0

    def __init__(self, heads: ParallelHeads | SequentialHeads, runtime: ModelRunner) -> None:
        self.max_depth = heads.depth
        self._xp, self._kernel = array_module(runtime.final_norm), runtime.kernel
        self._output = runtime.output
        context_length, width, dtype = (
            runtime.context_length,
            runtime.config.hidden_size,
            runtime.final_norm.dtype,
        )
        self._heads = [self.step(head, runtime) for head in heads.steps]
        self._hidden = self._xp.empty((context_length, width), dtype)
        self._tokens = self._xp.zeros(context_length + self.max_depth + 1, np.int64)
        self._rows = 0  # committed rows; with the pending token there is one token more

    def clone(self) -> "BlockHeadDrafter":
        other = copy(self)
        other._heads = [head.clone() for head in self._heads]
        other._hidden, other._tokens = (
            self._xp.empty_like(self._hidden),
            self._xp.zeros_like(self._tokens),
        )
        return other

    def reset(self, first_token: int) -> None:
        self._rows = 0
        self._tokens[0] = first_token
        for head in self._heads:
            head.cache.truncate(0)

    def commit(self, hidden: Array, tokens: np.ndarray) -> None:
        start, self._rows = self._rows, self._rows + len(tokens)
        self._hidden[start : self._rows] = hidden
        self._tokens[start + 1 : self._rows + 1] = self._xp.asarray(tokens)
        if len(tokens) > self.max_depth + 1:
            self._catch_up()

    def _catch_up(self) -> None:
        """Run every head over the committed rows it has not seen."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its heads catch up")


class ParallelDrafter(BlockHeadDrafter):
    """Drafts with parallel heads: all at once, none knowing what the others say."""

    def _catch_up(self) -> None:
        for head in self._heads:
            if head.cache.length < self._rows:
                head.extend(self._hidden[head.cache.length : self._rows].copy())

    def _logits(self, depth: int) -> Array:
        """(K, V): what the first `depth` heads say of the tokens that follow the pending one."""
        self._catch_up()
        last = self._rows - 1
        states = self._xp.concatenate(
            [head.states[last : last + 1] for head in self._heads[:depth]]
        )  # (K, D)
        return self._kernel.linear(states, self._output)

    def draft(self, depth: int, rule: Rule) -> tuple[Array, np.ndarray | None]:
        return rule.draw(self._logits(depth), 0)

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        logits = self._logits(depth)

        def follow(node: int, parent: int, path: list[int]) -> Array:
            return logits[len(path) : len(path) + 1]

        return grow(int(self._tokens[self._rows]), follow, rule, nodes, depth, min_acceptance)


class SequentialDrafter(BlockHeadDrafter):
    """Drafts with sequential modules: each reads the draft before it, provisional rows included."""

    step = SequentialStep

    def _run(self, index: int, stop: int) -> SequentialStep:
        """Module k = index + 1 up to row `stop`, from the states of the one before it (the trunk's for the first)."""
        module = self._heads[index]
        rows = slice(module.cache.length, max(stop, module.cache.length))
        states = self._heads[index - 1].states if index else self._hidden
        module.extend_from(
            states[rows], self._tokens[rows.start + index + 1 : rows.stop + index + 1]
        )
        return module

    def _catch_up(self) -> None:
        for index in range(self.max_depth):
            self._run(index, self._rows - index)

    def draft(self, depth: int, rule: Rule) -> tuple[Array, np.ndarray | None]:
        rows, tokens, scores = self._rows, [], []
        for index in range(depth):
            module = self._run(index, rows)
            token, score = rule.draw(
                self._kernel.linear(module.states[rows - 1 : rows], self._output), index
            )
            self._tokens[rows + index + 1] = self._xp.asarray(token)[0]
            tokens.append(token)
            scores.append(score)
            # Rows from here on read tokens that are only drafted.
            module.cache.truncate(max(rows - index, 0))
        return _gather(tokens, scores)

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        rows = self._rows

        def follow(node: int, parent: int, path: list[int]) -> Array:
            """The states of the modules before belong to another path, so all of them run again."""
            self._tokens[rows + 1 : rows + 1 + len(path)] = self._xp.asarray(path)
            for index in range(len(path) + 1):
                module = self._run(index, rows)
                state = module.states[rows - 1 : rows]
                module.cache.truncate(max(rows - index, 0))
            return self._kernel.linear(state, self._output)

        return grow(int(self._tokens[rows]), follow, rule, nodes, depth, min_acceptance)


DRAFTERS: dict[type[Heads], Any] = {
    TokenConditionedHeads: TokenConditionedDrafter,
    ParallelHeads: ParallelDrafter,
    SequentialHeads: SequentialDrafter,
}
