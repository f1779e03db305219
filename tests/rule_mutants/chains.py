"""Wrong rules for chains. Several were written in real projects.

A mutant is a function of p and q that returns a round, as `rule_properties.chain_round` does.
"""

import numpy as np

from minimtp.decode.rules.block import block_rule
from minimtp.decode.rules.matching import matching_rule
from minimtp.decode.rules.residual import one_hot, residual_distribution
from minimtp.decode.rules.token import token_rule
from tests.decode.rules.rule_properties import chain_round, most_probable
from tests.rule_mutants import with_names


def a_rejected_draft_is_replaced_by_a_sample_from_p(p, q):
    """No residual distribution: frequent drafts get a second chance."""
    return chain_round(
        with_names(token_rule, residual_distribution=lambda p, q, weight=1.0: p), p, q
    )


def the_residual_keeps_negative_differences(p, q):
    """|p - q| instead of max(p - q, 0)."""

    def residual_distribution(p, q, weight=1.0):
        return np.abs(p - q) / np.abs(p - q).sum() if (p != q).any() else p

    return chain_round(with_names(token_rule, residual_distribution=residual_distribution), p, q)


def the_acceptance_ignores_q(p, q):
    """Accept with probability p(d), as for a one-hot draft, and resample as for a sampled one."""
    return chain_round(with_names(token_rule, probability_ratio=lambda p, q, draft: p[draft]), p, q)


def a_draft_is_accepted_if_p_is_at_least_q(p, q):
    """No random number. Typical acceptance (Medusa) is wrong in the same way."""
    return chain_round(
        with_names(token_rule, probability_ratio=lambda p, q, draft: float(p[draft] >= q[draft])),
        p,
        q,
    )


def the_most_probable_token_is_declared_a_sample(p, q):
    """Argmax drafts are verified with the q of a sample (jaymody/speculative-sampling #3)."""
    return chain_round(token_rule, p, q, most_probable)


def a_one_hot_draft_can_be_sampled_after_its_rejection(p, q):
    """The residual distribution still contains the one-hot draft."""
    rule = with_names(token_rule, residual_distribution=lambda p, q, weight=1.0: p)
    return chain_round(rule, p, q, most_probable, lambda prefixes: None)


def the_rows_of_q_are_in_the_wrong_order(p, q):
    """q_j belongs to another draft, not to the j-th."""

    def rule(p, q, drafts, rng):
        return token_rule(p, q[::-1], drafts, rng) if q.all() else (0, rng.choose(p[0]))

    return chain_round(rule, p, q)


def q_has_another_temperature(p, q):
    """Drafts sampled at temperature 1, q computed at temperature 2."""

    def rule(p, q, drafts, rng):
        return token_rule(p, np.sqrt(q) / np.sqrt(q).sum(axis=1, keepdims=True), drafts, rng)

    return chain_round(rule, p, q)


def the_token_after_all_drafts_is_sampled_from_the_row_before(p, q):
    """p_{K-1} instead of p_K: the target's last row was not computed, or not used."""
    return chain_round(
        lambda p, q, drafts, rng: token_rule(p[[*range(len(drafts)), -2]], q, drafts, rng), p, q
    )


def a_sampled_draft_that_looks_unlikely_is_left_out(p, q):
    """Drafting stops before a token because the sampled token has a low probability."""

    def rule(p, q, drafts, rng):
        likely = next((j for j, draft in enumerate(drafts) if q[j, draft] < 0.3), len(drafts))
        return token_rule(p[: likely + 1], q[:likely], drafts[:likely], rng)

    return chain_round(rule, p, q)


def the_emitted_token_is_not_the_choice_that_differed(p, q):
    """Sample and match with a second sample if a draft does not match."""

    def rule(p, q, drafts, rng):
        accepted, token = matching_rule(lambda j: rng.choose(p[j]), drafts)
        return accepted, token if accepted == len(drafts) else rng.choose(p[accepted])

    return chain_round(rule, p, q)


def blocks_end_at_the_first_failure(p, q):
    """The block rule with the token rule's loop, which a reviewer once asked for (vllm-ascend
    #11985).
    """

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


def a_block_is_accepted_with_its_weight(p, q):
    """w_i instead of h_i before the last draft."""
    return chain_round(with_names(block_rule, block_acceptance=lambda p, q, weight: weight), p, q)


def the_residual_of_a_block_has_no_weight(p, q):
    """norm(max(p - q, 0)) instead of norm(max(w p - q, 0))."""
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


def blocks_are_verified_token_by_token(p, q):
    """min(1, p / q) of the last token instead of the block's weight (vllm-ascend #7807)."""

    def rule(p, q, drafts, rng):
        accepted_blocks = [
            i for i, d in enumerate(drafts, start=1) if rng.happens(p[i - 1, d] / q[i - 1, d])
        ]
        accepted = max(accepted_blocks, default=0)
        return accepted, rng.choose(
            p[accepted]
            if accepted == len(drafts)
            else residual_distribution(p[accepted], q[accepted])
        )

    return chain_round(rule, p, q)


def one_hot_drafts_with_another_q(p, q):
    """The most probable drafts under the block rule, with a mixture of q and one-hot."""

    def rule(p, q, drafts, rng):
        return block_rule(p, 0.5 * q + 0.5 * one_hot(drafts, p.shape[1]), drafts, rng)

    return chain_round(rule, p, q, most_probable)
