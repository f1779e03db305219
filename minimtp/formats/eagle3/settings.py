"""What a file says about its head, and whether the head fits the model that it is to draft for."""

from typing import NamedTuple

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.heads import DraftVocabulary, Eagle3Heads
from minimtp.model.loaded import LoadedModel

DEPTH = 3  # steps that a head was trained for, if the file does not say
# Relative distance between a head's token table and the model's, up to which they are the same: a
# table rounded to 4 bits is 0.08 away.
SAME_TABLE = 0.1


class HeadSettings(NamedTuple):
    """A head as its file describes it.

    config: the sizes of its block, the number of the model's tokens, and RoPE. layers: of the
    model, None if the file does not say. target_hidden_size: the model's, None as well. ids: the
    draft vocabulary (V',), in the order of the rows of the output, or None.
    """

    config: ModelConfig
    layers: tuple[int, ...] | None
    target_hidden_size: int | None
    norm_before_residual: bool
    norm_before_fc: bool
    ids: np.ndarray | None
    own_output: bool
    depth: int = DEPTH


def empty_heads(settings: HeadSettings, target: LoadedModel, name: str) -> Eagle3Heads:
    """Return the heads of a file, whose weights are still to be read. name: begins messages.

    Raises UserError if they do not fit the target.
    """
    config, trunk = settings.config, target.config
    layers = settings.layers or (2, trunk.num_layers // 2, trunk.num_layers - 3)
    for what, found, needed in (
        ("hidden_size", config.hidden_size, trunk.hidden_size),
        ("target_hidden_size", settings.target_hidden_size, config.hidden_size),
        ("tokens", config.vocabulary_size, trunk.vocabulary_size),
    ):
        if found is not None and found != needed:
            raise UserError(
                f"{name} is a draft head with {what} {found}, but {target.path} needs {needed}: "
                "give a head that was trained for this model"
            )
    if not all(0 <= layer <= trunk.num_layers for layer in layers):
        raise UserError(
            f"{name} reads the layers {', '.join(map(str, layers))}, but {target.path} has the "
            f"layers 0 to {trunk.num_layers}: give a head that was trained for this model"
        )
    ids = settings.ids
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


def _vocabulary(ids: np.ndarray, vocabulary_size: int, name: str) -> DraftVocabulary:
    vocabulary = DraftVocabulary(len(ids), vocabulary_size)
    if (ids < 0).any() or (ids >= vocabulary_size).any() or len(np.unique(ids)) < len(ids):
        raise UserError(
            f"{name}: d2t does not name {len(ids)} different tokens of {vocabulary_size}: give "
            "another file"
        )
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
