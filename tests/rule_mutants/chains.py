"""Wrong rules for chains. Each is a round of a decoder somebody could have written, and several were written.

A mutant is a function of a target's and a drafter's laws that returns a round, as `rule_laws.chain_round` does.
"""

import numpy as np

from minimtp.decode.rules.block import block_rule
from minimtp.decode.rules.matching import matching_rule
from minimtp.decode.rules.residual import one_hot, residual_distribution
from minimtp.decode.rules.token import token_rule
from tests.rule_mutants import with_names
from tests.rule_properties import chain_round, most_probable


def a_rejected_token_is_drawn_again_from_the_target(p, q):
    """The residual forgotten: tokens that drafts bring often come twice as often again."""
    return chain_round(
        with_names(token_rule, residual_distribution=lambda p, q, weight=1.0: p), p, q
    )


def the_residual_keeps_what_is_negative(p, q):
    """|p - q| for max(p - q, 0)."""

    def residual_distribution(p, q, weight=1.0):
        return np.abs(p - q) / np.abs(p - q).sum() if (p != q).any() else p

    return chain_round(with_names(token_rule, residual_distribution=residual_distribution), p, q)


def the_acceptance_forgets_what_was_drafted(p, q):
    """Accept with probability p(d), as if the draft were certain, and resample as if it were drawn."""
    return chain_round(with_names(token_rule, probability_ratio=lambda p, q, draft: p[draft]), p, q)


def a_draft_stands_where_the_target_likes_it_better(p, q):
    """Accept d exactly where p(d) >= q(d): no coin. Typical acceptance (Medusa) is wrong in the same way."""
    return chain_round(
        with_names(token_rule, probability_ratio=lambda p, q, draft: float(p[draft] >= q[draft])),
        p,
        q,
    )


def the_most_probable_token_is_said_to_be_drawn(p, q):
    """Argmax drafts verified with the soft law they came from (jaymody/speculative-sampling #3)."""
    return chain_round(token_rule, p, q, most_probable)


def a_certain_draft_can_be_drawn_again_after_it_was_rejected(p, q):
    """One-hot drafts, and the residual still holds the draft."""
    rule = with_names(token_rule, residual_distribution=lambda p, q, weight=1.0: p)
    return chain_round(rule, p, q, most_probable, lambda prefixes: None)


def the_drafts_laws_are_in_the_wrong_order(p, q):
    """q_j of another draft than the j-th."""

    def rule(p, q, drafts, rng):
        return token_rule(p, q[::-1], drafts, rng) if q.all() else (0, rng.choose(p[0]))

    return chain_round(rule, p, q)


def the_drafts_laws_are_those_of_another_temperature(p, q):
    """Drawn at temperature 1, divided by the law of temperature 2 (the temperature of one side was forgotten)."""

    def rule(p, q, drafts, rng):
        return token_rule(p, np.sqrt(q) / np.sqrt(q).sum(axis=1, keepdims=True), drafts, rng)

    return chain_round(rule, p, q)


def the_token_after_all_drafts_is_drawn_from_the_law_before_it(p, q):
    """p_{K-1} for p_K: the target's last row was not computed, or not used."""
    return chain_round(
        lambda p, q, drafts, rng: token_rule(p[[*range(len(drafts)), -2]], q, drafts, rng), p, q
    )


def a_drawn_draft_that_looks_unlikely_is_left_out(p, q):
    """Drafting stops before a token because the drafter, having drawn it, believes little in it."""

    def rule(p, q, drafts, rng):
        likely = next((j for j, draft in enumerate(drafts) if q[j, draft] < 0.3), len(drafts))
        return token_rule(p[: likely + 1], q[:likely], drafts[:likely], rng)

    return chain_round(rule, p, q)


def the_choice_that_differed_is_not_the_one_emitted(p, q):
    """Sample-and-match that draws once more where a draft was not matched."""

    def rule(p, q, drafts, rng):
        accepted, token = matching_rule(lambda j: rng.choose(p[j]), drafts)
        return accepted, token if accepted == len(drafts) else rng.choose(p[accepted])

    return chain_round(rule, p, q)


def blocks_end_at_the_first_that_fails(p, q):
    """The block rule with the token rule's loop, which a reviewer once asked for (vllm-ascend #11985)."""

    def rule(p, q, drafts, rng):
        failed = []

        class Once:
            choose = staticmethod(rng.choose)

            @staticmethod
            def happens(probability):
                if not failed and not rng.happens(probability):
                    failed.append(True)
                return not failed

        return block_rule(p, q, drafts, Once)

    return chain_round(rule, p, q)


def a_block_stands_with_its_weight(p, q):
    """pi_i for h_i before the last draft."""
    return chain_round(with_names(block_rule, block_acceptance=lambda p, q, weight: weight), p, q)


def the_residual_of_a_block_has_no_weight(p, q):
    """norm(max(p - q, 0)) for norm(max(pi p - q, 0))."""
    return chain_round(
        with_names(
            block_rule, residual_distribution=lambda p, q, weight=1.0: residual_distribution(p, q)
        ),
        p,
        q,
    )


def the_weight_of_a_block_may_exceed_one(p, q):
    """A plain product of ratios, without the minimum at every step."""
    return chain_round(with_names(block_rule, min=lambda bound, weight: weight), p, q)


def blocks_are_judged_token_by_token(p, q):
    """min(1, p / q) of the last token for the weight of the block (vllm-ascend #7807)."""

    def rule(p, q, drafts, rng):
        standing = [
            i for i, d in enumerate(drafts, start=1) if rng.happens(p[i - 1, d] / q[i - 1, d])
        ]
        accepted = max(standing, default=0)
        return accepted, rng.choose(
            p[accepted]
            if accepted == len(drafts)
            else residual_distribution(p[accepted], q[accepted])
        )

    return chain_round(rule, p, q)


def certain_drafts_with_a_law_that_is_not_theirs(p, q):
    """The most probable drafts under the block rule, with the one-hot law of other tokens mixed in."""

    def rule(p, q, drafts, rng):
        return block_rule(p, 0.5 * q + 0.5 * one_hot(drafts, p.shape[1]), drafts, rng)

    return chain_round(rule, p, q, most_probable)
