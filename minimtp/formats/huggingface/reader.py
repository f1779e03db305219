"""Loading a Hugging Face folder: `config.json`, safetensors files and `tokenizer.json`.

The weights become float32. The folder says where generated text ends in `generation_config.json`
(or config.json), which may name several tokens, and how a chat is written in
`tokenizer_config.json` or `chat_template.jinja`.
"""

from collections.abc import Iterable
from pathlib import Path

from minimtp.backend import choose_device, to_device
from minimtp.backend import numpy as np
from minimtp.engine.module import Module, map_parameters
from minimtp.errors import UserError, shown
from minimtp.formats.huggingface import config as configuration
from minimtp.formats.huggingface.layout import NAMES
from minimtp.formats.huggingface.shards import ADVICE, StoredTensor, open_shards
from minimtp.formats.huggingface.tokenizer import load_tokenizer
from minimtp.formats.layout import Part, layout, split, to_neighbours
from minimtp.machine import require_memory
from minimtp.model.transformer import Transformer
from minimtp.training.build import build_model
from minimtp.training.run.folder import LoadedRun

# Tensors of some files that repeat what is known: RoPE's frequencies, and a tied output.
REDUNDANT = ("rotary_emb.inv_freq", "lm_head.weight")


def load_huggingface(folder: str | Path, device: str = "cpu") -> LoadedRun:
    """Load the model of a folder onto the device "cpu", "cuda" or "auto".

    Raises UserError if the folder holds no model that can be loaded, or the device cannot be used.
    """
    chosen, folder = choose_device(device), Path(folder)
    config = configuration.read_config(folder)
    recipe = configuration.recipe_of(config, folder / configuration.FILE_NAME)
    tokenizer = load_tokenizer(folder, config)
    if tokenizer.vocabulary_size != recipe.vocabulary_size:
        raise UserError(
            f"{folder} has a tokenizer of {tokenizer.vocabulary_size} tokens, but the model has "
            f"{recipe.vocabulary_size}: {ADVICE}"
        )
    require_memory(4 * recipe.trunk_parameters(), f"{folder} as float32")
    model = build_model(recipe, None)
    load_weights(folder, model)
    map_parameters(model, lambda array: to_device(array, chosen))
    return LoadedRun(folder, model, tokenizer, recipe)


def load_weights(folder: Path, model: Transformer) -> None:
    """Copy the weights of the folder into the parameters of a float32 model on the CPU.

    Raises UserError if a tensor is missing, superfluous, or of another shape.
    """
    with open_shards(folder) as tensors:
        fill(folder, model, layout(model.config, NAMES), model.config.head_dim, tensors)
        require_nothing_else(folder, tensors)
    require_finite(folder, model)


def fill(
    folder: Path,
    model: Module,
    parameters: Iterable[tuple[str, list[Part]]],
    head_dim: int,
    tensors: dict[str, StoredTensor],
) -> None:
    """Copy these parameters from the tensors, which are taken out of `tensors`.

    Raises UserError if a tensor is missing or has another shape.
    """
    arrays = {name: parameter.data for name, parameter in model.named_parameters()}
    for name, parts in parameters:
        for part, target in split(parts, arrays[name]):
            tensor = tensors.pop(part.name, None)
            _check(folder, part.name, part.shape, tensor)
            tensor.read_into(target)
            if part.rotated:
                target[:] = to_neighbours(target, head_dim)


def require_nothing_else(folder: Path, tensors: dict[str, StoredTensor]) -> None:
    """Raise UserError if there are tensors left that no model of the configuration has."""
    left = sorted(name for name in tensors if not name.endswith(REDUNDANT))
    if left:
        raise UserError(
            f"{folder} holds {shown(left[0], 60)!r}, which its {configuration.FILE_NAME} does not "
            f"ask for: {ADVICE}"
        )


def require_finite(folder: Path, model: Module) -> None:
    """Raise UserError if a weight of the model is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not (np.isfinite(parameter.data.min()) and np.isfinite(parameter.data.max())):
            raise UserError(f"{folder}: {name} has weights that are NaN or infinite: {ADVICE}")


def _check(folder: Path, name: str, shape: tuple[int, ...], tensor: StoredTensor | None) -> None:
    if tensor is None:
        raise UserError(f"{folder} lacks the tensor {name}: {ADVICE}")
    if tensor.shape != shape:
        raise UserError(
            f"{tensor.file.path} holds {name} of shape {shown(tensor.shape)}, but "
            f"{configuration.FILE_NAME} asks for {shape}: {ADVICE}"
        )
