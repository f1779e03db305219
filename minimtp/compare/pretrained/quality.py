"""The quality of each configuration on each kind of text, against the float model.

nats        per token
kl          the divergence of the predictions from the float model's, in nats per token
agreement   the share of positions at which both have the same most likely token
"""

from collections.abc import Mapping
from functools import partial

from minimtp.backend import Array, array_module, to_numpy
from minimtp.compare.pretrained.schema import QualityPart
from minimtp.compare.pretrained.sizes import Sizes
from minimtp.compare.pretrained.texts import Texts
from minimtp.compare.result_cache import Figures, GetPart
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.model.transformer import LanguageModel
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate_model
from minimtp.training.run.folder import LoadedRun

MEASURES = ("nats", "kl", "agreement")


class Remembered:
    """A model that computes the states of each window once. Every configuration is compared with
    the reference on the same windows. The states take 4 D bytes per token.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._states: dict[bytes, Array] = {}  # (T, D) of a window

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def hidden(self, tokens: Array) -> Tensor:
        """tokens (B, T) -> states (B, T, D)."""
        windows = [to_numpy(window).tobytes() for window in tokens]
        if any(window not in self._states for window in windows):
            computed = self._model.hidden(tokens).data
            self._states |= zip(windows, computed, strict=True)
        return Tensor(array_module(tokens).stack([self._states[window] for window in windows]))

    trunk_states = hidden  # of a model without heads


class Quality:
    """Measures configurations against the reference, on the held-out parts of the texts."""

    def __init__(
        self, reference: LoadedRun, texts: Texts, sizes: Sizes, threads: int, get_part: GetPart
    ) -> None:
        self.reference, self.texts, self.sizes = reference, texts, sizes
        self.threads, self.get_part = threads, get_part
        self.remembered = Remembered(reference.model)

    def of(self, name: str, loaded: LoadedRun) -> Figures:
        """Return the results of one configuration: {measure: {kind of text: value}}.

        A trunk that is bit for bit the reference's is not measured again.
        """
        same = same_trunk(loaded, self.reference)
        name, model = ("standard", self.remembered) if same else (name, loaded.model)

        def measure(corpus: Corpus) -> Figures:
            found = evaluate_model(
                model,
                corpus,
                self.window,
                self.sizes.evaluation_tokens,
                self.threads,
                None if same else self.remembered,
            )
            return {
                "nats": found.nats[0],
                "kl": 0.0 if same else found.divergence,
                "agreement": 1.0 if same else found.agreement,
            }

        return by_measure(
            {
                kind: self.get_part(
                    f"quality of {name} on {kind}", partial(measure, corpus), QualityPart
                )
                for kind, corpus in self.texts.quality.items()
            }
        )

    @property
    def window(self) -> int:
        """The tokens of a window."""
        return min(self.sizes.sequence, self.reference.config.context_length)


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
