"""What the measured times of forward passes depend on, so that stored times are used again only
where they hold (cost.py).
"""

import hashlib
from pathlib import Path

import minimtp
from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode import model_runner
from minimtp.decode.model_runner import ModelRunner
from minimtp.machine import processor
from minimtp.model.loaded import LoadedModel
from minimtp.model.matrix import bits_per_weight


def cost_identity(loaded: LoadedModel, target: ModelRunner) -> dict[str, object]:
    """Return the named properties on which the time of a forward pass depends."""
    norm: Array = target.final_norm
    device = "cpu" if array_module(norm) is np else "cuda"
    folder = Path(kernels.__file__).parent
    sources = sorted(path for kind in ("py", "cu", "cuh") for path in folder.rglob(f"*.{kind}"))
    sources.append(Path(model_runner.__file__))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    return {
        "minimtp": minimtp.__version__,
        "code": code,
        "numpy": np.__version__,
        "processor": processor(device),
        "kernels": kernels.describe(device)[0] if target.rows_at_once else "plain, row by row",
        "model": vars(target.config),
        "context_length": target.context_length,
        "bits per weight": round(bits_per_weight(loaded.model), 3),
        "dtype": str(norm.dtype),
        "cache": str(target.cache.keys.dtype),
        "threads": target.threads,
    }
