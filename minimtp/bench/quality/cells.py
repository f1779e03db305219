"""The rows of the quality table, and the training or quantization of their models.

For every seed, one stem is trained in full precision until the decay of the learning rate begins.
These branches continue from it:

    fp                  the decay in full precision. This is the control: all branches see the same
                        tokens
    fp + distillation   the same, but half of the loss is distillation from fp. It shows the gain
                        from distillation alone
    rtn ... gptq        the control, quantized after training (quant/ptq), at 4 bits also to q4_k
    qat                 the decay with quantized weights and learned group scales (quant/qat)
    qat + distillation  the same, but half of the loss is distillation from the control

Quantization-aware training loses least if it starts with the decay (arXiv 2509.22935). A branch
differs from the control only in its rounding. Activations are int8 and the token table is q8_0 in
every row except the two fp rows. At 8 bits there is almost no loss to recover, so nothing is
trained.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minimtp.formats.load import load
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.model.transformer import LanguageModel
from minimtp.quant.ptq.methods import METHODS, quantize_after_training
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training import presets
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate_model
from minimtp.training.quantize import calibration_batches
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun, started
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.schedule import decay_start

GRIDS = {8: "q8_0", 4: "q4_0", 3: "int3-ggml-signed-g32", 2: "int2-ggml-signed-g32"}
FP, FP_DISTILLED, QAT, QAT_DISTILLED = "fp", "fp + distillation", "qat", "qat + distillation"
SUPERBLOCKS = "importance, q4_k"
DISTILL_WEIGHT = 0.5
TRAINED_BELOW = 8  # bits
SUPERBLOCK_BITS, SUPERBLOCK = 4, 256
RECIPES = {
    "tiny": presets.preset("tiny"),
    # `quick` as two wide layers, so every row consists of whole super-blocks of 256 weights.
    "quick": presets.preset(
        "quick",
        hidden_size=256,
        num_layers=2,
        intermediate_size=512,
        tokens=600_000,
        learning_rate=1.5e-3,
        evaluation_tokens=262_144,
    ),
}


@dataclass(frozen=True)
class Cell:
    """One method at one number of bits, from one seed."""

    seed: int
    bits: int
    method: str

    @property
    def name(self) -> str:
        return f"{self.method} at {self.bits} bits, seed {self.seed}"


def table_rows(recipe: Recipe, bits: Sequence[int]) -> list[tuple[int, str]]:
    """(bits, method) of every row of the table, the control first."""
    trained = any(number < TRAINED_BELOW for number in bits)
    found = [(32, FP), *([(32, FP_DISTILLED)] if trained else [])]
    whole = recipe.hidden_size % SUPERBLOCK == recipe.intermediate_size % SUPERBLOCK == 0
    for number in bits:
        found += [(number, method) for method in METHODS]
        if number == SUPERBLOCK_BITS and whole:
            found.append((number, SUPERBLOCKS))
        if number < TRAINED_BELOW:
            found += [(number, QAT), (number, QAT_DISTILLED)]
    return found


@dataclass(frozen=True)
class Branches:
    """The runs of one seed in `folder`. Each is trained when it is first needed."""

    recipe: Recipe
    text: Corpus
    folder: Path
    threads: int | None

    def train(
        self, name: str, recipe: Recipe, start: Start, stop_at_step: int | None = None
    ) -> LoadedRun:
        """Train or resume a run."""
        train(
            recipe,
            self.text,
            self.folder / name,
            replace(start, resume=started(self.folder / name)),
            stop_at_step=stop_at_step,
            device="cpu",
            threads=self.threads,
            report=lambda line: None,
        )
        return load(self.folder / name)

    def train_stem(self) -> None:
        self.train("stem", self.recipe, Start(), stop_at_step=decay_start(self.recipe))

    def trained_model(self, cell: Cell) -> LanguageModel:
        """Return the model of a trained row: fp or qat, with or without distillation."""
        student = self.recipe
        start = Start(start_from=self.folder / "stem", continue_schedule=True)
        if cell.method in (FP_DISTILLED, QAT_DISTILLED):
            student = replace(student, distill_weight=DISTILL_WEIGHT)
            start = replace(start, teacher=self.folder / FP)
        if cell.method in (QAT, QAT_DISTILLED):
            student = replace(
                student,
                quantization="qat",
                quantize_from=1.0 - student.decay_fraction,
                weight_grid=GRIDS[cell.bits],
                head_grid=GRIDS[cell.bits],
                weight_scales="learned",
            )
        name = cell.method.replace(" ", "") + (str(cell.bits) if cell.bits in GRIDS else "")
        model = self.train(name, student, start).model
        return convert(model) if student.quantization == "qat" else model


def measure_cell(
    cell: Cell, recipe: Recipe, text: Corpus, out: Path, threads: int | None
) -> dict[str, object]:
    """Train or quantize the model of one cell and evaluate it.

    Returns nats, bytes, bits per weight and seconds. The seconds do not include the stem, which all
    methods share.
    """
    recipe = replace(recipe, seed=cell.seed)
    branches = Branches(recipe, text, out / f"seed{cell.seed}", threads)
    if cell.method in (FP, FP_DISTILLED, QAT, QAT_DISTILLED):
        branches.train_stem()
        began = time.perf_counter()
        model = branches.trained_model(cell)
    else:
        control = load(branches.folder / FP).model
        batches = calibration_batches(text, recipe.context_length, 0)
        grid, method = GRIDS[cell.bits], cell.method
        if cell.method == SUPERBLOCKS:
            grid, method = "q4_k", "importance"
        began = time.perf_counter()
        spec = QuantizationSpec(weights=grid, heads=grid)
        model = quantize_after_training(control, spec, method, batches)
    seconds = time.perf_counter() - began
    length, tokens = recipe.context_length, recipe.evaluation_tokens
    evaluation = evaluate_model(model, text, length, tokens, threads)
    return {
        "nats": evaluation.nats[0],
        "bytes": weight_bytes(model),
        "bits_per_weight": bits_per_weight(model),
        "seconds": seconds,
    }
