"""The article's claims, judged on a pretrained model, and the project's own targets beside them.

The claims (see ../claims.py) are judged for each kind of text on its own, because a model that
drafts well on code may draft badly in a conversation. The targets are those of SmolLM2-135M on two
cores. They are shown for any model.
"""

from collections.abc import Iterator, Mapping

from minimtp.compare.claims import Claim, at_least, claim_range
from minimtp.compare.pretrained.configurations import LLAMA
from minimtp.compare.result_cache import Figures

HALF = 2  # bytes of a weight with 16 bits


def judge(configurations: Mapping[str, Figures]) -> list[Claim]:
    """Judge the article's claims. configurations: results by name."""
    standard, mtp = configurations["standard"], configurations["mtp"]
    rtn, qat = configurations["int4_rtn"], configurations["mtp_qat_int4"]
    claims = []
    for title, results, low, high in (("MTP", mtp, 1.8, 2.5), ("MTP + QAT int4", qat, 3.0, 5.0)):
        for kind, speedup in results["speedup"].items():
            claims.append(at_least(f"the speed-up of {title} on {kind}", speedup, "x", low, high))
    claims.append(at_least("the size of 16-bit weights over that of MTP + QAT int4 with heads",
                           _saved(standard, qat), "x", 3, 4))  # fmt: skip
    for kind in standard["nats"]:
        loss = _loss_percent(rtn, standard, kind)
        subject = f"the loss on {kind} by rounding to int4 without training"
        claims.append(Claim(subject, loss, "%", claim_range(5, 15, "%"), 5 <= loss <= 15))
        quality = qat["quality_percent"][kind]
        claims.append(at_least(f"the quality of MTP + QAT int4 on {kind}", quality, "%", 96, 99))
    return claims


def targets(configurations: Mapping[str, Figures]) -> list[Claim]:
    """Return the project's own targets. configurations: results by name."""
    return list(_targets(configurations))


def _targets(configurations: Mapping[str, Figures]) -> Iterator[Claim]:
    standard, rtn = configurations["standard"], configurations["int4_rtn"]
    qat = configurations["mtp_qat_int4"]
    for kind, nats, kl in (("code", 96, 78), ("prose", 90, 74)):
        subject = f"recovered by GPTQ and QAT of what rounding to nearest loses on {kind}"
        yield _target(f"nats {subject}", recovered(standard, rtn, qat, "nats", kind), "%", nats)
        yield _target(f"KL {subject}", recovered(standard, rtn, qat, "kl", kind), "%", kl)
    for kind, quality in qat["quality_percent"].items():
        yield _target(f"the quality of MTP + QAT int4 on {kind}", quality, "%", 99)
    plain = min(
        int4 / float32
        for int4, float32 in zip(
            qat["tokens_per_second_without_drafts"].values(),
            standard["tokens_per_second"].values(),
            strict=True,
        )
    )
    yield _target("the speed of int4 over float32, both without drafts", plain, "x", 4.7)
    if LLAMA in configurations:
        theirs = configurations[LLAMA]["tokens_per_second"]
        over = min(
            ours / theirs[kind] for kind, ours in qat["tokens_per_second_without_drafts"].items()
        )
        yield _target("the speed of int4 over llama.cpp, both without drafts", over, "x", 1.5)
    for kind, low in (("code", 7), ("edit", 7), ("chat", 5)):
        subject = f"the speed of MTP + QAT int4 over float32 without drafts on {kind}"
        yield _target(subject, qat["speedup"][kind], "x", low)
    for title, results in (("MTP", configurations["mtp"]), ("MTP + QAT int4", qat)):
        slowest = min(results["speedup_over_plain"].values())
        yield _target(
            f"the speed of {title} over the same weights without drafts", slowest, "x", 0.97
        )
    yield _target("the size of 16-bit weights over that of MTP + QAT int4",
                  _saved(standard, qat), "x", 3.2)  # fmt: skip


def recovered(
    standard: Figures, rounded: Figures, better: Figures, measure: str, kind: str
) -> float:
    """Return how much of the loss of `rounded` does not occur in `better`, in percent."""
    lost = rounded[measure][kind] - standard[measure][kind]
    return 100.0 * (rounded[measure][kind] - better[measure][kind]) / lost if lost else 100.0


def _target(subject: str, value: float, unit: str, low: float) -> Claim:
    return Claim(
        subject, value, unit, f"at least {low:g}{unit if unit == 'x' else ' ' + unit}", value >= low
    )


def _saved(standard: Figures, other: Figures) -> float:
    return standard["weight_bytes"] / HALF / other["weight_bytes"]


def _loss_percent(results: Figures, standard: Figures, kind: str) -> float:
    """Return by how many percent the nats per token are larger than the float model's."""
    return 100.0 * (results["nats"][kind] / standard["nats"][kind] - 1.0)
