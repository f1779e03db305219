"""The names and the layout of a trunk's matrices in a GGUF file, the format of llama.cpp.

A trunk is LLaMA-shaped, so each of its matrices has a counterpart in the architecture "llama". The
fused matrices are only split again between rows:

    embedding             token_embd           final_norm             output_norm
    output                output               (absent if tied: llama.cpp then uses token_embd)
    attention_norm        attn_norm            feed_forward_norm      ffn_norm
    attention.qkv         attn_q, attn_k, attn_v
    attention.output      attn_output          feed_forward.down      ffn_down
    feed_forward.gate_up  ffn_gate, ffn_up

Both rotate adjacent channels (ggml's rope type "norm"), so the order of the rows does not change.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Iterator
from types import ModuleType

from minimtp.errors import UserError
from minimtp.model.config import ModelConfig

# The tensors of each module of a block, without their prefix blk.N. and suffix .weight.
BLOCK_TENSORS = {
    "attention_norm": ("attn_norm",),
    "attention.qkv": ("attn_q", "attn_k", "attn_v"),
    "attention.output": ("attn_output",),
    "feed_forward_norm": ("ffn_norm",),
    "feed_forward.gate_up": ("ffn_gate", "ffn_up"),
    "feed_forward.down": ("ffn_down",),
}


def layout(config: ModelConfig) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield each module of the trunk with the tensors of its rows: (module, {tensor: rows}).

    The rows of the tensors, one after another, are the rows of the module.
    """
    rows = {
        "attn_q": config.num_heads * config.head_dim,
        "attn_k": config.num_kv_heads * config.head_dim,
        "attn_v": config.num_kv_heads * config.head_dim,
        "ffn_gate": config.intermediate_size,
        "ffn_up": config.intermediate_size,
    }
    yield "embedding", {"token_embd.weight": config.vocabulary_size}
    for i in range(config.num_layers):
        for module, names in BLOCK_TENSORS.items():
            tensors = {
                f"blk.{i}.{name}.weight": rows.get(name, config.hidden_size) for name in names
            }
            yield f"blocks.{i}.{module}", tensors
    yield "final_norm", {"output_norm.weight": config.hidden_size}
    if not config.tied_embeddings:
        yield "output", {"output.weight": config.vocabulary_size}


def gguf_library() -> ModuleType:
    """Return the library `gguf`. Raises UserError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError(
            "GGUF files need the extra interop: pip install 'minimtp[interop]'"
        ) from None
    return gguf
