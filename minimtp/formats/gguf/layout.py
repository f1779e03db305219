"""The names of the tensors in a GGUF file, the format of llama.cpp (formats/layout.py).

A tied output is absent: llama.cpp then uses token_embd. The architecture "llama" rotates adjacent
channels (ggml's rope type "norm"), as our models do. The architectures in HALVES rotate channel i
together with channel i + C/2 (rope type "neox").

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from types import ModuleType

from minimtp import extras
from minimtp.formats.layout import Names

HALVES = ("qwen2", "qwen3")
NAMES = Names(
    embedding="token_embd",
    block="blk.{}",
    attention_norm="attn_norm",
    queries="attn_q",
    keys="attn_k",
    values="attn_v",
    query_norm="attn_q_norm",
    key_norm="attn_k_norm",
    attention_output="attn_output",
    feed_forward_norm="ffn_norm",
    gate="ffn_gate",
    up="ffn_up",
    down="ffn_down",
    final_norm="output_norm",
    output="output",
)


def gguf_library() -> ModuleType:
    """Return the library `gguf`. Raises UserError if it cannot be used."""
    return extras.require("gguf", "writing GGUF files")
