"""Small random models as Hugging Face folders, written without the code under test."""

import json
from pathlib import Path

from safetensors.numpy import save_file

from minimtp.backend import numpy as np

BASE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGURATIONS = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 1e4},
    "llama-tied": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": True,
        "head_dim": 16,
        "num_key_value_heads": 4,
        "rope_theta": 1e5,
    },
    "llama3": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3_SCALING,
    },
    "llama-linear": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rope_theta": 1e6,
        "sliding_window": None,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 8,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "rope_theta": 1e6,
        "head_dim": 16,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
    },
}


def configuration(name: str) -> dict:
    return {**BASE, **CONFIGURATIONS[name]}


def weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random weights under the names of `transformers`."""
    rng = np.random.default_rng(seed)
    family = config["model_type"]
    hidden, inner, heads = (
        config["hidden_size"], config["intermediate_size"], config["num_attention_heads"],
    )  # fmt: skip
    head_dim = config.get("head_dim") or hidden // heads
    kv = config["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (heads * head_dim, hidden),
            f"{layer}.self_attn.k_proj.weight": (kv, hidden),
            f"{layer}.self_attn.v_proj.weight": (kv, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, heads * head_dim),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
        if family == "qwen2":
            for part, rows in (("q", heads * head_dim), ("k", kv), ("v", kv)):
                shapes[f"{layer}.self_attn.{part}_proj.bias"] = (rows,)
        if family == "qwen3":
            for part in "qk":
                shapes[f"{layer}.self_attn.{part}_norm.weight"] = (head_dim,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {
        name: ((0.2 if len(shape) == 2 else 1.0) * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_folder(folder: Path, config: dict, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights(config) if tensors is None else tensors, folder / "model.safetensors")
    return folder


TOKENS = np.random.default_rng(7).integers(0, BASE["vocab_size"], 40)
