"""The recipes of the compared configurations, and their training.

All of them continue from one stem: the shared part of the training, before the learning rate
decays.
"""

from dataclasses import replace
from pathlib import Path

from minimtp.files import delete_leftovers
from minimtp.formats.load import load
from minimtp.training.data.corpus import Corpus
from minimtp.training.presets import with_heads
from minimtp.training.quantize import quantize
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import LoadedRun, started
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.schedule import decay_start

TITLES = {  # by the name of the configuration, which is also the name of its folder
    "standard": "standard",
    "mtp": "MTP",
    "mtp_qat_int4": "MTP + QAT int4",
    "mtp_int4_rounded": "MTP, int4 by rounding",
}
TRAINED_IN = {"standard": "standard", "mtp": "mtp", "mtp_qat_int4": "mtp_qat"}
PACKED_FROM = {"mtp_qat_int4": "mtp_qat", "mtp_int4_rounded": "mtp"}


def recipes(standard: Recipe) -> dict[str, Recipe]:
    """Return the recipes of the three trained configurations. The first one is `standard`."""
    mtp = with_heads(standard)
    qat = replace(mtp, quantization="qat", quantize_from=1.0 - standard.decay_fraction)
    return {"standard": standard, "mtp": mtp, "mtp_qat_int4": qat}


def train_configurations(
    wanted: dict[str, Recipe], corpus: Corpus, out: Path, device: str, threads: int | None = None
) -> dict[str, LoadedRun]:
    """Train the recipes of `wanted` that are not yet trained in `out`. Load the four configurations
    in their final, packed form.

    Raises Interrupted if the user stops it.
    """

    def train_or_resume(
        recipe: Recipe, name: str, start: Start, stop_at_step: int | None = None
    ) -> None:
        train(
            recipe,
            corpus,
            out / name,
            replace(start, resume=started(out / name)),
            stop_at_step=stop_at_step,
            device=device,
            threads=threads,
            report=lambda line: None,
        )

    stem_steps = decay_start(wanted["standard"])
    branch = Start()
    if stem_steps:
        train_or_resume(wanted["mtp"], "stem", Start(), stop_at_step=stem_steps)
        branch = Start(start_from=out / "stem", continue_schedule=True)
    for name, recipe in wanted.items():
        train_or_resume(recipe, TRAINED_IN[name], branch)
    for name, source in PACKED_FROM.items():
        delete_leftovers(out / name)  # of a quantization that was killed after its checkpoint
        if not checkpoint.exists(out / name):
            quantize(load(out / source), out / name)
    return {name: load(out / name, device) for name in TITLES}
