"""What a file says about its head, and whether the head fits the model that it is to draft for."""

from typing import NamedTuple

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.heads import DraftVocabulary, Eagle3Heads
from minimtp.model.heads.eagle3 import published_layers
from minimtp.model.loaded import LoadedModel

DEPTH = 3  # steps that a head was trained for, if the file does not say
# Relative distance between a head's token table and the model's, up to which they are the same: a
# table rounded to 4 bits is 0.08 away.
SAME_TABLE = 0.1
SLACK = 2**26  # numbers by which a head may exceed its file: a missing tensor has its own message


class HeadSettings(NamedTuple):
    """A head as its file describes it.

    config: the sizes of its block, the number of the model's tokens, and RoPE. layers: of the
    model, None if the file does not say. target_hidden_size: the model's, None as well. ids: the
    draft vocabulary (V',), in the order of the rows of the output, or None. numbers: how many all
    tensors of the file hold.
    """

    config: ModelConfig
    layers: tuple[int, ...] | None
    target_hidden_size: int | None
    norm_before_residual: bool
    norm_before_fc: bool
    ids: np.ndarray | None
    own_output: bool
    numbers: int
    depth: int = DEPTH


def empty_heads(settings: HeadSettings, target: LoadedModel, name: str) -> Eagle3Heads:
    """Return the heads of a file, whose weights are still to be read. name: begins messages.

    Raises UserError if they do not fit the target.
    """
    config, trunk = settings.config, target.config
    layers = settings.layers or published_layers(trunk.num_layers)
    for what, found, needed in (
        ("hidden_size", config.hidden_size, trunk.hidden_size),
        ("target_hidden_size", settings.target_hidden_size, config.hidden_size),
        ("a vocabulary of", config.vocabulary_size, trunk.vocabulary_size),
    ):
        if found is not None and found != needed:
            raise UserError(
                f"{name} is a draft head with {what} {found}, but {target.path} needs {needed}: "
                "give a head that was trained for this model"
            )
    if not all(0 <= layer <= trunk.num_layers for layer in layers):
        how = "reads" if settings.layers else "names no layers, which means"
        raise UserError(
            f"{name} {how} the layers {', '.join(map(str, layers))}, but {target.path} has the "
            f"layers 0 to {trunk.num_layers}: give a head that was trained for this model"
        )
    ids, numbers = settings.ids, _numbers(config, len(layers))
    if numbers > settings.numbers + SLACK:
        raise UserError(
            f"{name} describes a draft head of {numbers:,} numbers, but its tensors hold "
            f"{settings.numbers:,}: give a complete draft head"
        )
    heads = Eagle3Heads(
        settings.depth,
        config,
        None,
        layers,
        None if ids is None else len(ids),
        settings.own_output,
        settings.norm_before_residual,
        settings.norm_before_fc,
    )
    if ids is not None:
        heads.draft_vocabulary = _vocabulary(ids, config.vocabulary_size, name)
    return heads


def other_layers(num_layers: int) -> str:
    """Return the advice for a program that does not give the last layer's output to a head."""
    if num_layers == 1:
        return "the model has no other layer, so train one with more layers"
    layers = num_layers // 4, num_layers // 2, num_layers - 1
    return f"train one with lower --head-layers ({','.join(map(str, layers))} for example)"


def _numbers(config: ModelConfig, layers: int) -> int:
    """Return how many numbers the matrices of a head hold, without an output of its own."""
    size, heads = config.hidden_size, config.num_heads + 2 * config.num_kv_heads
    attention = config.head_dim * size * (2 * heads + config.num_heads)
    return attention + 3 * size * config.intermediate_size + layers * size * size


def require_output(settings: HeadSettings, shape: tuple[int, ...], output: str, name: str) -> int:
    """Return the rows of the file's output. Raises UserError unless there is one for each token
    that the head may draft. output: the name of its tensor.
    """
    rows = shape[0] if shape else 0
    ids, vocabulary_size = settings.ids, settings.config.vocabulary_size
    if ids is None and rows != vocabulary_size:
        fault = f"lacks d2t, which names the tokens of the {rows:,} rows of {output}"
    elif ids is not None and rows != len(ids):
        fault = f"has {rows:,} rows in {output}, but d2t names {len(ids):,} tokens"
    else:
        return rows
    raise UserError(f"{name} {fault}: give a complete draft head")


def _vocabulary(ids: np.ndarray, vocabulary_size: int, name: str) -> DraftVocabulary:
    vocabulary = DraftVocabulary(len(ids), vocabulary_size)
    fault = ""
    if not len(ids):
        fault = "names no tokens"
    elif (ids < 0).any() or (ids >= vocabulary_size).any():
        fault = f"names tokens that are not among the {vocabulary_size:,} of the model"
    elif len(np.unique(ids)) < len(ids):
        fault = "names a token twice"
    if fault:
        raise UserError(f"{name}: d2t {fault}: give a complete draft head")
    vocabulary.ids.data = np.sort(ids).astype(np.int32)
    return vocabulary


def sorted_rows(ids: np.ndarray | None, rows: Array) -> Array:
    """Return the rows of an output (V', ...) in the order of increasing ids."""
    if ids is None or (np.diff(ids) > 0).all():
        return rows
    return np.ascontiguousarray(rows[np.argsort(ids)])


def require_same_table(table: Array, target: LoadedModel, name: str) -> None:
    """Raise UserError unless the head's own token table (V, D) is that of the target."""
    trunk = target.model.trunk
    every = array_module(trunk.final_norm.weight.data).arange(len(table))
    ours = to_numpy(trunk.embedding.rows(every))
    if np.linalg.norm(table - ours) > SAME_TABLE * np.linalg.norm(ours):
        raise UserError(
            f"{name} has a token table of its own, which is not supported (supported: none, or "
            f"that of the model): give a head that shares the table of {target.path}"
        )
