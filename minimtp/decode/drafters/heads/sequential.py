"""Drafting with sequential modules: each module reads the draft of the module before it.

The rows that read drafted tokens are provisional: they are run with the drafts, used, and
immediately dropped from the KV cache. The next call runs these rows again with the committed
tokens, from the true states. Keeping the provisional states lowers acceptance (vLLM #14649,
#33561). In each module, one batched pass computes the new committed rows and the provisional rows
together.
"""

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import join_samples
from minimtp.decode.drafters.heads.block_heads import BlockHead, BlockHeadDrafter
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.rules.rule import Rule
from minimtp.decode.rules.tree import Tree
from minimtp.model.heads import SequentialHead


class SequentialModule(BlockHead):
    """One module: joins the state of the module before it with a token's embedding, then runs its
    block.
    """

    def __init__(self, head: SequentialHead, runner: ModelRunner) -> None:
        super().__init__(head, runner)
        self._state_norm = head.state_norm.weight.data
        self._token_norm = head.token_norm.weight.data
        self._join = head.join.prepare(self._kernel)

    def extend_from(self, states: Array, tokens: Array) -> None:
        """Run the rows after the cached ones: states (R, D) of the module before, and the tokens
        (R,) to join them with.
        """
        kernel, epsilon = self._kernel, self._config.norm_eps
        state, _ = kernel.rms_norm(states, self._state_norm, epsilon)
        token, _ = kernel.rms_norm(self._runner.embed(tokens), self._token_norm, epsilon)
        joined = array_module(state).concatenate([state, token], axis=1)  # (R, 2D)
        self.extend(kernel.linear(joined, self._join))


class SequentialDrafter(BlockHeadDrafter):
    """Drafts one token after the other, with one module per token."""

    head_type = SequentialModule

    def draft(self, depth: int, rule: Rule) -> tuple[Array, np.ndarray | None]:
        rows, samples = self._rows, []
        for index in range(depth):
            token, scores = rule.sample(self._logits(index), index)
            self._tokens[rows + index + 1] = self._xp.asarray(token)[0]
            samples.append((token, scores))
        return join_samples(samples)

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        rows = self._rows

        def follow(node: int, parent: int, path: list[int]) -> Array:
            # The states of the earlier modules belong to another path, so all of them run again.
            self._tokens[rows + 1 : rows + 1 + len(path)] = self._xp.asarray(path)
            for index in range(len(path)):
                self._run_to_the_last_row(index)
            return self._logits(len(path))

        return grow(int(self._tokens[rows]), follow, rule, nodes, depth, min_acceptance)

    def _catch_up(self) -> None:
        for index in range(self.max_depth):
            self._run(index, self._rows - index)

    def _logits(self, index: int) -> Array:
        """Return the logits (1, V) of module `index` + 1 at the last committed row."""
        return self._kernel.linear(self._run_to_the_last_row(index), self._output)

    def _run_to_the_last_row(self, index: int) -> Array:
        """Run module `index` + 1 up to the last committed row, drop its provisional rows, return
        the last state (1, D).
        """
        module = self._run(index, self._rows)
        state = module.states[self._rows - 1 : self._rows]
        module.cache.truncate(max(self._rows - index, 0))
        return state

    def _run(self, index: int, stop: int) -> SequentialModule:
        """Run module `index` + 1 up to row `stop`, from the states of the module before it, or of
        the trunk for the first.
        """
        module = self._heads[index]
        states = self._heads[index - 1].states if index else self._hidden
        for rows in self._passes(module.cache.length, stop):
            tokens = self._tokens[rows.start + index + 1 : rows.stop + index + 1]
            module.extend_from(states[rows], tokens)
        return module
