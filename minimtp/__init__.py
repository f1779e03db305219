"""minimtp: multi-token prediction, quantization-aware training and exact speculative decoding from scratch.

    import minimtp
    run = minimtp.load("runs/mine")
    text = run.tokenizer.decode(list(minimtp.generate(run, "def main(", max_new_tokens=64)))

The functions below are imported when first used, so that `import minimtp` stays quick.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME_OF = {
    "load": "minimtp.training.checkpoint",
    "generate": "minimtp.decode.decoder",
    "Decoder": "minimtp.decode.decoder",
    "DraftConfig": "minimtp.decode.decoder",
    "SamplingParams": "minimtp.decode.sampling",
    "train": "minimtp.training.run",
    "evaluate": "minimtp.training.evaluate",
    "quantize": "minimtp.training.quantize",
    "export": "minimtp.formats.gguf.gguf",
    "Recipe": "minimtp.training.recipe",
    "UserError": "minimtp.errors",
}
__all__ = [*_HOME_OF]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'minimtp' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
