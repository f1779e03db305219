"""Drafting with parallel heads: all heads at once, each without knowing the other heads' drafts."""

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.drafters.heads.block_heads import BlockHeadDrafter
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.rules.rule import Rule
from minimtp.decode.rules.tree import Tree


class ParallelDrafter(BlockHeadDrafter):
    """Drafts one token per head, sampled independently from the heads' distributions."""

    def draft(self, depth: int, rule: Rule) -> tuple[Array, np.ndarray | None]:
        return rule.sample(self._logits(depth), 0)

    def draft_tree(self, nodes: int, depth: int, rule: Rule, min_acceptance: float) -> Tree:
        logits = self._logits(depth)

        def follow(node: int, parent: int, path: list[int]) -> Array:
            return logits[len(path) : len(path) + 1]

        return grow(int(self._tokens[self._rows]), follow, rule, nodes, depth, min_acceptance)

    def _catch_up(self) -> None:
        for head in self._heads:
            for rows in self._passes(head.cache.length, self._rows):
                head.extend(self._hidden[rows].copy())

    def _logits(self, depth: int) -> Array:
        """Return the logits (K, V) of the first `depth` heads, at the last committed row."""
        self._catch_up()
        last = self._rows - 1
        states = [head.states[last : last + 1] for head in self._heads[:depth]]
        return self._kernel.linear(self._xp.concatenate(states), self._output)
