"""Wrong rules for trees; see chains.py.

The root of FORM has two children, and the first of them has two children.
"""

import numpy as np

from minimtp.decode.rules.block import traversal
from minimtp.decode.rules.residual import residual_distribution
from minimtp.decode.rules.token import recursive_rejection
from minimtp.decode.rules.tree import Tree
from tests.decode.rules.rule_properties import most_probable, one_draft, tree_round
from tests.rule_mutants import with_names

FORM = [0, 1, 2, 2, 1]


def samples_without_replacement_are_treated_as_with_it(p, q):
    """q is not renormalized after a rejection."""
    return tree_round(with_names(recursive_rejection, without_token=lambda q, token: q), p, q, FORM)


def traversal_treats_samples_without_replacement_as_with_it(p, q):
    return tree_round(with_names(traversal, without_token=lambda q, token: q), p, q, FORM)


def children_sampled_with_replacement_are_declared_distinct(p, q):
    """q loses a rejected token, although the next child could have been the same token."""

    def rule(p, q, tree, rng):
        distinct = all(
            len({tree.tokens[row] for row in rows}) == len(rows) for rows in tree.children
        )
        return recursive_rejection(p, q, tree, rng) if distinct else ([], rng.choose(p[0]))

    return tree_round(rule, p, q, FORM, one_draft)


def the_most_probable_children_are_declared_samples(p, q):
    """The children are the top k, but they are verified with the q of a sample."""
    return tree_round(recursive_rejection, p, q, FORM, most_probable)


def the_second_child_is_verified_with_the_first_childs_target(p, q):
    """p is not replaced by its residual after a rejection."""
    return tree_round(
        with_names(recursive_rejection, residual_distribution=lambda p, q: p), p, q, FORM
    )


def the_weight_of_a_row_survives_the_rejection_of_its_children(p, q):
    return tree_round(
        with_names(traversal, block_acceptance=lambda p, q, weight: weight), p, q, FORM
    )


def the_residual_of_a_row_has_no_weight(p, q):
    return tree_round(
        with_names(
            traversal, residual_distribution=lambda p, q, weight: residual_distribution(p, q)
        ),
        p,
        q,
        FORM,
    )


def the_rows_of_p_are_in_breadth_first_order(p, q):
    """The target's rows were computed in another order than the tree's."""

    def rule(p, q, tree, rng):
        order = np.argsort(tree.depths, kind="stable")
        return recursive_rejection(p[order], q, tree, rng)

    return tree_round(rule, p, q, FORM)


def a_sampled_child_that_looks_unlikely_is_left_out(p, q):
    """The tree is cut to its best tokens after sampling."""

    def rule(p, q, tree, rng):
        kept = {0}
        for row in range(1, len(tree.tokens)):
            if tree.parents[row] in kept and q[tree.parents[row], tree.tokens[row]] >= 0.3:
                kept.add(row)
        rows = sorted(kept)
        cut = Tree([tree.tokens[row] for row in rows], [tree.depths[row] for row in rows])
        path, token = recursive_rejection(p[rows], q[rows], cut, rng)
        return [rows[row] for row in path], token

    return tree_round(rule, p, q, FORM)


def the_longest_of_several_verified_paths_is_taken(p, q):
    """Every root-to-leaf path is verified as a chain, and the longest result is kept."""

    def rule(p, q, tree, rng):
        results = []
        for leaf in [row for row, rows in enumerate(tree.children) if not rows]:
            path = tree.path_to(leaf)
            chain = Tree([0, *(tree.tokens[row] for row in path)], list(range(len(path) + 1)))
            rows, token = recursive_rejection(p[[0, *path]], q[[0, *path]], chain, rng)
            results.append(([path[row - 1] for row in rows], token))
        return max(results, key=lambda result: len(result[0]))

    return tree_round(rule, p, q, [0, 1, 2, 1], one_draft)
