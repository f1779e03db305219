"""Which tensors of a file are the rows of each parameter of an EAGLE-3 head (formats/layout.py).

    ours                         GGUF                     Hugging Face
    fc_norm                      enc.output_norm          input_norm
    fc                           fc                       fc
    block.token_norm             blk.0.attn_norm          midlayer.input_layernorm
    block.state_norm             blk.0.attn_norm_2        midlayer.hidden_norm
    block.qkv                    blk.0.attn_q, _k, _v     midlayer.self_attn.{q,k,v}_proj
    block.attention_output       blk.0.attn_output        midlayer.self_attn.o_proj
    block.feed_forward_norm      blk.0.ffn_norm           midlayer.post_attention_layernorm
    block.feed_forward           blk.0.ffn_{gate,up,down} midlayer.mlp.{gate,up,down}_proj
    norm                         output_norm              norm
    output                       output                   lm_head
    draft_vocabulary.ids         d2t                      d2t, t2d

Folders of the library speculators say layers.0 for midlayer. The columns of queries, keys and
values read the token first and then the state, everywhere. Rotated channels are adjacent in GGUF,
as in our models, and C/2 apart in Hugging Face.

**The draft vocabulary.** d2t of a GGUF file holds the ids of the tokens. In a folder it holds their
distance from their index, ids[i] - i. t2d says of every token whether it is in the vocabulary.

**What a head shares with its model**, the token table and an output over all tokens, may be
missing. Programs differ in what they then take from the model. So a folder always has an output,
and a GGUF file has one if it differs from the model's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from minimtp.formats.gguf.layout import NAMES as GGUF
from minimtp.formats.huggingface.layout import NAMES as HUGGINGFACE
from minimtp.formats.layout import Names, Part
from minimtp.model.config import ModelConfig
from minimtp.model.heads import Eagle3Heads

IDS, MEMBERS = "d2t", "t2d"


@dataclass(frozen=True)
class HeadNames:
    """The names of a format. model: the names of what a transformer has too; `block` is complete.
    embedding: the head's own token table.
    """

    model: Names
    fc: str
    fc_norm: str
    state_norm: str
    embedding: str


GGUF_NAMES = HeadNames(
    model=replace(GGUF, block="blk.0"),
    fc="fc",
    fc_norm="enc.output_norm",
    state_norm="attn_norm_2",
    embedding="token_embd",
)
FOLDER_NAMES = HeadNames(
    model=replace(HUGGINGFACE, block="midlayer", final_norm="norm", output="lm_head"),
    fc="fc",
    fc_norm="input_norm",
    state_norm="hidden_norm",
    embedding="embed_tokens",
)
SPECULATORS_NAMES = replace(FOLDER_NAMES, model=replace(FOLDER_NAMES.model, block="layers.0"))


def head_layout(
    heads: Eagle3Heads, names: HeadNames, output_rows: int = 0
) -> Iterator[tuple[str, list[Part]]]:
    """Yield each parameter of the head with the tensors that are its rows.

    output_rows: V', or 0 for a file without an output.
    """
    config, model = heads.config, names.model
    size, features = config.hidden_size, len(heads.layers) * config.hidden_size

    def one(ours: str, name: str, *shape: int) -> tuple[str, list[Part]]:
        return f"{ours}.weight", [Part(f"{name}.weight", shape)]

    if heads.fc_norm is not None:
        yield one("fc_norm", names.fc_norm, features)
    yield one("fc", names.fc, size, features)
    yield one("block.token_norm", f"{model.block}.{model.attention_norm}", size)
    yield one("block.state_norm", f"{model.block}.{names.state_norm}", size)
    yield "block.qkv.weight", list(_qkv(config, model))
    queries = config.num_heads * config.head_dim
    yield one("block.attention_output", f"{model.block}.{model.attention_output}", size, queries)
    yield one("block.feed_forward_norm", f"{model.block}.{model.feed_forward_norm}", size)
    inner = config.intermediate_size
    gate_up = [
        Part(f"{model.block}.{name}.weight", (inner, size)) for name in (model.gate, model.up)
    ]
    yield "block.feed_forward.gate_up.weight", gate_up
    yield one("block.feed_forward.down", f"{model.block}.{model.down}", size, inner)
    yield one("norm", model.final_norm, size)
    if output_rows:
        yield one("output", model.output, output_rows, size)


def _qkv(config: ModelConfig, model: Names) -> Iterator[Part]:
    kv_rows = config.num_kv_heads * config.head_dim
    rows = {model.queries: config.num_heads * config.head_dim, model.keys: kv_rows}
    for name, count in (rows | {model.values: kv_rows}).items():
        shape = (count, 2 * config.hidden_size)
        yield Part(f"{model.block}.{name}.weight", shape, rotated=name != model.values)
