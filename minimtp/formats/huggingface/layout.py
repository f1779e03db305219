"""The names of the tensors in a Hugging Face folder (formats/layout.py)."""

from minimtp.formats.layout import Names

NAMES = Names(
    embedding="model.embed_tokens",
    block="model.layers.{}",
    attention_norm="input_layernorm",
    queries="self_attn.q_proj",
    keys="self_attn.k_proj",
    values="self_attn.v_proj",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
    attention_output="self_attn.o_proj",
    feed_forward_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    final_norm="model.norm",
    output="lm_head",
)
