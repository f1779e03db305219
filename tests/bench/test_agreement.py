"""Drafted greedy texts are compared with plain decoding; a tie may excuse a difference."""

import pytest

from minimtp.bench.agreement import check_greedy_texts
from minimtp.bench.interleaved import Variant, measure_interleaved
from minimtp.decode.sampling.params import GREEDY
from tests.bench.counting_target import PROMPTS, CountingDrafter, CountingTarget


def greedy_texts(variant, prompts):
    speeds = measure_interleaved([variant], prompts, max_new_tokens=11, sampling=GREEDY, repeats=1)
    return speeds[variant.name].texts


def test_equal_texts_agree():
    variant = Variant("drafting", CountingTarget(), CountingDrafter(), 4)
    texts = greedy_texts(variant, PROMPTS)
    agreement = check_greedy_texts(variant, PROMPTS, texts, allow_ties=False)
    assert (agreement.texts, agreement.equal, agreement.ties, agreement.wrong) == (2, 2, 0, [])


@pytest.mark.parametrize(("margin", "tie"), [(1e-6, True), (0.5, False)])
def test_a_different_text_is_a_tie_only_if_the_two_best_logits_are_equal_up_to_rounding(
    margin, tie
):
    variant = Variant("drafting", CountingTarget(wrong_at=6, margin=margin), CountingDrafter(), 4)
    texts = greedy_texts(variant, PROMPTS[:1])
    agreement = check_greedy_texts(variant, PROMPTS[:1], texts, allow_ties=True)
    assert (agreement.equal, agreement.ties, len(agreement.wrong)) == (0, int(tie), int(not tie))
    agreement = check_greedy_texts(variant, PROMPTS[:1], texts, allow_ties=False)
    assert (agreement.equal, agreement.ties, len(agreement.wrong)) == (0, 0, 1)
    assert "token 7 of a text" in agreement.wrong[0]
