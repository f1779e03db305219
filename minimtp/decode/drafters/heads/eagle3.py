"""Drafting with an EAGLE-3 head: one block that continues from the trunk's states.

Row i of the head reads g_i, which joins the inputs of three trunk layers at position i, and the
token i+1. For m committed tokens, rows 0 .. m-2 are known, and their keys and values are kept. The
state y of the last one predicts the first draft:

    row       reads                        predicts
    0..m-2    g_i and the token i+1        (only the last row's state is needed)
    m-2       g and the pending token      d_1
    m-1       y_{m-2} and d_1              d_2       provisional: dropped after the draft
    m         y_{m-1} and d_2              d_3       provisional

Provisional rows come from the head's own states. When their tokens are accepted, their rows are
computed again from the trunk's states, as in training (model/heads/eagle3.py).
"""

from copy import copy

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.cache import KeyValueCache, enlarged, room_for
from minimtp.decode.drafters.drafter import is_prompt, join_samples, of_all_tokens
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.rules.rule import PerturbedArgmax, Rule, Scores, VocabularyScores
from minimtp.decode.rules.tree import Tree
from minimtp.kernels.plain.cache import KEY_PANEL
from minimtp.kernels.plain.decoding.draft_chain import (
    draft_chain,
    max_probability,
    noise_of,
    sampled_chain,
    tokens_at,
)
from minimtp.model.config import MAX_DRAFTS
from minimtp.model.heads import Eagle3Heads


class Eagle3Runner:
    """The head ready to decode: its weights laid out for the kernels, and the cache of its rows."""

    def __init__(self, heads: Eagle3Heads, runner: ModelRunner) -> None:
        block, self._config = heads.block, heads.config
        self._runner, self._kernel = runner, runner.kernel
        prepare = [heads.fc, block.qkv, block.attention_output]
        prepare += [block.feed_forward.gate_up, block.feed_forward.down]
        self._fc, self._qkv, self._attention_output, self._gate_up, self._down = (
            matrix.prepare(self._kernel) for matrix in prepare
        )
        norms = block.token_norm, block.state_norm, block.feed_forward_norm, heads.norm
        self._token_norm, self._state_norm, self._feed_forward_norm, self._norm = (
            norm.weight.data for norm in norms
        )
        self._fc_norm = None if heads.fc_norm is None else heads.fc_norm.weight.data
        self._norm_before_residual, self._rotary = block.norm_before_residual, block.rotary
        self._output = runner.prepared(heads.draft_output(runner.output_matrix))
        # A draft may reach beyond the target's context by its own length.
        self._longest = runner.context_length + MAX_DRAFTS
        config, xp = self._config, array_module(self._norm)
        room = room_for(1, self._longest, xp)
        self.cache = KeyValueCache(
            1, room, config.num_kv_heads, config.head_dim, self._norm.dtype, xp
        )
        self._angles = self._rotary.tables(room, self._norm)  # cosine and sine, (room, C/2) each

    def clone(self) -> "Eagle3Runner":
        """Return a head with the same weights and its own empty cache.

        This one may grow meanwhile, in another thread. So only the copy is read, and `_make_room`
        replaces the cache last.
        """
        other = copy(self)
        other.cache = other.cache.clone()
        return other

    def fuse(self, hidden: Array) -> Array:
        """hidden (R, W), the trunk's states -> g (R, D)."""
        features = array_module(hidden).ascontiguousarray(hidden[:, self._config.hidden_size :])
        if self._fc_norm is not None:
            features, _ = self._kernel.rms_norm(features, self._fc_norm, self._config.norm_eps)
        return self._kernel.linear(features, self._fc)

    def extend(self, states: Array, tokens: Array) -> Array:
        """Add rows that read states (R, D) and the tokens after them (R,). Return the state y (1,
        D) of the last row.
        """
        kernel, config = self._kernel, self._config
        xp, rows = array_module(states), len(tokens)
        start = self.cache.length
        self._make_room(start + rows)
        normed, _ = kernel.rms_norm(states, self._state_norm, config.norm_eps)
        embedded, _ = kernel.rms_norm(self._runner.embed(tokens), self._token_norm, config.norm_eps)
        joined = kernel.linear(xp.concatenate([embedded, normed], axis=1), self._qkv)
        joined = joined.reshape(1, rows, -1, config.head_dim)  # (1, R, H+2G, C)
        turned = joined[:, :, : config.num_heads + config.num_kv_heads]
        cosine, sine = (table[start : start + rows] for table in self._angles)
        rotated = kernel.rotate(turned, cosine, sine)[0]  # (R, H+G, C)
        keys, values = self.cache.write(
            0, rotated[:, config.num_heads :], joined[0, :, turned.shape[2] :]
        )
        self.cache.extend(rows)
        queries = xp.ascontiguousarray(rotated[-1:, : config.num_heads])
        attended = kernel.cached_attention(
            queries, keys, values, start + rows - 1, config.head_dim**-0.5
        )
        x = (normed if self._norm_before_residual else states)[-1:].copy()  # (1, D)
        x += kernel.linear(attended.reshape(1, -1), self._attention_output)
        normed, _ = kernel.rms_norm(x, self._feed_forward_norm, config.norm_eps)
        x += kernel.linear(kernel.swiglu(kernel.linear(normed, self._gate_up)), self._down)
        return x

    def logits(self, state: Array) -> Array:
        """y (1, D) -> the logits (1, V') of the tokens that may be drafted."""
        normed, _ = self._kernel.rms_norm(state, self._norm, self._config.norm_eps)
        return self._kernel.linear(normed, self._output)

    def last_row(self) -> tuple[Array, Array]:
        """Return copies of the key and the value (G, C) of the last row."""
        keys, values = self.cache.layer(0)
        position = self.cache.length - 1
        panel, place = divmod(position, KEY_PANEL)
        return keys[:, panel, :, place].copy(), values[position].copy()

    def add_row(self, key: Array, value: Array) -> None:
        """Add a row that `last_row` returned."""
        self.cache.write(0, key[None], value[None])
        self.cache.extend(1)

    def _make_room(self, rows: int) -> None:
        xp = array_module(self._norm)
        if rows > self.cache.context_length:
            room = room_for(rows, self._longest, xp)
            self._angles = self._rotary.tables(room, self._norm)
            self.cache = enlarged(self.cache, room)


