"""`config.json` of a folder with an EAGLE-3 head, in the two forms that engines read.

    llama        "architectures": ["LlamaForCausalLMEagle3", ...], with the sizes of the block at
                 the top. vLLM, SGLang and the converter of llama.cpp read it
    speculators  "speculators_model_type": "eagle3", with the sizes of the block in
                 "transformer_layer_config". The library speculators, vLLM and the converter of
                 llama.cpp read it

**The layers.** eagle_aux_hidden_state_layer_ids names the layers whose inputs the head reads.
SGLang and the heads of SpecForge have them in eagle_config, where a number is the layer whose
*output* is read, so it is one less. A head that reads the wrong layers drafts worse, without an
error.

Everything else that a configuration can say about the computation is checked and refused.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown
from minimtp.formats.eagle3.settings import DEPTH, HeadSettings
from minimtp.formats.huggingface import config as configuration
from minimtp.formats.huggingface.config import ACTIVATIONS, ADVICE, FILE_NAME, Words
from minimtp.formats.huggingface.writer import config_of
from minimtp.model.heads import MultiTokenModel
from minimtp.records import Positive, read_json
from minimtp.training.build import model_config
from minimtp.training.recipe import MAX_DRAFT_DEPTH

Layers = Annotated[list[int], Meta(max_length=1024)]
ARCHITECTURES = ["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM"]  # SGLang's name, and vLLM's


class LayerConfig(configuration.Config, kw_only=True):
    """The block, as a model of one layer."""

    architectures: Words = []
    bias: bool = False


class InnerConfig(Struct):
    """eagle_config, where some programs keep a part of the settings."""

    eagle_aux_hidden_state_layer_ids: Layers = []
    norm_before_fc: bool = False


class ProposalMethod(Struct):
    speculative_tokens: Positive = DEPTH


class SpeculatorsConfig(Struct):
    proposal_methods: list[ProposalMethod] = []


class HeadConfig(configuration.HeadMarks):
    """What a configuration says about the head beside its block."""

    target_hidden_size: Positive | None = None
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    eagle_aux_hidden_state_layer_ids: Layers | None = None
    eagle_config: InnerConfig | None = None
    speculators_config: SpeculatorsConfig | None = None
    transformer_layer_config: LayerConfig | None = None


def read_settings(
    folder: Path, ids: np.ndarray | None, own_output: bool, numbers: int
) -> HeadSettings:
    """Return what config.json says. ids, own_output, numbers: what the tensors say
    (`HeadSettings`).

    Raises UserError if the configuration is missing or not supported.
    """
    path = folder / FILE_NAME
    head = read_json(path, HeadConfig, advice=ADVICE)
    block = head.transformer_layer_config or read_json(path, LayerConfig, advice=ADVICE)
    _require_supported(path, head, block)
    block.architectures = ["LlamaForCausalLM"]
    inner = head.eagle_config
    methods = head.speculators_config.proposal_methods if head.speculators_config else []
    return HeadSettings(
        config=model_config(configuration.recipe_of(block, path)),
        layers=_layers(head),
        target_hidden_size=head.target_hidden_size,
        norm_before_residual=head.norm_before_residual,
        norm_before_fc=head.norm_before_fc or bool(inner and inner.norm_before_fc),
        ids=ids,
        own_output=own_output,
        numbers=numbers,
        depth=min(methods[0].speculative_tokens, MAX_DRAFT_DEPTH) if methods else DEPTH,
    )


def _layers(head: HeadConfig) -> tuple[int, ...] | None:
    if head.eagle_aux_hidden_state_layer_ids:
        return tuple(head.eagle_aux_hidden_state_layer_ids)
    if head.eagle_config and head.eagle_config.eagle_aux_hidden_state_layer_ids:
        return tuple(layer + 1 for layer in head.eagle_config.eagle_aux_hidden_state_layer_ids)
    return None


def _require_supported(path: Path, head: HeadConfig, block: LayerConfig) -> None:
    """Raise UserError for the first setting that our heads do not have."""
    slides = isinstance(block.sliding_window, int) and block.use_sliding_window is not False
    kinds = {*(block.layer_types or ())} - {"full_attention"}
    for key, found, supported in (
        ("speculators_model_type", head.speculators_model_type or "eagle3", "eagle3"),
        ("model_type", block.model_type or "llama", "llama"),
        ("num_hidden_layers", block.num_hidden_layers, 1),
        ("fc_norm", head.fc_norm, False),
        ("norm_output", head.norm_output, False),
        ("attention_bias", block.attention_bias, False),
        ("mlp_bias", block.mlp_bias, False),
        ("bias", block.bias, False),
        ("sliding_window", block.sliding_window if slides else None, None),
        ("layer_types", next(iter(kinds), "full_attention"), "full_attention"),
        ("hidden_act", "silu" if block.hidden_act in ACTIVATIONS else block.hidden_act, "silu"),
        ("partial_rotary_factor", block.partial_rotary_factor, 1.0),
        ("quantization_config", block.quantization_config and "", None),
    ):
        if found != supported:
            raise UserError(
                f"{path}: {key} {shown(found)} of a draft head is not supported "
                f"(supported: {'none' if supported is None else supported})"
            )


def head_config(
    model: MultiTokenModel, dtype: str, form: str, verifier: str | None
) -> dict[str, object]:
    """Return the content of config.json. form: llama or speculators. verifier: the folder of the
    model, from which speculators takes what the head shares with it.
    """
    heads, vocabulary = model.heads, model.heads.draft_vocabulary
    block = config_of(
        replace(heads.config, qkv_bias=False, qk_norm=False, tied_embeddings=False), dtype
    )
    about_head: dict[str, object] = {
        "draft_vocab_size": model.config.vocabulary_size if vocabulary is None else len(vocabulary),
        "target_hidden_size": model.config.hidden_size,
        "norm_before_residual": heads.block.norm_before_residual,
        "norm_before_fc": heads.fc_norm is not None,
        "eagle_aux_hidden_state_layer_ids": list(heads.layers),
    }
    if form == "llama":
        inner = {
            "use_aux_hidden_state": True,
            "norm_before_fc": heads.fc_norm is not None,
            "eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in heads.layers],
        }
        return block | {"architectures": ARCHITECTURES} | about_head | {"eagle_config": inner}
    method = {"proposal_type": "greedy", "speculative_tokens": heads.depth}
    architectures = config_of(model.config, dtype)["architectures"]
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "transformer_layer_config": block,
        **about_head,
        "speculators_config": {
            "algorithm": "eagle3",
            "proposal_methods": [method],
            "default_proposal_method": "greedy",
            "verifier": {"name_or_path": verifier, "architectures": architectures},
        },
        "torch_dtype": dtype,
    }
