"""One model's weights in 32, 8 and 4 bits, decoded plainly and with drafts, beside others: a part of `minimtp bench decode`.

All take turns on the same prompts (code, where it is measured), one thread each. Weights are rounded to nearest here: what
rounding costs in quality is the business of `minimtp bench quality`. A model that is packed already is measured as it is.
PyTorch decodes the 32-bit weights eagerly (torch_peer.py) and llama.cpp every form of the trunk (llama_peer.py), both through
the same loop, so what differs is the pass alone. Where a peer is missing, the report says so.
"""

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

from minimtp.backend import numpy as np
from minimtp.decode.adaptive import AdaptiveLength
from minimtp.decode.cost import Costs
from minimtp.decode.deploy import CONFIDENCE, deploy
from minimtp.decode.measure import Contestant, race
from minimtp.decode.sampling import Law
from minimtp.errors import UserError
from minimtp.llama_peer import LlamaDecoder
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed import bits_per_weight, weight_bytes
from minimtp.quant.ptq import round_to_nearest
from minimtp.quant.qat import QuantizationSpec
from minimtp.torch_peer import TorchDecoder
from minimtp.training.checkpoint import LoadedRun

ROUNDED = {"int8": QuantizationSpec(weights="q8_0", heads="q8_0"), "int4": QuantizationSpec()}
TORCH, LLAMA = "PyTorch", "llama.cpp"


def contestants(loaded: LoadedRun, device: str) -> tuple[list[Contestant], dict[str, tuple[int, float]], dict[str, str]]:
    """(the decoders, (bytes, bits a weight) of their weights by name, why peers are missing); the first is the baseline."""
    if loaded.packed is not None or loaded.fake_quantized:
        models = {"packed": loaded.model}
    else:
        models = {"fp32": loaded.model} | {name: round_to_nearest(loaded.model, spec) for name, spec in ROUNDED.items()}
    found, weights = [], {}
    for name, model in models.items():
        target, heads = deploy(model)
        found.append(Contestant(name, target))
        weights[name] = weight_bytes(model), bits_per_weight(model)
        if heads is not None:
            lengths = partial(AdaptiveLength, Costs(target, heads.max_depth), heads.max_depth)
            found.append(Contestant(f"{name} + heads", target, heads, heads.max_depth, CONFIDENCE, lengths=lengths))
            weights[f"{name} + heads"] = weights[name]
    peers, missing = _llama(models, device)
    found += peers
    for peer, model in zip(peers, models.values(), strict=False):
        weights[peer.name] = weight_bytes(model.trunk), bits_per_weight(model.trunk)
    if "fp32" not in models:
        missing[TORCH] = "decodes full precision only, and these weights are packed"
    elif device != "cpu":
        missing[TORCH] = "is measured on the CPU only"
    elif find_spec("torch") is None:
        missing[TORCH] = "is not installed; pip install torch measures it too"
    else:
        try:
            found.append(Contestant(f"{TORCH} fp32", TorchDecoder(loaded.model.trunk)))
            weights[f"{TORCH} fp32"] = weights["fp32"]
        except ImportError as error:
            missing[TORCH] = f"cannot be imported: {str(error).splitlines()[0]}"
    return found, weights, missing


def _llama(models: dict[str, LanguageModel], device: str) -> tuple[list[Contestant], dict[str, str]]:
    """(llama.cpp with each of the models, or none, why it is missing)."""
    if device != "cpu":
        return [], {LLAMA: "is measured on the CPU only"}
    if find_spec("llama_cpp") is None:
        return [], {LLAMA: "is not installed; pip install llama-cpp-python measures it too"}
    try:
        return [Contestant(f"{LLAMA} {name}", LlamaDecoder.of(model)) for name, model in models.items()], {}
    except (ImportError, RuntimeError, OSError, UserError) as error:  # a library that is not whole, a model that is no GGUF
        return [], {LLAMA: f"cannot be measured: {str(error).splitlines()[0]}"}


def measure(
    loaded: LoadedRun,
    prompts: Sequence[np.ndarray],
    temperatures: Sequence[float],
    *,
    device: str,
    max_new: int,
    repeats: int,
    seed: int,
) -> dict[str, object]:
    """Rows by temperature and name, each with its speed-up over the first; and why peers are missing."""
    racing, weights, missing = contestants(loaded, device)
    rows = []
    for temperature in temperatures:
        found = race(racing, prompts, max_new=max_new, law=Law(temperature), repeats=repeats, seed=seed)
        for contestant in racing:
            name, speed = contestant.name, found[contestant.name]
            rows.append({
                "name": name, "temperature": temperature, "weight_bytes": weights[name][0], "bits_per_weight": weights[name][1],
                "tokens_per_second": speed.tokens_per_second, "slowest": speed.slowest, "fastest": speed.fastest,
                "tokens_per_step": speed.tokens_per_step, "speedup": speed.speedup_over(found[racing[0].name]),
            })  # fmt: skip
    return {"rows": rows, "missing": missing}
