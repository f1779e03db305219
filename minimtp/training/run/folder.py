"""A run folder: the files that training writes, and the model in them.

checkpoint.safetensors    the model and all that a resumed run needs (checkpoint.py)
recipe.json               the same settings for people
log.jsonl                 one line per logged step (log.py)
loss.png                  the loss curve (plot.py)
self-generated/           the text of a run with --self-generated (../self_generated/)

While a command writes there, the folder also holds .minimtp-lock and temporary files (files/).
"""

import hashlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.arguments import instance
from minimtp.backend import Device, choose_device, to_device, to_numpy
from minimtp.engine.module import Module, map_parameters
from minimtp.errors import naming
from minimtp.files import kind_at
from minimtp.model.loaded import LoadedModel
from minimtp.training.build import build_model, fill, quantization_spec
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.log import LOG_NAME
from minimtp.training.settings import check_known
from minimtp.training.tokenizers.tokenizer import tokenizer_from_dict

if TYPE_CHECKING:  # models without rounding do not need it
    from minimtp.quant.qat.spec import QuantizationSpec


@dataclass(frozen=True)
class LoadedRun(LoadedModel):
    """A loaded model with the record of its training.

    The model is in training form: in full precision, fake-quantized if quantization had begun, or
    packed (`minimtp quantize`). A model from another program has a recipe that describes it, but no
    steps and no corpus.

    packed: how a packed model was rounded, else None.
    corpus: name, sources and fingerprint of the text that the model was trained on.
    state: the values that the training loop stored in the checkpoint.
    """

    recipe: Recipe
    packed: "QuantizationSpec | None" = None
    fake_quantized: bool = False
    step: int = 0
    tokens: int = 0
    corpus: dict[str, object] = field(default_factory=dict)
    state: dict[str, object] = field(default_factory=dict)


SAMPLE = 4096  # bytes of each parameter that identify a model
LOADED_RUN = instance(LoadedRun, expected="a model that minimtp.load has loaded")


def started(folder: str | Path) -> bool:
    """Return whether training has begun here: the folder holds a checkpoint, or at least a log."""
    return checkpoint.exists(folder) or kind_at(Path(folder, LOG_NAME)) == "file"


def load_run(folder: str | Path, device: str = "cpu") -> LoadedRun:
    """Load the model of a run folder onto the device "cpu", "cuda" or "auto".

    Raises UserError if the checkpoint cannot be read (see `checkpoint.read`) or the device cannot
    be used.
    """
    chosen = choose_device(device)
    stored = checkpoint.read(folder, optimizer=False)
    path = Path(folder, checkpoint.FILE_NAME)
    checkpoint.require_weights(stored, path)
    with naming(path):
        return _build(Path(folder), stored, chosen)


def _build(folder: Path, stored: Checkpoint, chosen: Device) -> LoadedRun:
    model = build_model(stored.recipe, None)
    packed, fake_quantized = None, False
    if stored.packed is not None:
        from minimtp.quant.qat.convert import restore
        from minimtp.quant.qat.spec import QuantizationSpec

        for name in stored.packed:
            check_known(
                "setting of a packed model", name, [f.name for f in fields(QuantizationSpec)]
            )
        packed = QuantizationSpec(**stored.packed)
        arrays = {name: to_device(array, chosen) for name, array in stored.parameters.items()}
        model = restore(model, packed, arrays)
    else:
        fill(model, stored.parameters, folder / checkpoint.FILE_NAME)
        map_parameters(model, lambda array: to_device(array, chosen))
        fake_quantized = quantization_began(stored)
        if fake_quantized:
            from minimtp.quant.qat.prepare import prepare_qat

            model = prepare_qat(model, quantization_spec(stored.recipe), resumed=True)
    return LoadedRun(
        path=folder,
        model=model,
        tokenizer=tokenizer_from_dict(stored.tokenizer),
        recipe=stored.recipe,
        packed=packed,
        fake_quantized=fake_quantized,
        step=stored.step,
        tokens=stored.tokens,
        corpus=stored.corpus,
        state=stored.state,
    )


def weights_digest(model: Module) -> str:
    """Return a hash of a sample of every parameter, which tells two models apart."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.data.reshape(-1)
        digest.update(name.encode())
        digest.update(to_numpy(flat[: SAMPLE // flat.itemsize]).tobytes())
    return digest.hexdigest()[:16]


def quantization_began(stored: Checkpoint) -> bool:
    """Return whether the last step before this checkpoint trained with rounded weights."""
    first = stored.recipe.first_quantized_step
    return first is not None and stored.step > first
