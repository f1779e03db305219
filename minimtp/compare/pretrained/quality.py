"""The quality of each configuration on each kind of text, against the float model.

nats        per token
kl          the divergence of the predictions from the float model's, in nats per token
agreement   the share of positions at which both have the same most likely token
"""

from collections.abc import Callable, Mapping
from functools import partial

from minimtp.backend import array_module
from minimtp.compare.pretrained.sizes import Sizes
from minimtp.compare.pretrained.texts import Texts
from minimtp.compare.result_cache import Figures
from minimtp.engine.module import Module
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate
from minimtp.training.run.folder import LoadedRun

GetPart = Callable[..., Figures]  # see ResultCache.get
MEASURES = ("nats", "kl", "agreement")


def measure_quality(
    name: str,
    loaded: LoadedRun,
    reference: LoadedRun,
    texts: Texts,
    sizes: Sizes,
    threads: int | None,
    get_part: GetPart,
) -> Figures:
    """Return the results of one configuration: {measure: {kind of text: value}}.

    A trunk that is bit for bit the reference's is not measured again.
    """
    same = same_trunk(loaded, reference)
    name, loaded = ("standard", reference) if same else (name, loaded)

    def measure(corpus: Corpus) -> Figures:
        found = evaluate(
            loaded,
            corpus,
            tokens=sizes.evaluation_tokens,
            context_length=min(sizes.sequence, loaded.config.context_length),
            threads=threads,
            against=None if same else reference,
        )
        return {
            "nats": found.nats[0],
            "kl": 0.0 if same else found.divergence,
            "agreement": 1.0 if same else found.agreement,
        }

    return by_measure(
        {
            kind: get_part(f"quality of {name} on {kind}", partial(measure, corpus))
            for kind, corpus in texts.quality.items()
        }
    )


def by_measure(by_kind: Mapping[str, Figures]) -> Figures:
    """Turn {kind: {measure: value}} into {measure: {kind: value}}."""
    return {key: {kind: found[key] for kind, found in by_kind.items()} for key in MEASURES}


def add_quality_percent(configurations: Mapping[str, Figures]) -> None:
    """Add to each configuration `standard`'s nats as a percentage of its own."""
    standard = configurations["standard"]["nats"]
    for results in configurations.values():
        results["quality_percent"] = {
            kind: 100.0 * standard[kind] / nats for kind, nats in results["nats"].items()
        }


def same_trunk(loaded: LoadedRun, reference: LoadedRun) -> bool:
    """Return whether the trunks of both models are equal, bit for bit."""
    ours, theirs = _trunk(loaded.model), _trunk(reference.model)
    return ours.keys() == theirs.keys() and all(
        array_module(array).array_equal(array, theirs[name]) for name, array in ours.items()
    )


def _trunk(model: Module) -> dict[str, object]:
    return {name: parameter.data for name, parameter in model.trunk.named_parameters()}