class Eagle3Drafter:
    """Drafts with one head for every depth, so it may draft deeper than it was trained for, up to
    `max_depth`.

    A draft ends when the product of its maximum probabilities falls below `min_confidence`. That is
    decided before a token is sampled, from the tokens before it, so the output keeps the target's
    distribution.
    """

    reads_hidden = True
    stops_early = True
    max_depth = MAX_DRAFTS
    min_confidence = 0.0

    def __init__(self, heads: Eagle3Heads, runner: ModelRunner) -> None:
        self._head = Eagle3Runner(heads, runner)
        self._xp = array_module(runner.final_norm)
        ids = None if heads.draft_vocabulary is None else heads.draft_vocabulary.tokens
        self._ids = None if ids is None else self._xp.asarray(ids)  # (V',)
        self._host_ids = ids
        self._vocabulary_size = runner.vocabulary_size
        self._rows = self._pending = 0  # committed rows that the head has, and the pending token
        self._state: Array | None = None  # y (1, D) of the last of them
        self._waiting: list[tuple[Array, np.ndarray]] = []  # committed rows that it does not have

    def clone(self) -> "Eagle3Drafter":
        other = copy(self)
        other._head, other._waiting = self._head.clone(), []
        return other

    def reset(self, first_token: int) -> None:
        self._head.cache.truncate(0)
        self._rows, self._state, self._waiting = 0, None, []

    def commit(self, hidden: Array, tokens: np.ndarray) -> None:
        self._waiting.append((hidden.copy(), tokens.copy()))
        self._pending = int(tokens[-1])
        if is_prompt(tokens, self.max_depth):
            self._catch_up()

    def draft(self, depth: int, rule: Rule) -> tuple[Array, Scores | None]:
        self._catch_up()
        argmax, softmax = rule.perturbed_argmax(depth, self._xp), rule.softmax_points(depth)
        state: Array | None = None
        samples: list[tuple[Array, np.ndarray | None]] = []

        def follow(token: Array) -> tuple[Array, Array]:
            nonlocal state
            # The row of the pending token is there already.
            state = self._state if state is None else self._head.extend(state, token)
            logits = self._head.logits(state)
            return logits, max_probability(logits)

        def choose(logits: Array, index: int) -> Array:
            if argmax is not None:
                samples.append((self._highest(logits, argmax, index), None))
            else:
                token, scores = rule.sample(
                    of_all_tokens(logits, self._ids, self._vocabulary_size), index
                )
                samples.append((self._xp.asarray(token), scores))
            return samples[-1][0]

        try:
            if argmax is None and softmax is not None:
                drafts, scores = sampled_chain(
                    follow, self._state, self._pending, depth, self.min_confidence, softmax.points,
                    softmax.sampling.shaping, self._ids,
                )  # fmt: skip
                ids = self._host_ids
                return drafts, scores if ids is None else VocabularyScores(scores, ids)
            pending = self._xp.full(1, self._pending, np.int64)
            draft_chain(follow, choose, pending, depth, self.min_confidence)
            return join_samples(samples)
        finally:
            self._head.cache.truncate(self._rows)

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        self._catch_up()
        head = self._head
        # By node: its state, and the keys and values of its drafted tokens, its own the last.
        states: dict[int, Array] = {}
        paths: dict[int, list[tuple[Array, Array]]] = {}

        def follow(node: int, parent: int, path: list[int]) -> Array:
            if not path:
                states[node], paths[node] = self._state, []
            else:
                head.cache.truncate(self._rows)
                for key, value in paths[parent]:
                    head.add_row(key, value)
                states[node] = head.extend(states[parent], self._xp.asarray(path[-1:]))
                paths[node] = [*paths[parent], head.last_row()]
            return of_all_tokens(head.logits(states[node]), self._ids, self._vocabulary_size)

        tree = grow(self._pending, follow, rule, nodes, depth, min_acceptance)
        head.cache.truncate(self._rows)
        return tree

    def _catch_up(self) -> None:
        """Give the head the committed rows that it does not have."""
        for hidden, tokens in self._waiting:
            for start in range(0, len(tokens), self.max_depth + 1):
                part = slice(start, start + self.max_depth + 1)
                token_part = self._xp.asarray(tokens[part])
                self._state = self._head.extend(self._head.fuse(hidden[part]), token_part)
            self._rows += len(tokens)
        self._waiting = []

    def _highest(self, logits: Array, argmax: PerturbedArgmax, index: int) -> Array:
        """Return the token (1,) of the highest logit (1, V'), with the noise of a draft."""
        if argmax.noise is not None:
            noise = noise_of(self._ids, argmax.noise[index : index + 1])
            logits = argmax.sampling.scores(logits) + noise
        return tokens_at(self._ids, logits.argmax(axis=-1))
