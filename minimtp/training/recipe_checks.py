"""The settings of a recipe that contradict each other, although each alone is in its range.

Each function takes a Recipe. Its class is not imported, because recipe.py imports this file.
"""

import re
from typing import Any

from minimtp.errors import UserError, shown

# The kinds that one head drafts with at every depth, and their name in messages.
ONE_HEAD = ("token_conditioned", "eagle3")
ONE_HEAD_KINDS = "token_conditioned or eagle3"
MAX_LAYERS = 8  # that a head reads
LAYER = re.compile(r"[0-9]{1,6}")  # the number of a layer; Python reads no very long numbers
EAGLE3_DEFAULTS = {
    "head_num_kv_heads": None,
    "norm_before_fc": True,
    "norm_before_residual": False,
    "own_draft_output": False,
}


def check_together(recipe: Any) -> None:
    """Raise UserError, which says what to change, if two settings of the recipe contradict."""
    _check_model(recipe)
    if recipe.quantization == "qat":
        _check_grids(recipe)
    _check_heads(recipe)
    _check_budget(recipe)
    if recipe.store_states:
        _check_stored_states(recipe)


def _check_model(recipe: Any) -> None:
    head_dim = recipe.head_dim or recipe.hidden_size // recipe.num_heads
    if recipe.head_dim is None and recipe.hidden_size % recipe.num_heads:
        raise UserError(
            f"hidden_size {recipe.hidden_size} cannot be divided equally among "
            f"{recipe.num_heads} query heads: choose a multiple, or choose head_dim"
        )
    if recipe.num_heads % recipe.num_kv_heads:
        raise UserError(
            f"{recipe.num_heads} query heads cannot share {recipe.num_kv_heads} key/value heads "
            "equally: choose a divisor"
        )
    if head_dim % 2:
        raise UserError(
            f"each query head gets {head_dim} numbers, but RoPE rotates pairs: "
            "choose an even number per head"
        )
    if recipe.tokens_per_sequence > recipe.context_length:
        raise UserError(
            f"sequence_length {recipe.sequence_length} exceeds context_length "
            f"{recipe.context_length}: choose at most that"
        )
    if recipe.rope_scaling != "none":
        from minimtp.model.rotary import parse_scaling

        parse_scaling(recipe.rope_scaling)


def _check_grids(recipe: Any) -> None:
    from minimtp.quant.grids import grid_named
    from minimtp.quant.grids.mixture import grids_of_blocks

    sizes = {"hidden_size": recipe.hidden_size, "intermediate_size": recipe.intermediate_size}
    if recipe.head_dim is not None:
        sizes["num_heads * head_dim ="] = recipe.num_heads * recipe.head_dim
    if recipe.head_intermediate_size is not None:
        sizes["head_intermediate_size"] = recipe.head_intermediate_size
    if recipe.activations == "int8":
        for name, size in sizes.items():
            if size % 32:
                raise UserError(
                    f"{name} {size} cannot be quantized in groups of 32: choose a multiple"
                )
    if recipe.tied_embeddings and recipe.output_grid not in ("same", recipe.embedding_grid):
        raise UserError(
            f"output_grid {recipe.output_grid} differs from embedding_grid "
            f"{recipe.embedding_grid}, but with tied_embeddings they are one matrix: "
            "leave out output_grid"
        )
    if recipe.weight_scales == "learned-from-start" and recipe.quantize_from > 0.0:
        raise UserError(
            f"quantize_from {recipe.quantize_from:g} would train the weights away from the codes "
            "that weight_scales learned-from-start begins with: leave it out"
        )
    output_grid = recipe.embedding_grid if recipe.output_grid == "same" else recipe.output_grid
    others = map(grid_named, (recipe.embedding_grid, output_grid, recipe.head_grid))
    for grid in (*grids_of_blocks(recipe.weight_grid).values(), *others):
        for setting_name, size in sizes.items():
            grid.check_columns((1, size), f"a matrix of {setting_name} {size} columns")


def _check_heads(recipe: Any) -> None:
    if recipe.heads == "none":
        _check_no_heads(recipe)
    elif recipe.draft_depth == 0:
        raise UserError(
            f"heads {recipe.heads} with draft_depth 0 predict nothing: "
            "choose at least 1, or heads none"
        )
    is_one_head = recipe.heads in ONE_HEAD
    if recipe.head_stride > 1 and not is_one_head:
        raise UserError(
            f"head_stride {recipe.head_stride} is possible with {ONE_HEAD_KINDS} heads only: "
            "other heads look back"
        )
    if recipe.head_stride > recipe.tokens_per_sequence:
        raise UserError(
            f"head_stride {recipe.head_stride} skips whole windows of {recipe.tokens_per_sequence} "
            "tokens: choose a smaller one"
        )
    size = recipe.draft_vocabulary_size
    if size is not None and not is_one_head:
        raise UserError(
            f"draft_vocabulary_size {size} is possible with {ONE_HEAD_KINDS} heads only: "
            "choose them, or leave out draft_vocabulary_size"
        )
    if recipe.head_start_scale != 1.0 and not is_one_head:
        raise UserError(
            f"head_start_scale {recipe.head_start_scale:g} is possible with {ONE_HEAD_KINDS} heads "
            "only: choose them, or leave out head_start_scale"
        )
    if recipe.head_layers != "auto" and not is_one_head:
        raise UserError(
            f"head_layers {shown(recipe.head_layers)} is possible with {ONE_HEAD_KINDS} heads "
            "only: choose them, or leave out head_layers"
        )
    if recipe.head_intermediate_size is not None and recipe.heads != "token_conditioned":
        raise UserError(
            f"head_intermediate_size {recipe.head_intermediate_size} is possible with "
            "token_conditioned heads only: choose them, or leave out head_intermediate_size"
        )
    if is_one_head:
        chosen_layers(recipe)
    _check_eagle3(recipe)
    if size is not None and size > recipe.vocabulary_size:
        raise UserError(
            f"draft_vocabulary_size {size} exceeds vocabulary_size {recipe.vocabulary_size}: "
            "choose a smaller one, or leave it out to draft all tokens"
        )
    if recipe.distill_weight > 0 and recipe.freeze_trunk:
        raise UserError(
            "distill_weight trains the trunk, but freeze_trunk keeps it as it is: "
            "choose one of them"
        )


