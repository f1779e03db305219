"""Each published claim is compared with the range that was published."""

from minimtp.compare.claims import judge


def configuration(weight_bytes, quality, speedup, speedup_t1):
    return {
        "weight_bytes": weight_bytes,
        "quality_percent": quality,
        "speedup": speedup,
        "speedup_t1": speedup_t1,
    }


MEASURED = {
    "standard": configuration(3200, 100.0, 1.0, 1.0),
    "mtp": configuration(3400, 99.9, 2.0, 1.5),
    "mtp_qat_int4": configuration(500, 98.0, 6.0, 2.5),
    "mtp_int4_rounded": configuration(500, 97.0, 6.0, 2.5),
}


def test_claims_are_described_with_the_measured_value_and_the_published_range():
    assert [claim.describe() for claim in judge(MEASURED)] == [
        "reached: the speed-up of MTP at temperature 0 is 2.00x, claimed 1.8x to 2.5x",
        "reached: the speed-up of MTP + QAT int4 at temperature 0 is 6.00x, claimed 3x to 5x",
        "not reached: the speed-up of MTP at temperature 1 is 1.50x, claimed 1.8x to 2.5x",
        "not reached: the speed-up of MTP + QAT int4 at temperature 1 is 2.50x, claimed 3x to 5x",
        "reached: the quality of MTP is 99.90 %, claimed 99 % to 100 %",
        "reached: the quality of MTP + QAT int4 is 98.00 %, claimed 96 % to 99 %",
        "reached: the size of 16-bit weights over that of MTP + QAT int4 with heads is 3.20x, "
        "claimed 3x to 4x",
        "not reached: the quality lost by rounding to int4 without training is 3.00 %, "
        "claimed 5 % to 15 %",
        "reached: the quality lost by rounding to int4 without training is 3.00 %, "
        "claimed more than the 2.00 % lost with QAT",
    ]


def test_the_claim_for_qat_is_not_reached_if_rounding_loses_less():
    rounded = configuration(500, 98.5, 6.0, 2.5)
    assert not judge(MEASURED | {"mtp_int4_rounded": rounded})[-1].reached
