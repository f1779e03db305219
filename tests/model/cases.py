"""Models, tokens and a PyTorch reference for the tests of the model."""

from dataclasses import replace

from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.model.config import ModelConfig
from minimtp.model.heads import MultiTokenModel
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import Transformer
from tests.helpers import heads

SHAPE = ModelConfig(
    vocabulary_size=11,
    context_length=16,
    num_layers=2,
    hidden_size=16,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=24,
)


KINDS = ["none", *heads.KINDS]

# What the families of models change: the names are theirs, the sizes are not.
FAMILIES = {
    "llama": {},
    "llama3": {"rope_scaling": "llama3:4:1:4:8", "head_dim": 24},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 8},
}


def build(kind="none", depth=3, tied=True, dtype=np.float64, seed=0, family="llama"):
    rng = np.random.default_rng(seed)
    shape = replace(SHAPE, tied_embeddings=tied, **{"head_dim": None, **FAMILIES[family]})
    trunk = Transformer(shape, rng)
    model = trunk
    if kind != "none":
        model = MultiTokenModel(trunk, heads.heads_of(kind, depth, shape, rng))
    noise = np.random.default_rng(seed + 1)  # no weight keeps its initial value of 0 or 1
    map_parameters(
        model, lambda array: (array + 0.2 * noise.standard_normal(array.shape)).astype(dtype)
    )
    return model


def tokens(batch, length, seed=1):
    return np.random.default_rng(seed).integers(0, SHAPE.vocabulary_size, (batch, length))


def total_loss(model, text, weights):
    nats, _ = evaluate_losses(model, text)
    means = nats.mean(axis=(0, 1))
    return means[0] + means[1:] @ weights


def as_torch(torch, array):
    return torch.tensor(array, requires_grad=True)


def torch_transformer(torch, model, text):
    """Compute the model's logits for `text` with PyTorch's own operations.

    Returns the logits (B, T, V), and the weights as tensors by name.
    """
    weights = {
        name: as_torch(torch, parameter.data) for name, parameter in model.named_parameters()
    }
    functional, config = torch.nn.functional, model.config
    batch, length = text.shape
    heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    position = torch.arange(length)[:, None] * torch.tensor(
        model.blocks[0].attention.rotary.frequencies
    )
    turn = torch.polar(torch.ones_like(position), position)  # (T, C/2)

    def rotate(x):  # (B, T, H, C)
        pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn[None, :, None]).flatten(-2).to(x.dtype)

    def norm(x, name):
        weight = weights[f"{name}.weight"]
        return functional.rms_norm(x, tuple(weight.shape), weight, config.norm_eps)

    x = weights["embedding.weight"][torch.tensor(text)]
    for i in range(config.num_layers):
        name = f"blocks.{i}"
        qkv = norm(x, f"{name}.attention_norm") @ weights[f"{name}.attention.qkv.weight"].T
        if config.qkv_bias:
            qkv = qkv + weights[f"{name}.attention.qkv_bias"]
        qkv = qkv.reshape(batch, length, -1, head_dim)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=2)
        if config.qk_norm:
            q = norm(q, f"{name}.attention.query_norm")
            k = norm(k, f"{name}.attention.key_norm")
        q, k = rotate(q), rotate(k)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=2) for t in (k, v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attended = (
            functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            .transpose(1, 2)
            .reshape(batch, length, -1)
        )
        x = x + attended @ weights[f"{name}.attention.output.weight"].T
        gate, up = (
            norm(x, f"{name}.feed_forward_norm") @ weights[f"{name}.feed_forward.gate_up.weight"].T
        ).chunk(2, -1)
        x = x + (functional.silu(gate) * up) @ weights[f"{name}.feed_forward.down.weight"].T
    return norm(x, "final_norm") @ weights["embedding.weight"].T, weights
