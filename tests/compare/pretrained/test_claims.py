"""Claims and targets on a pretrained model are computed from the results by kind of text."""

import pytest

from minimtp.compare.pretrained import claims as pretrained_claims
from minimtp.compare.pretrained.claims import judge, targets


def by_kind(code, prose, chat):
    return {"code": code, "prose": prose, "chat": chat}


def configuration(nats, kl, quality, speedup, plain, weight_bytes):
    speed = dict.fromkeys(("code", "prose", "chat", "edit"), speedup)
    return {
        "nats": by_kind(*nats),
        "kl": by_kind(*kl),
        "quality_percent": by_kind(*quality),
        "speedup": speed,
        "tokens_per_second": {kind: 100 * value for kind, value in speed.items()},
        "tokens_per_second_without_drafts": dict.fromkeys(speed, plain),
        "speedup_over_plain": dict.fromkeys(speed, 1.5),
        "weight_bytes": weight_bytes,
    }


MEASURED = {
    "standard": configuration((2.0, 3.0, 1.0), (0, 0, 0), (100, 100, 100), 1.0, 100, 1600),
    "mtp": configuration((2.0, 3.0, 1.0), (0, 0, 0), (100, 100, 100), 1.9, 100, 1700),
    "int4_rtn": configuration((2.2, 3.2, 1.1), (0.2, 0.4, 0.1), (91, 94, 91), 4.0, 400, 250),
    "int4_gptq": configuration((2.1, 3.1, 1.0), (0.1, 0.2, 0.1), (97, 97, 99), 4.0, 400, 250),
    "mtp_qat_int4": configuration(
        (2.01, 3.02, 1.0), (0.04, 0.12, 0.05), (99.5, 99.3, 100), 7.0, 480, 250
    ),
}


@pytest.fixture
def recovered(own):
    return own(pretrained_claims.recovered)


def test_what_is_recovered_is_the_share_of_the_loss_that_does_not_occur(recovered):
    standard, rtn, qat = (MEASURED[name] for name in ("standard", "int4_rtn", "mtp_qat_int4"))
    found = recovered(standard, rtn, qat, "nats", "code")
    assert found == pytest.approx(95), f"expected 95, in percent, got {found}"
    assert recovered(standard, rtn, qat, "nats", "prose") == pytest.approx(90)
    assert recovered(standard, rtn, qat, "kl", "code") == pytest.approx(80)
    assert recovered(standard, rtn, rtn, "kl", "prose") == 0
    third = {"nats": {"code": 2.2 - 0.2 / 3}}
    assert recovered(standard, rtn, third, "nats", "code") == pytest.approx(100 / 3)
    assert recovered(standard, rtn, standard, "nats", "prose") == pytest.approx(100)


def test_what_is_recovered_is_negative_for_a_larger_loss_and_above_100_for_a_gain(recovered):
    standard, rtn = MEASURED["standard"], MEASURED["int4_rtn"]
    for nats, percent in ((2.3, -50), (1.9, 150)):
        other = {"nats": {"code": nats}}
        assert recovered(standard, rtn, other, "nats", "code") == pytest.approx(percent)


def test_nothing_lost_counts_as_everything_recovered(recovered):
    standard, rtn = MEASURED["standard"], MEASURED["int4_rtn"]
    assert recovered(standard, standard, rtn, "nats", "code") == 100


def test_speed_and_quality_are_judged_for_each_kind_of_text():
    claims = {claim.subject: claim for claim in judge(MEASURED)}
    assert claims["the speed-up of MTP on chat"].reached
    assert claims["the speed-up of MTP + QAT int4 on edit"].measured == "7.00x"
    loss = claims["the loss on code by rounding to int4 without training"]
    assert loss.value == pytest.approx(10) and loss.reached
    assert claims["the size of 16-bit weights over that of MTP + QAT int4 with heads"].value == 3.2


def test_the_published_loss_is_not_reached_if_rounding_loses_less_or_more():
    for nats, reached in ((2.09, False), (2.1, True), (2.3, True), (2.31, False)):
        rtn = MEASURED["int4_rtn"] | {"nats": by_kind(nats, 3.2, 1.1)}
        found = {c.subject: c for c in judge(MEASURED | {"int4_rtn": rtn})}
        claim = found["the loss on code by rounding to int4 without training"]
        assert claim.reached == reached


def test_quality_has_a_target_for_each_kind_of_text_and_drafts_for_the_worst():
    found = {claim.subject: claim for claim in targets(MEASURED)}
    qualities = MEASURED["mtp_qat_int4"]["quality_percent"]
    assert {
        kind: found[f"the quality of MTP + QAT int4 on {kind}"].value for kind in qualities
    } == (qualities)
    slow = MEASURED["mtp"] | {"speedup_over_plain": {"code": 1.5, "chat": 0.9}}
    found = {claim.subject: claim for claim in targets(MEASURED | {"mtp": slow})}
    claim = found["the speed of MTP over the same weights without drafts"]
    assert (claim.value, claim.reached) == (0.9, False)


def test_llama_cpp_is_compared_only_if_it_was_measured():
    without = {claim.subject for claim in targets(MEASURED)}
    llama = MEASURED["int4_rtn"] | {
        "tokens_per_second": dict.fromkeys(("code", "prose", "chat", "edit"), 300)
    }
    added = {c.subject: c for c in targets(MEASURED | {"llama_cpp_q4_0": llama})}
    (subject,) = added.keys() - without
    assert added[subject].value == pytest.approx(1.6)
