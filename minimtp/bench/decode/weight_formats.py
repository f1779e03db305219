"""Decoding one model with weights in 32, 8 and 4 bits, with and without drafts, compared with the
baselines.

This is a part of `minimtp bench decode`. All variants alternate on the same prompts (code, if it is
measured). On the CPU each uses one thread. Weights are rounded to nearest here. `minimtp bench
quality` measures the loss of quality. A model that is already packed is not rounded again.

PyTorch decodes the float weights eagerly (../baselines/pytorch). On a GPU it also decodes with the
forward pass over one token as a CUDA graph, in float32 and in float16. llama.cpp decodes every
format of the trunk on the CPU (../baselines/llama_cpp/). Both use our decoding loop, so only the
forward pass differs. The report says which baseline is missing and why.

On a GPU decoding normally uses half precision. The float16 format therefore comes first, and the
others are compared with it. Memory bandwidth limits the speed. Each format is shown with the time
of a forward pass over one token, by the device's own clock, and its share of the copy bandwidth.
The share counts the bytes that the pass must read: every weight of a matrix product once, and the
cached keys and values. The host launches each pass. If launching takes longer than the pass, as for
small models, the share shows the speed of the host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from minimtp.backend import Device, choose_device
from minimtp.backend import numpy as np
from minimtp.bench import gpu
from minimtp.bench.baselines.llama_cpp.decoder import LlamaDecoder, decoder_of
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess, find_llama
from minimtp.bench.baselines.pytorch.decoding import GraphedTorchDecoder, TorchDecoder
from minimtp.bench.decode.prompts import Sizes
from minimtp.bench.interleaved import Variant, measure_interleaved
from minimtp.decode.drafters.config import CONFIDENCE
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.policy.adaptive import AdaptivePolicy
from minimtp.decode.policy.cost import Costs
from minimtp.decode.sampling.params import SamplingParams
from minimtp.errors import MeasurementFailed, UserError
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.model.tokenizer import Tokenizer
from minimtp.model.transformer import LanguageModel
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.run.folder import LoadedRun

ROUNDED = {"int8": QuantizationSpec(weights="q8_0", heads="q8_0"), "int4": QuantizationSpec()}
HALF = QuantizationSpec(weights="f16", embedding="f16", heads="f16")
TORCH, LLAMA = "PyTorch", "llama.cpp"
CALLS = 16  # forward passes timed together


@dataclass
class Format:
    """One model's weights in one format, ready to decode."""

    name: str
    target: ModelRunner | TorchDecoder | LlamaDecoder | LlamaProcess
    heads: Drafter | None
    bytes: int  # all weights
    bits: float  # per weight
    bytes_per_pass: int  # weights that a forward pass over one token reads


def models(loaded: LoadedRun, device: str) -> dict[str, LanguageModel]:
    """Return the model in every format. The others are compared with the first."""
    if loaded.packed is not None or loaded.fake_quantized:
        return {"packed": convert(loaded.model) if loaded.fake_quantized else loaded.model}
    half = {} if device == "cpu" else {"fp16": round_to_nearest(loaded.model, HALF)}
    packed = {name: round_to_nearest(loaded.model, spec) for name, spec in ROUNDED.items()}
    return half | {"fp32": loaded.model} | packed


def deployed(name: str, model: LanguageModel) -> Format:
    """Return the model as `minimtp generate` decodes it."""
    target, heads = deploy(model)
    size, bits = weight_bytes(model), bits_per_weight(model)
    return Format(name, target, heads, size, bits, bytes_per_pass(model))


