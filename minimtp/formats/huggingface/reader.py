"""Loading a Hugging Face folder: `config.json`, safetensors files and `tokenizer.json`."""

from pathlib import Path

from minimtp.errors import UserError, shown
from minimtp.files import kind_at
from minimtp.formats.huggingface import config as configuration
from minimtp.formats.huggingface.layout import layout, to_neighbours
from minimtp.formats.huggingface.shards import ADVICE, StoredTensor, open_shards
from minimtp.model.transformer import Transformer

# Tensors of some files that repeat what is known: RoPE's frequencies, and a tied output.
REDUNDANT = ("rotary_emb.inv_freq", "lm_head.weight")


def is_huggingface(path: str | Path) -> bool:
    """Return whether the path is a folder with a configuration of `transformers`."""
    return kind_at(Path(path, configuration.FILE_NAME)) == "file"


def load_weights(folder: Path, model: Transformer) -> None:
    """Copy the weights of the folder into the parameters of a float32 model on the CPU.

    Raises UserError if a tensor is missing, superfluous, or of another shape.
    """
    with open_shards(folder) as tensors:
        _fill(folder, model, tensors)


def _fill(folder: Path, model: Transformer, tensors: dict[str, StoredTensor]) -> None:
    parameters = dict(model.named_parameters())
    head_dim = model.config.head_dim
    for name, parts in layout(model.config):
        start = 0
        for part in parts:
            tensor = tensors.pop(part.name, None)
            _check(folder, part.name, part.shape, tensor)
            values = tensor.read()
            rows = slice(start, start + part.shape[0])
            parameters[name].data[rows] = (
                to_neighbours(values, head_dim) if part.rotated else values
            )
            start = rows.stop
    left = sorted(name for name in tensors if not name.endswith(REDUNDANT))
    if left:
        raise UserError(
            f"{folder} holds {shown(left[0], 60)}, which a model of its {configuration.FILE_NAME} "
            f"does not have: {ADVICE}"
        )


def _check(folder: Path, name: str, shape: tuple[int, ...], tensor: StoredTensor | None) -> None:
    if tensor is None:
        raise UserError(f"{folder} lacks the tensor {name}: {ADVICE}")
    if tensor.shape != shape:
        raise UserError(
            f"{tensor.file.path} holds {name} of shape {shown(tensor.shape)}, but "
            f"{configuration.FILE_NAME} asks for {shape}: {ADVICE}"
        )
