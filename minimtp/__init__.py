"""minimtp: multi-token prediction, quantization-aware training and exact speculative decoding.

    import minimtp
    loaded = minimtp.load("runs/mine")
    tokens = minimtp.generate(loaded, "def main(", max_new_tokens=64)
    print(loaded.tokenizer.decode(list(tokens)))

Each name below is imported when it is first used, so that `import minimtp` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers: the same names as in _HOME_OF
    from minimtp.decode.decoder import Decoder as Decoder
    from minimtp.decode.decoder import generate as generate
    from minimtp.decode.drafters.config import DraftConfig as DraftConfig
    from minimtp.decode.sampling.params import SamplingParams as SamplingParams
    from minimtp.errors import UserError as UserError
    from minimtp.formats.export import export as export
    from minimtp.formats.load import load as load
    from minimtp.formats.load import load_draft as load_draft
    from minimtp.model.loaded import LoadedModel as LoadedModel
    from minimtp.training.evaluate import evaluate as evaluate
    from minimtp.training.quantize import quantize as quantize
    from minimtp.training.recipe import Recipe as Recipe
    from minimtp.training.run.start import Start as Start
    from minimtp.training.run.train import train as train

__version__ = "0.2.0"

_HOME_OF = {
    "Decoder": "minimtp.decode.decoder",
    "DraftConfig": "minimtp.decode.drafters.config",
    "LoadedModel": "minimtp.model.loaded",
    "Recipe": "minimtp.training.recipe",
    "SamplingParams": "minimtp.decode.sampling.params",
    "Start": "minimtp.training.run.start",
    "UserError": "minimtp.errors",
    "evaluate": "minimtp.training.evaluate",
    "export": "minimtp.formats.export",
    "generate": "minimtp.decode.decoder",
    "load": "minimtp.formats.load",
    "load_draft": "minimtp.formats.load",
    "quantize": "minimtp.training.quantize",
    "train": "minimtp.training.run.train",
}
__all__ = [*_HOME_OF]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'minimtp' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
