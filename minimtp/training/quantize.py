"""`quantize`: a trained run's weights packed into blocks of 4 or 8 bits, as a run folder of its own.

A run trained with quantization is packed on the grids it was trained on: its outputs do not change. Any other run is
rounded to the nearest level, which costs quality; that is the contrast quantization-aware training is measured against.
"""

from dataclasses import asdict
from pathlib import Path

from minimtp.errors import UserError
from minimtp.quant.packed import stored_arrays
from minimtp.quant.ptq import round_to_nearest
from minimtp.quant.qat import QuantizationSpec, convert
from minimtp.training import checkpoint
from minimtp.training.build import quantization_spec
from minimtp.training.checkpoint import Checkpoint, LoadedRun, load

SPECS = {
    4: QuantizationSpec(weights="q4_0", embedding="q8_0", heads="q4_0"),
    8: QuantizationSpec(weights="q8_0", embedding="q8_0", heads="q8_0"),
}


def quantize(run: LoadedRun | str | Path, out: str | Path, bits: int | None = None) -> LoadedRun:
    """Write the packed model to the folder `out` and return it loaded.

    bits: 4 (the default) or 8; a run trained with quantization has its own grids and takes no other.
    Raises UserError for a run that cannot be packed so, or an `out` that exists already.
    """
    if not isinstance(run, LoadedRun):
        run = load(run)
    if bits is not None and bits not in SPECS:
        raise UserError(f"bits must be 4 or 8, not {bits!r}")
    if checkpoint.exists(out):
        raise UserError(f"{out} already holds a checkpoint: choose another --out")
    if run.packed is not None:
        raise UserError(f"{run.folder} is quantized already: give the run it was made from")
    if run.recipe.quantization == "qat":
        spec = quantization_spec(run.recipe)
        if bits is not None and spec.weights != SPECS[bits].weights:
            raise UserError(f"{run.folder} was trained for {spec.weights} weights: leave --bits out to keep them exactly")
        model = convert(run.model) if run.fake_quantized else round_to_nearest(run.model, spec)
    else:
        spec = SPECS[bits or 4]
        model = round_to_nearest(run.model, spec)
    described = asdict(spec)
    checkpoint.write(out, Checkpoint(
        recipe=run.recipe, parameters=stored_arrays(model), step=run.step, tokens=run.tokens, corpus=run.corpus,
        tokenizer=run.tokenizer.to_dict(), packed=described, state={"made_from": str(run.folder)},
    ))  # fmt: skip
    return load(out)
