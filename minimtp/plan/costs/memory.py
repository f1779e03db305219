"""Memory: the weights, the cache, and how many requests fit.

    weights   (layers x weights per layer x bits + tables x table bits) / 8         bytes
    cache     2 (keys and values) x layers x width of the keys x cache bits / 8     bytes per token

A draft head (see `Drafter`) adds its own layers and its cache. The norms are left out: they are
less than a thousandth.
"""

from msgspec import Struct

from minimtp.plan.costs.sizes import GIGA, Hardware, ModelSize, Precision


class Drafter(Struct, frozen=True):
    """The prediction head: `layers` layers of the model's own size, and matrices (hidden, 2 hidden)
    that join a hidden state with the next token, as in DeepSeek-V3 (2412.19437, section 2.2) and
    EAGLE (2401.15077). It shares the model's output matrix.

    vocabulary: rows of the output matrix that it uses; None uses all. EAGLE-3 uses 32,000.
    """

    layers: int = 1
    vocabulary: int | None = None

    def weights(self, model: ModelSize) -> int:
        """Return the number of weights of its own."""
        return self.layers * (model.layer_weights + 2 * model.hidden_size**2)

    def output_weights(self, model: ModelSize) -> int:
        """Return the weights of the output matrix that it reads for each draft."""
        return min(self.vocabulary or model.vocab_size, model.vocab_size) * model.hidden_size


def weight_bytes(model: ModelSize, precision: Precision, drafter: Drafter | None = None) -> float:
    """Return the bytes of all weights."""
    tables = (1 if model.tie_word_embeddings else 2) * model.table_weights
    matrices = model.parameters - tables
    if drafter:
        matrices += drafter.weights(model)
    return (matrices * precision.bits + tables * precision.table_bits) / 8


def cache_bytes_per_token(
    model: ModelSize, cache_bits: float, drafter: Drafter | None = None
) -> float:
    """Return the bytes of keys and values of one token in all layers."""
    layers = model.num_hidden_layers + (drafter.layers if drafter else 0)
    return 2 * layers * model.kv_size * cache_bits / 8


def usable_bytes(hardware: Hardware, devices: int, share: float) -> float:
    """Return the memory of `devices` devices that weights and cache may use.

    share: the rest is for activations and the runtime.
    """
    return hardware.memory_gigabytes * GIGA * devices * share


def max_requests(usable: float, weights: float, bytes_per_token: float, tokens: int) -> int:
    """Return how many requests of `tokens` tokens fit beside the weights; 0 if none fits."""
    return max(0, int((usable - weights) // (bytes_per_token * tokens)))
