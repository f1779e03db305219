"""The compared configurations of a pretrained model, and how they are made.

    standard        the model as it is, in float32
    mtp             the same model with prediction heads. Its trunk does not change
    int4_rtn        the model with int4 weights, rounded to nearest
    int4_gptq       the same with GPTQ, which rounds so that the outputs of each layer change least
    mtp_qat_int4    trained with rounding, from GPTQ's codes, to follow the float model; then heads
                    are trained for the rounded trunk, and everything is packed
    llama_cpp_q4_0  the int4 weights of the one before, run by llama.cpp. Only if it is installed

Each step writes a folder of its own, and is skipped if its folder is complete. So an interrupted
comparison continues where it stopped.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from minimtp.compare.pretrained.sizes import Sizes
from minimtp.compare.pretrained.texts import Texts
from minimtp.files import delete_leftovers
from minimtp.formats.load import load
from minimtp.training.data.corpus import Corpus
from minimtp.training.presets import FINE_TUNING, HEAD_TRAINING
from minimtp.training.quantize import quantize
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import LoadedRun, started
from minimtp.training.run.start import Start
from minimtp.training.run.train import train

LLAMA = "llama_cpp_q4_0"
TITLES = {
    "standard": "float32",
    "mtp": "MTP",
    "int4_rtn": "int4, rounded to nearest",
    "int4_gptq": "int4, GPTQ",
    "mtp_qat_int4": "MTP + QAT int4",
    LLAMA: "llama.cpp, the same int4",
}
Step = Callable[[str], AbstractContextManager[None]]  # surrounds the step of this name


def qat_recipe(model: Recipe, sizes: Sizes, seed: int) -> Recipe:
    """Return the recipe of training with rounding: the text's probabilities of the float model are
    the only target, and the token table keeps its rounded values.
    """
    settings = FINE_TUNING | {
        "sequence_length": min(sizes.sequence, model.context_length),
        "batch_size": sizes.batch,
        "tokens": sizes.qat_tokens,
        "checkpoint_every": 0,
        "evaluation_tokens": 0,
        "precision": "bfloat16",
        "quantization": "qat",
        "weight_scales": "learned-from-start",
        "step_learning_rate_factor": 20.0,
        "freeze_embeddings": True,
        "distill_weight": 1.0,
        "seed": seed,
    }
    return replace(model, **settings)


def heads_recipe(model: Recipe, sizes: Sizes, seed: int) -> Recipe:
    """Return the recipe of the heads. The trunk of `model` is frozen."""
    settings = HEAD_TRAINING | {
        "sequence_length": min(sizes.sequence, model.context_length),
        "tokens": sizes.head_tokens,
        "evaluation_tokens": 0,
        "draft_vocabulary_size": min(sizes.draft_vocabulary, model.vocabulary_size),
        "distill_weight": 0.0,
        "seed": seed,
    }
    return replace(model, **settings)


class Workshop:
    """Makes the configurations of one model in the folder `out`.

    reference: the float model. step: surrounds each step that is not done yet.
    """

    def __init__(
        self,
        reference: LoadedRun,
        out: Path,
        sizes: Sizes,
        seed: int,
        device: str,
        threads: int | None,
        step: Step,
    ) -> None:
        self.reference, self.out, self.sizes, self.seed = reference, out, sizes, seed
        self.device, self.threads, self.step = device, threads, step

    def rounded(self) -> LoadedRun:
        """Return int4_rtn."""
        return self._quantized("int4_rtn", lambda: self.reference)

    def make_all(self, texts: Texts) -> dict[str, LoadedRun]:
        """Return all configurations by name, except llama.cpp's.

        Raises Interrupted if the user stops it.
        """
        self.rounded()
        gptq = self._quantized("int4_gptq", lambda: self.reference, texts.training)
        recipe = qat_recipe(self.reference.recipe, self.sizes, self.seed)
        qat = self._trained(
            "qat",
            recipe,
            texts.training,
            Start(start_from=self.reference, quantized_start=gptq, teacher=self.reference),
        )
        on_qat = heads_recipe(recipe, self.sizes, self.seed)
        with_heads = self._trained("qat_heads", on_qat, texts.own, Start(start_from=qat))
        self._quantized("mtp_qat_int4", lambda: load(with_heads))
        on_float = heads_recipe(self.reference.recipe, self.sizes, self.seed)
        self._trained("mtp", on_float, texts.own, Start(start_from=self.reference))
        return {
            name: self.reference if name == "standard" else load(self.out / name, self.device)
            for name in TITLES
            if name != LLAMA
        }

    def _quantized(
        self, name: str, source: Callable[[], LoadedRun], calibration: Corpus | None = None
    ) -> LoadedRun:
        folder = self.out / name
        delete_leftovers(folder)  # of a quantization that was killed after its checkpoint
        if not checkpoint.exists(folder):
            with self.step(name):
                if calibration is None:
                    return quantize(source(), folder)
                return quantize(source(), folder, method="gptq", calibration=calibration)
        return load(folder)

    def _trained(self, name: str, recipe: Recipe, corpus: Corpus, start: Start) -> Path:
        """Train, or continue training, the recipe in the folder of this name."""
        folder = self.out / name
        if not _finished(folder):
            with self.step(name):
                train(
                    recipe,
                    corpus,
                    folder,
                    replace(start, resume=started(folder)),
                    device=self.device,
                    threads=self.threads,
                    report=lambda line: None,
                )
        return folder


def _finished(folder: Path) -> bool:
    if not checkpoint.exists(folder):
        return False
    stored = checkpoint.read(folder, optimizer=False)
    return stored.step >= stored.recipe.steps
