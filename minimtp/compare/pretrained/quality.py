"""The quality of each configuration on each kind of text, against the float model."""

import math
from collections.abc import Callable

from minimtp.backend import array_module
from minimtp.compare.pretrained.sizes import Sizes
from minimtp.compare.pretrained.texts import Texts
from minimtp.compare.result_cache import Figures
from minimtp.engine.module import Module
from minimtp.training.evaluate import Evaluation, evaluate
from minimtp.training.run.folder import LoadedRun

GetPart = Callable[..., Figures]  # see ResultCache.get


def measure_quality(
    name: str,
    loaded: LoadedRun,
    reference: LoadedRun,
    texts: Texts,
    sizes: Sizes,
    threads: int | None,
    get_part: GetPart,
) -> Figures:
    """Return the results of one configuration, each by kind of text.

    nats: per token. bits_per_byte. quality_percent: the reference's nats over its own. kl: in nats
    per token, from the reference. agreement: share of positions at which the most likely token is
    the reference's.
    """
    results: Figures = {
        key: {} for key in ("nats", "bits_per_byte", "quality_percent", "kl", "agreement")
    }
    # A trunk that is bit for bit the reference's has the reference's quality.
    measured, same = (name, False) if name != "mtp" else ("standard", _same_trunk(loaded, reference))
    if name == "mtp" and not same:
        measured = name
    for kind, corpus in texts.corpora.items():

        def measure(corpus: object = corpus) -> Figures:
            against = None if measured == "standard" else reference
            return evaluate(
                reference if measured == "standard" else loaded,
                corpus,
                tokens=sizes.evaluation_tokens,
                context_length=min(sizes.sequence, loaded.config.context_length),
                threads=threads,
                against=against,
            ).to_dict()

        found = Evaluation.from_dict(get_part(f"quality of {measured} on {kind}", measure))
        results["nats"][kind] = found.nats[0]
        results["bits_per_byte"][kind] = found.bits_per_byte
        results["kl"][kind] = 0.0 if found.divergence is None else found.divergence
        results["agreement"][kind] = 1.0 if found.agreement is None else found.agreement
    return results


def add_quality_percent(configurations: dict[str, Figures]) -> None:
    """Add the quality of each configuration relative to `standard`'s nats, in percent."""
    standard = configurations["standard"]["nats"]
    for results in configurations.values():
        results["quality_percent"] = {
            kind: 100.0 * standard[kind] / nats if nats else math.nan
            for kind, nats in results["nats"].items()
        }


def _same_trunk(loaded: LoadedRun, reference: LoadedRun) -> bool:
    """Return whether the trunks of both models are equal, bit for bit."""
    ours, theirs = _trunk(loaded.model), _trunk(reference.model)
    return ours.keys() == theirs.keys() and all(
        array_module(array).array_equal(array, theirs[name]) for name, array in ours.items()
    )


def _trunk(model: Module) -> dict[str, object]:
    return {name: parameter.data for name, parameter in model.trunk.named_parameters()}