def _check_eagle3(recipe: Any) -> None:
    if recipe.heads != "eagle3":
        for name, default in EAGLE3_DEFAULTS.items():
            value = getattr(recipe, name)
            if value != default:
                raise UserError(
                    f"{name} {value} is possible with eagle3 heads only: "
                    f"choose them, or leave out {name}"
                )
        return
    kv_heads = recipe.head_num_kv_heads
    if kv_heads is not None and recipe.num_heads % kv_heads:
        raise UserError(
            f"the {recipe.num_heads} query heads of the draft head cannot share {kv_heads} "
            "key/value heads equally: choose a divisor for head_num_kv_heads"
        )


def chosen_layers(recipe: Any) -> tuple[int, ...] | None:
    """Return the trunk layers whose inputs a head reads, or None for the default.

    Raises UserError unless they are layers of the trunk, for eagle3 three, or `auto`.
    """
    count = recipe.num_layers
    if recipe.head_layers == "auto":
        return None
    parts = recipe.head_layers.split(",")
    layers = tuple(int(part) for part in parts if LAYER.fullmatch(part))
    fits = len(parts) == 3 if recipe.heads == "eagle3" else len(parts) <= MAX_LAYERS
    if len(layers) != len(parts) or not fits or max(layers) > count:
        wanted, example = f"one to {MAX_LAYERS}", str(count // 2)
        if recipe.heads == "eagle3":
            wanted, example = "three", _example_layers(count)
        raise UserError(
            f"head_layers {shown(recipe.head_layers)!r} must be {wanted} numbers from 0 to "
            f"{count}, such as {example}, or auto"
        )
    return layers


def is_larger(recipe: Any) -> bool:
    """Return whether a token-conditioned head has an addition to its gated step."""
    return recipe.head_layers != "auto" or recipe.head_intermediate_size is not None


def _example_layers(count: int) -> str:
    from minimtp.model.heads.eagle3 import default_layers

    return ",".join(map(str, default_layers(count)))


def _check_no_heads(recipe: Any) -> None:
    """Raise UserError for a setting that needs prediction heads."""
    if recipe.draft_depth > 0:
        raise UserError(
            f"draft_depth {recipe.draft_depth} needs prediction heads: "
            "choose heads, or leave out draft_depth"
        )
    if recipe.curriculum != "none":
        raise UserError(
            f"the {recipe.curriculum} curriculum needs prediction heads: "
            "choose heads, or curriculum none"
        )
    if recipe.head_targets == "teacher":
        raise UserError(
            "head_targets teacher needs prediction heads: choose heads, or leave out head_targets"
        )
    if recipe.freeze_trunk:
        raise UserError(
            "freeze_trunk without prediction heads leaves nothing to train: "
            "choose heads, or leave out freeze_trunk"
        )


def _check_budget(recipe: Any) -> None:
    warmup, decay = recipe.warmup_fraction, recipe.decay_fraction
    if warmup + decay > 1.0:
        raise UserError(
            f"warmup_fraction {warmup:g} and decay_fraction {decay:g} are fractions of the "
            "same steps: together they must not exceed 1"
        )
    if recipe.steps < 1:
        raise UserError(
            f"tokens {recipe.tokens} do not fill one step of "
            f"{recipe.batch_size} x {recipe.tokens_per_sequence}: "
            "raise tokens, or lower batch_size or sequence_length"
        )
    if recipe.first_quantized_step == recipe.steps:
        raise UserError(
            f"quantize_from {recipe.quantize_from:g} never begins to quantize within "
            f"{recipe.steps} steps: choose a smaller fraction, or quantization none"
        )


def _check_stored_states(recipe: Any) -> None:
    follows = recipe.distill_weight > 0 or recipe.head_targets == "teacher"
    if not (follows or recipe.freeze_trunk):
        raise UserError(
            "store_states needs a model that does not change: "
            "choose distill_weight or freeze_trunk, or leave it out"
        )
    if recipe.freeze_trunk and recipe.quantization == "qat" and recipe.quantize_from > 0:
        raise UserError(
            f"the frozen trunk changes when quantize_from {recipe.quantize_from:g} is reached, so "
            "its states cannot be stored: choose quantize_from 0, or leave out store_states"
        )
