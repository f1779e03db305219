"""`config.json` of a Hugging Face folder: which transformer its weights belong to.

Supported are the families that differ from Llama by no more than a setting of `ModelConfig`:

    LlamaForCausalLM      Llama 2 and 3, SmolLM2, TinyLlama: RoPE may be scaled (linear, llama3)
    MistralForCausalLM    the same model; a sliding window bounds the context here
    Qwen2ForCausalLM      + biases on queries, keys and values
    Qwen3ForCausalLM      + a norm in every query head and key head, and a head_dim of its own

Everything else that a configuration can say about the computation is checked and refused, because
a model that ignores it would load without an error and write nonsense. A key that is missing has
the default of `transformers`.
"""

import re
from pathlib import Path
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from minimtp.errors import UserError, shown
from minimtp.records import AboveZero, Positive, read_json
from minimtp.training.recipe import Recipe

FILE_NAME = "config.json"
ADVICE = "give a complete copy of the folder"
FAMILIES: dict[str, dict[str, object]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
}
QWEN3_HEAD_DIM = 128  # if the file does not say
# What a file means that does not say it; null has a meaning of its own.
DEFAULTS: dict[str, dict[str, int]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {"num_key_value_heads": 8, "sliding_window": 4096},
    "Qwen2ForCausalLM": {"num_key_value_heads": 32},
    "Qwen3ForCausalLM": {"num_key_value_heads": 32},
}
SCALING_KEYS = {  # in the order of our own name of a scaling (model/rotary.py)
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
ATTENTIONS = ("full_attention", "sliding_attention")
ACTIVATIONS = ("silu", "swish")  # two names of one function
OUR_NAMES = {  # for messages: our name of a setting, and the key of the file
    "vocabulary_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
}
Words = Annotated[list[str], Meta(max_length=10_000)]


class Config(Struct):
    """The keys of config.json that describe the computation, with the defaults of transformers."""

    architectures: Words
    vocab_size: Positive
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    max_position_embeddings: Positive
    model_type: str | None = None
    num_key_value_heads: Positive | UnsetType | None = UNSET
    head_dim: Positive | None = None
    rms_norm_eps: AboveZero = 1e-6
    rope_theta: AboveZero | None = None
    rope_scaling: dict[str, object] | None = None
    rope_parameters: dict[str, object] | None = None
    tie_word_embeddings: bool = False
    sliding_window: Positive | UnsetType | None = UNSET
    use_sliding_window: bool | UnsetType = UNSET
    layer_types: Words | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    partial_rotary_factor: AboveZero = 1.0
    quantization_config: dict[str, object] | None = None
    eos_token_id: int | list[int] | None = None


def read_config(folder: Path) -> Config:
    """Read the configuration of a folder. Raises UserError if it is missing or not supported."""
    path = folder / FILE_NAME
    if is_head(folder):
        raise UserError(
            f"{folder} is an EAGLE-3 draft head without its model: give the model, and this folder "
            "as --draft"
        )
    config = read_json(path, Config, advice=ADVICE)
    family = config.architectures[0] if len(config.architectures) == 1 else None
    if family not in FAMILIES:
        found = shown(", ".join(config.architectures) or "none")
        raise UserError(
            f"{path}: unsupported architecture {found} (supported: {', '.join(FAMILIES)})"
        )
    for key in ("num_key_value_heads", "sliding_window"):
        if getattr(config, key) is UNSET:
            setattr(config, key, DEFAULTS[family].get(key))
    unknown = next((kind for kind in config.layer_types or () if kind not in ATTENTIONS), None)
    for key, found, supported in (
        ("model_type", config.model_type or model_type(family), model_type(family)),
        ("layer_types", unknown, None),
        ("hidden_act", "silu" if config.hidden_act in ACTIVATIONS else config.hidden_act, "silu"),
        # Qwen2's own biases are not announced by this key.
        ("attention_bias", config.attention_bias, False),
        ("mlp_bias", config.mlp_bias, False),
        ("partial_rotary_factor", config.partial_rotary_factor, 1.0),
    ):
        if found != supported:
            raise UserError(
                f"{path}: {key} {shown(found)} is not supported "
                f"(supported: {', '.join(ATTENTIONS) if supported is None else supported})"
            )
    if config.quantization_config is not None:
        raise UserError(
            f"{path}: the weights are quantized ({shown(quantization_of(config))}), which is not "
            "supported: give the model in float32, float16 or bfloat16"
        )
    return config


class HeadMarks(Struct):
    """The keys by which a draft head is recognised: that of speculators has no sizes at the top."""

    architectures: Words = []
    speculators_model_type: str | None = None
    draft_vocab_size: Positive | None = None


def is_head(folder: str | Path) -> bool:
    """Return whether a folder's config.json, if there is one, describes a draft head.

    Raises UserError if it cannot be read.
    """
    path = Path(folder, FILE_NAME)
    return path.is_file() and describes_head(read_json(path, HeadMarks, advice=ADVICE))


def describes_head(marks: HeadMarks) -> bool:
    named = any("eagle3" in name.lower() for name in marks.architectures)
    return bool(named or marks.speculators_model_type or marks.draft_vocab_size)


def model_type(family: str) -> str:
    """Return the name of a family by which transformers chooses the model."""
    return family.removesuffix("ForCausalLM").lower()


def quantization_of(config: Config) -> object:
    return (config.quantization_config or {}).get("quant_method", "unknown method")


def recipe_of(config: Config, path: Path) -> Recipe:
    """Return the recipe that describes the model. path: of the configuration, for messages.

    Raises UserError for sizes or a RoPE scaling that our models do not support.
    """
    family = config.architectures[0]
    head_dim = config.head_dim
    if head_dim is None and family == "Qwen3ForCausalLM":
        head_dim = QWEN3_HEAD_DIM
    if head_dim is not None and head_dim * config.num_attention_heads == config.hidden_size:
        head_dim = None  # as our own models of these sizes
    theta, scaling = _rope(config, path)
    context_length = min(config.max_position_embeddings, _window(config))
    try:
        return Recipe(
            vocabulary_size=config.vocab_size,
            context_length=context_length,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            tied_embeddings=config.tie_word_embeddings,
            rope_theta=theta,
            norm_eps=config.rms_norm_eps,
            head_dim=head_dim,
            rope_scaling=scaling,
            **FAMILIES[family],
            batch_size=1,  # the folder says nothing about training: one window is one step
            tokens=context_length,
        )
    except UserError as error:
        words = re.sub(r"\w+", lambda word: OUR_NAMES.get(word[0], word[0]), str(error))
        raise UserError(f"{path}: {words}") from None


def _window(config: Config) -> int:
    """Return how many positions back every layer attends, at most.

    Up to this length, a sliding window hides nothing, so the model is the one that we compute.
    """
    by_layer = config.layer_types is not None and "sliding_attention" in config.layer_types
    # Mistral's window holds if it is there. Qwen's file states one that is used only if it says so.
    used = config.architectures[0] == "MistralForCausalLM"
    if config.use_sliding_window is not UNSET:
        used = config.use_sliding_window
    if config.sliding_window is None or not (used or by_layer):
        return config.max_position_embeddings
    return config.sliding_window


def _rope(config: Config, path: Path) -> tuple[float, str]:
    """Return the base of RoPE and our name of its scaling.

    Newer files keep both in `rope_parameters`, older ones in `rope_theta` and `rope_scaling`.
    """
    rope = _joined_rope(config, path)
    nested = next((key for key, value in rope.items() if isinstance(value, dict)), None)
    if nested is not None:
        raise UserError(f"{path}: RoPE of its own for {shown(nested)} layers is not supported")
    theta, kind = rope.get("rope_theta", 10000.0), rope.get("rope_type", "default")
    rotated = rope.get("partial_rotary_factor", 1.0)
    if rotated != 1.0:
        raise UserError(
            f"{path}: partial_rotary_factor {shown(rotated)} of RoPE is not supported "
            "(supported: 1.0)"
        )
    keys = SCALING_KEYS.get(str(kind))
    if keys is None:
        raise UserError(
            f"{path}: RoPE scaling {shown(kind)} is not supported "
            "(supported: default, linear, llama3)"
        )
    numbers = [theta, *(rope.get(key) for key in keys)]
    for key, number in zip(("rope_theta", *keys), numbers, strict=True):
        least = 1 if key == "rope_theta" else 0
        if type(number) not in (int, float) or not least < number <= 1e9:
            raise UserError(
                f"{path}: {key} of RoPE is {shown(number)}, which is not supported (supported: "
                f"more than {least} and at most 1e9)"
            )
    if not keys:
        return float(theta), "none"
    return float(theta), ":".join((str(kind), *(f"{number:.12g}" for number in numbers[1:])))


def _joined_rope(config: Config, path: Path) -> dict[str, object]:
    """Return all that the configuration says about RoPE. Raises UserError if it contradicts itself:
    versions of transformers would then read different models.
    """
    found: dict[str, object] = {}
    at_the_top = {"rope_theta": config.rope_theta}
    for source in (at_the_top, config.rope_scaling or {}, config.rope_parameters or {}):
        for key, value in source.items():
            name = "rope_type" if key == "type" else key
            if value is not None and found.setdefault(name, value) != value:
                raise UserError(
                    f"{path}: {name} of RoPE is both {shown(found[name])} and {shown(value)}: "
                    "correct the file, or use that of the original model"
                )
    return found
