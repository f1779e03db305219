"""The sizes of a model, under the names that recipes, options and files use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """The sizes that determine a transformer."""

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

    @property
    def head_dim(self) -> int:
        """Numbers per attention head."""
        return self.hidden_size // self.num_heads