def bytes_per_pass(model: LanguageModel) -> int:
    """Return the bytes of the trunk's weights that a forward pass over one token reads.

    An untied token table counts with one row, because it is only looked up.
    """
    trunk = model.trunk
    if trunk.output is None:
        return weight_bytes(trunk)
    table = weight_bytes(trunk.embedding)
    return weight_bytes(trunk) - (table - table // trunk.config.vocabulary_size)


def in_torch(loaded: LoadedRun, device: str) -> tuple[list[Format], dict[str, str]]:
    """Return (the same weights in PyTorch, why PyTorch is missing)."""
    if loaded.packed is not None or loaded.fake_quantized:
        return [], {TORCH: "decodes full precision only, and these weights are packed"}
    if find_spec("torch") is None:
        return [], {TORCH: "is not installed; pip install torch to measure it too"}
    kinds = [("fp32", "float32", TorchDecoder)]
    if device != "cpu":
        kinds += [
            ("fp32, CUDA graph", "float32", GraphedTorchDecoder),
            ("fp16", "float16", TorchDecoder),
            ("fp16, CUDA graph", "float16", GraphedTorchDecoder),
        ]
    found, model = [], loaded.model
    try:
        for name, dtype, decoder in kinds:
            share = np.dtype(dtype).itemsize / np.dtype(np.float32).itemsize
            target = decoder(model.trunk, device, dtype)
            size = int(share * weight_bytes(model))
            read = int(share * bytes_per_pass(model))
            bits = share * bits_per_weight(model)
            found.append(Format(f"{TORCH} {name}", target, None, size, bits, read))
    except ImportError as error:
        return [], {TORCH: str(error).splitlines()[0]}
    return found, {}


def in_llama(
    measured: Mapping[str, LanguageModel], tokenizer: Tokenizer, device: str, context: int
) -> tuple[list[Format], dict[str, str]]:
    """Return (the trunks of the models in llama.cpp, why llama.cpp is missing).

    context: the number of tokens that llama.cpp's cache holds.
    """
    if device != "cpu":
        return [], {LLAMA: "is measured on the CPU only"}
    python, _, obstacle = find_llama()
    if python is None:
        return [], {LLAMA: obstacle}
    found = []
    try:
        for name, model in measured.items():
            target = decoder_of(model, tokenizer, context=context)
            size, bits = weight_bytes(model.trunk), bits_per_weight(model.trunk)
            read = bytes_per_pass(model)
            found.append(Format(f"{LLAMA} {name}", target, None, size, bits, read))
    # The library may be incomplete, and some models do not fit a GGUF file.
    except (ImportError, RuntimeError, OSError, MeasurementFailed, UserError) as error:
        return [], {LLAMA: f"cannot be measured: {str(error).splitlines()[0]}"}
    return found, {}


def variants(formats: Sequence[Format]) -> dict[str, tuple[Variant, Format]]:
    """Return the decoders by name, with and without heads."""
    found = {}
    for form in formats:
        found[form.name] = Variant(form.name, form.target), form
        if form.heads is not None:
            name, depth = f"{form.name} + heads", form.heads.max_depth
            policy = partial(AdaptivePolicy, Costs(form.target, depth), depth)
            variant = Variant(name, form.target, form.heads, depth, CONFIDENCE, policy=policy)
            found[name] = variant, form
    return found


def measure_weight_formats(
    loaded: LoadedRun,
    prompts: Sequence[np.ndarray],
    temperatures: Sequence[float],
    sizes: Sizes,
    *,
    device: str,
    seed: int,
) -> dict[str, object]:
    """Return rows by temperature and name, with speed-ups over the first, and the missing
    baselines.

    On a GPU also its copy bandwidth and a forward pass over one token in the middle of a text.
    """
    measured = models(loaded, device)
    ours = [deployed(name, model) for name, model in measured.items()]
    torch, torch_is_missing = in_torch(loaded, device)
    context = min(sizes.prompt + sizes.max_new_tokens, loaded.config.context_length)
    llama, llama_is_missing = in_llama(measured, loaded.tokenizer, device, context)
    compared = variants([*ours, *torch, *llama])
    rows = []
    for temperature in temperatures:
        speeds = measure_interleaved(
            [variant for variant, _ in compared.values()],
            prompts,
            max_new_tokens=sizes.max_new_tokens,
            sampling=SamplingParams(temperature),
            repeats=sizes.repeats,
            seed=seed,
        )
        baseline = speeds[ours[0].name]
        for name, (_, form) in compared.items():
            speed = speeds[name]
            rows.append({
                "name": name, "temperature": temperature, "weight_bytes": form.bytes,
                "bits_per_weight": form.bits, "tokens_per_second": speed.tokens_per_second,
                "slowest": speed.slowest, "fastest": speed.fastest,
                "tokens_per_step": speed.tokens_per_step, "speedup": speed.speedup_over(baseline),
            })  # fmt: skip
    result = {"rows": rows, "missing": torch_is_missing | llama_is_missing}
    if device != "cpu":
        middle = len(prompts[0]) + sizes.max_new_tokens // 2
        length = min(middle, loaded.recipe.context_length - 1)
        result |= passes([*ours, *torch], np.resize(prompts[0], length), choose_device(device))
    return result


def passes(formats: Sequence[Format], text: np.ndarray, device: Device) -> dict[str, object]:
    """Measure a forward pass over one token after the tokens `text` (T,), for each format.

    Gives its microseconds by the GPU's clock, the bytes it has to read, and their share of the copy
    bandwidth.
    """
    bandwidth, found = gpu.copy_gigabytes_per_second(device.xp), {}
    for form in formats:
        form.target.truncate(0)
        form.target.forward(text)
        seconds, cache = _seconds_per_pass(form.target, device), _cache_bytes(form.target)
        size = form.bytes_per_pass + cache * len(text)
        share = size / seconds / 1e9 / bandwidth
        found[form.name] = {"microseconds": 1e6 * seconds, "bytes": size, "share_of_copy": share}
        form.target.truncate(0)
    return {"copy_gigabytes_per_second": bandwidth, "cached_tokens": len(text), "passes": found}


def _seconds_per_pass(target: ModelRunner | TorchDecoder, device: Device) -> float:
    """Return the GPU seconds of a forward pass over one token after the cached tokens."""
    if isinstance(target, TorchDecoder):
        return target.seconds_per_pass(CALLS, gpu.TIMES)
    length, token = target.length, np.zeros(1, np.int64)

    def run() -> None:
        for _ in range(CALLS):
            target.forward(token)
            target.truncate(length)

    return gpu.median_elapsed(device.xp, run, gpu.TIMES) / CALLS


def _cache_bytes(target: ModelRunner | TorchDecoder) -> int:
    """Return the bytes of the keys and values of one position."""
    cache = target if isinstance(target, TorchDecoder) else target.cache
    return (cache.keys.nbytes + cache.values.nbytes) // cache.context_length
