"""The sizes and variants of a model, under the names that recipes, options and files use."""

from dataclasses import dataclass

KV_CACHES = ("float32", "float16", "int8")  # number formats of a decoder's cache
MAX_DRAFTS = 15  # with the pending token, 16 rows, the number that the kernels verify best


@dataclass(frozen=True)
class ModelConfig:
    """The sizes that determine a transformer, and the ways in which related families differ.

    The variants are what Llama 3, Qwen2 and Qwen3 change. Their defaults are Llama 2's.
    """

    vocabulary_size: int  # V
    context_length: int  # the longest sequence it is trained on
    num_layers: int
    hidden_size: int  # D
    num_heads: int  # query heads
    num_kv_heads: int  # key/value heads; each is shared by num_heads / num_kv_heads query heads
    intermediate_size: int  # hidden size of the feed-forward part
    tied_embeddings: bool = True  # the output matrix is the token table
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    head_dim: int | None = None  # numbers per attention head; None: hidden_size / num_heads
    rope_scaling: str = "none"  # or "linear:..." or "llama3:...": model/rotary.py
    qkv_bias: bool = False  # Qwen2: queries, keys and values have a bias
    qk_norm: bool = False  # Qwen3: each query head and each key head is normalized

    def __post_init__(self) -> None:
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
