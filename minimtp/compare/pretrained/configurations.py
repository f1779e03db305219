"""The compared configurations of a pretrained model, and how they are made.

    standard        the model as it is, in float32
    mtp             the same model with prediction heads. Its trunk does not change
    int4_rtn        the model with int4 weights, rounded to nearest
    int4_gptq       the same with GPTQ, which rounds so that the outputs of each layer change least.
                    Queries, keys and values have 5 bits, and the token table 5 instead of 8
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

from minimtp.backend import choose_device
from minimtp.compare.pretrained.sizes import Sizes
from minimtp.compare.pretrained.texts import Texts
from minimtp.engine.precision import fastest
from minimtp.files import delete_leftovers
from minimtp.formats.load import load
from minimtp.model.loaded import LoadedModel
from minimtp.training.data.corpus import Corpus
from minimtp.training.presets import FINE_TUNING, HEAD_TRAINING
from minimtp.training.quantize import quantize
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import LoadedRun, started
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.self_generated.generate import packed_copy

LLAMA = "llama_cpp_q4_0"
# Queries, keys and values are a sixth of the weights, so their fifth bit takes little memory.
WEIGHTS = "q4_0,qkv=q5_0"
TABLE = "q5_1"  # the grid of the token table in GPTQ: a KL divergence of 0.004 nats, 8 MB less
TITLES = {
    "standard": "float32",
    "mtp": "MTP",
    "int4_rtn": "int4, rounded to nearest",
    "int4_gptq": "int4, GPTQ",
    "mtp_qat_int4": "MTP + QAT int4",
    LLAMA: "llama.cpp, the same int4",
}
Step = Callable[[str], AbstractContextManager[None]]  # surrounds the step of this name


def qat_recipe(model: Recipe, sizes: Sizes, seed: int, precision: str) -> Recipe:
    """Return the recipe of training with rounding: the text's probabilities of the float model are
    the only target, and the token table keeps its rounded values.
    """
    settings = FINE_TUNING | {
        "sequence_length": min(sizes.qat_sequence, model.context_length),
        "batch_size": sizes.qat_batch,
        "tokens": sizes.qat_tokens,
        "checkpoint_every": 0,
        "evaluation_tokens": 0,
        "precision": precision,
        "quantization": "qat",
        "weight_grid": WEIGHTS,
        "embedding_grid": TABLE,
        "weight_scales": "learned-from-start",
        # At half this rate, code loses .026 nats instead of .021 after 49,152 tokens, although its
        # divergence is .051 instead of .053. After 147,456 tokens it loses .020.
        "learning_rate": 1e-4,
        "step_learning_rate_factor": 20.0,
        "freeze_embeddings": True,
        "distill_weight": 1.0,
        "seed": seed,
    }
    return replace(model, **settings)


def heads_recipe(model: Recipe, sizes: Sizes, seed: int, precision: str) -> Recipe:
    """Return the recipe of the heads. The trunk of `model` is frozen."""
    settings = HEAD_TRAINING | {
        "sequence_length": min(sizes.sequence, model.context_length),
        "tokens": sizes.head_tokens,
        "evaluation_tokens": 0,
        "precision": precision,
        "draft_vocabulary_size": min(sizes.draft_vocabulary, model.vocabulary_size),
        "distill_weight": 0.0,
        "seed": seed,
    }
    return replace(model, **settings)


class ConfigurationBuilder:
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

    def writer(self) -> LoadedModel:
        """Return the model in int8. It writes as the float model does, only faster."""
        return packed_copy(self.reference, "q8_0")

    def make_all(self, texts: Texts) -> dict[str, LoadedRun]:
        """Return all configurations by name, except llama.cpp's.

        Raises Interrupted if the user stops it.
        """
        self._quantized("int4_rtn", lambda folder: quantize(self.reference, folder))
        options = {"method": "gptq", "embedding_grid": TABLE, "calibration": texts.training}
        gptq = self._quantized(
            "int4_gptq", lambda folder: quantize(self.reference, folder, WEIGHTS, **options)
        )
        how = self.sizes, self.seed, fastest(choose_device(self.device))
        recipe = qat_recipe(self.reference.recipe, *how)
        start = Start(start_from=self.reference, quantized_start=gptq.path, teacher=self.reference)
        qat = self._trained("qat", recipe, texts.training, start)
        on_qat = heads_recipe(recipe, *how)
        with_heads = self._trained("qat_heads", on_qat, texts.own, Start(start_from=qat))
        self._quantized("mtp_qat_int4", lambda folder: quantize(load(with_heads), folder))
        on_float = heads_recipe(self.reference.recipe, *how)
        self._trained("mtp", on_float, texts.own, Start(start_from=self.reference))
        return {
            name: self.reference if name == "standard" else load(self.out / name, self.device)
            for name in TITLES
            if name != LLAMA
        }

    def _quantized(self, name: str, make: Callable[[Path], LoadedRun]) -> LoadedRun:
        """Return the packed model in the folder of this name. Make it if it is missing."""
        folder = self.out / name
        delete_leftovers(folder)  # of a quantization that was killed after its checkpoint
        if checkpoint.exists(folder):
            return load(folder)
        with self.step(name):
            return make(folder)

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
    stored = checkpoint.read_header(folder)
    return stored.step >= stored.recipe.steps
