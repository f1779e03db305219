"""How a file says that RoPE is changed for a longer context, and how our configuration says it.

Linear scaling has a factor in the metadata. Llama 3's is stored as its result, a tensor with a
factor for each frequency, so the numbers that gave it are found by trying those of the published
models, and those that `minimtp export` adds to its files.
"""

from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown
from minimtp.formats.gguf.container import GgufFile
from minimtp.formats.gguf.metadata import Metadata
from minimtp.model.config import ModelConfig
from minimtp.model.rotary import scaled

ROPE_FACTORS = "rope_freqs.weight"
OWN_KEY = "minimtp.rope_scaling"
LLAMA3 = [f"llama3:{factor}:1:4:8192" for factor in (8, 32, 4, 16, 2, 64)]


def factors_of(config: ModelConfig) -> np.ndarray | None:
    """Return the factors (C/2,) that a file stores for Llama 3's scaling, or None without it."""
    if not config.rope_scaling.startswith("llama3"):
        return None
    base = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    return (base / scaled(base, config.rope_scaling)).astype(np.float32)


def scaling_of(file: GgufFile, metadata: Metadata) -> str:
    """Return the rope_scaling of the configuration. Raises UserError if it is not supported."""
    sizes = metadata.sizes
    kind = sizes["rope.scaling.type"]
    if kind not in ("none", "linear") or (kind == "linear" and ROPE_FACTORS in file.tensors):
        raise UserError(
            f"{file.path}: RoPE scaling {shown(kind)} is not supported (supported: linear, and "
            "Llama 3's): give another file"
        )
    if kind == "linear":
        factor = float(str(np.float32(sizes["rope.scaling.factor"])))
        text = f"{factor:g}" if float(f"{factor:g}") == factor else repr(factor)
        return "none" if factor == 1.0 else f"linear:{text}"
    if ROPE_FACTORS not in file.tensors:
        return "none"
    head_dim = sizes["attention.key_length"]
    head_dim = head_dim or sizes["embedding_length"] // sizes["attention.head_count"]
    tensor = file.tensors[ROPE_FACTORS]
    if tensor.type == "f32" and tensor.shape == (head_dim // 2,):
        factors = file.array(ROPE_FACTORS)
        base = sizes["rope.freq_base"] ** (-np.arange(0, head_dim, 2) / head_dim)
        own = metadata.general[OWN_KEY]
        for known in [own, *LLAMA3] if own and own.startswith("llama3:") else LLAMA3:
            if np.allclose(base / scaled(base, known), factors, rtol=1e-4):
                return known
    raise UserError(
        f"{file.path}: the RoPE scaling in {ROPE_FACTORS} is not supported (supported: the factors "
        "of Llama 3.1 and 3.2): give another file"
    )
