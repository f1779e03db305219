"""Drafts in the form of a tree: drawn by the heads, judged by the model, and how many bytes a pass brings."""

from collections.abc import Sequence

from minimtp.backend import array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.sampling import Law, SeededDice
from minimtp.decode.trees import Tree
from minimtp.decode.verify import BlockRule, TokenRule
from minimtp.engine.tensor import Array, Tensor, no_grad
from minimtp.model.heads import MultiTokenModel

FORMS = {  # six drafts each: the depths of a walk through the tree
    "a chain": [0, 1, 2, 3, 4, 5, 6],
    "a chain and a leaf": [0, 1, 2, 3, 4, 5, 1],
    "two chains": [0, 1, 2, 3, 1, 2, 3],
}


def grow(model: MultiTokenModel, text: Array, form: Sequence[int], rule: TokenRule) -> Tree:
    """The tree that the heads draft behind (T,) tokens, level by level; the children of a row are different tokens."""
    plan, tokens, scores = Tree([0] * len(form), form), {0: int(text[-1])}, np.zeros((len(form), model.shape.vocabulary_size))
    states = {0: model.hidden(text[None, :-1])[:, -1:]}  # (1, 1, D), of the last token that was fed
    for depth in range(max(form)):
        rows = [row for row in tokens if form[row] == depth and plan.children[row]]
        for row in rows:
            token = array_module(text).full((1, 1), tokens[row], text.dtype)
            state = model.heads.head(states[row], model.trunk.embedding(token))
            logits = model.logits(model.heads.head.norm(state)).data[0]  # (1, V)
            (drawn,), scores[row : row + 1] = rule.draw_children(logits, depth, [len(plan.children[row])])
            for child, token in zip(plan.children[row], drawn, strict=True):
                tokens[child], states[child] = token, state
    return Tree([tokens[row] for row in range(len(form))], form, scores)


def judged(model: MultiTokenModel, text: Array, tree: Tree) -> Array:
    """The model's logits (N + 1, V) after every row of the tree: here each path is a text of its own, side by side."""
    xp = array_module(text)
    paths = xp.zeros((len(tree.tokens), len(text) + max(tree.depths)), text.dtype)
    paths[:, : len(text)] = text
    for row in range(len(tree.tokens)):
        above = row
        while above:
            paths[row, len(text) - 1 + tree.depths[above]] = tree.tokens[above]
            above = tree.parents[above]
    places = xp.asarray(tree.depths) + len(text) - 1
    hidden = model.hidden(paths).data[xp.arange(len(paths)), places]  # (N + 1, D)
    return model.logits(Tensor(hidden)).data


def tokens_per_pass(model: MultiTokenModel, texts: Array, form: Sequence[int]) -> str:
    """A line: what a pass over drafts of this form brings behind (P, T) texts at temperature 1, under both rules for trees."""
    brought = {"rejection": [], "traversal": []}
    with no_grad():
        for seed, text in enumerate(texts):
            tree = grow(model, text, form, TokenRule(Law(), SeededDice(seed)))
            logits = to_numpy(judged(model, text, tree))
            for name, kind in (("rejection", TokenRule), ("traversal", BlockRule)):
                path, _ = kind(Law(), SeededDice(seed + len(texts))).verify_tree(logits, tree)
                brought[name].append(len(path) + 1)
    return ", ".join(f"{np.mean(counts):.2f} tokens a pass by {name}" for name, counts in brought.items())
