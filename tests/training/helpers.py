"""Small recipes and the contents of a run folder, for the tests of training."""

import hashlib
from pathlib import Path

from minimtp.backend import choose_device
from minimtp.training.presets import preset
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.log import read_log

CONFIGURATIONS = {
    "plain": {},
    "parallel": {"heads": "parallel", "draft_depth": 2},
    "sequential, one by one": {"heads": "sequential", "draft_depth": 2, "curriculum": "forward"},
    "token-conditioned, rounded late": {
        "heads": "token_conditioned", "draft_depth": 3, "quantization": "qat", "quantize_from": 0.5
    },
    "learned steps, rounded late, one activation scale per token": {
        "quantization": "qat", "quantize_from": 0.5, "weight_grid": "int3-ggml-signed-g32",
        "weight_scales": "learned", "activations": "int8-token", "straight_through": "clip-round",
        "heads": "parallel", "draft_depth": 1, "ema_decay": 0.9,
    },
    "rounded and averaged": {"quantization": "qat", "ema_decay": 0.9},
    "rounded to 8 bits from the start": {
        "quantization": "qat", "weight_grid": "q8_0", "activations": "none"
    },
}  # fmt: skip


CPU = choose_device("cpu")


def quiet(line: str) -> None:
    """Ignore a report."""


def recipe_of(steps: int = 12, **changes: object) -> Recipe:
    return preset(
        "tiny",
        **{"context_length": 16, "tokens": steps * 4 * 16, "evaluation_tokens": 256} | changes,
    )


def losses(folder: Path) -> list[list[float]]:
    return [line["losses"] for line in read_log(folder) if "losses" in line]


def stored(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all arrays of a checkpoint, and its step."""
    read = checkpoint.read(folder)
    return {name: array.tobytes() for name, array in (read.parameters | read.optimizer).items()} | {
        "step": read.step
    }


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
