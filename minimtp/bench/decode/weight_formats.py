"""One model's weights in 32, 8 and 4 bits, decoded plainly and with drafts, beside others: a part of `minimtp bench decode`.

All take turns on the same prompts (code, where it is measured), on the CPU with one thread each. Weights are rounded to nearest
here: what rounding costs in quality is the business of `minimtp bench quality`. A model that is packed already is measured as
it is. PyTorch decodes the float weights (../torch_peer), eagerly, and on a GPU also with a token's pass as a CUDA graph, in
float32 and in float16; llama.cpp decodes every form of the trunk on the CPU (../llama_peer). Both go through the same loop, so
what differs is the pass alone. Where a peer is missing, the report says so.

On a GPU half precision is what everybody decodes with, so the form in float16 comes first, and the others are held against it.
There decoding one token can be no faster than its memory. So beside each form stand the seconds of a pass over one token, on
the device's own clock, and what share of its copy bandwidth they make with the bytes that such a pass cannot do without: every
weight of a product once, and the keys and values of the tokens before it. The host launches each pass, and where that takes
longer than the pass, as for small models, the share is the host's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from minimtp.backend import Device, choose_device
from minimtp.backend import numpy as np
from minimtp.bench import gpu
from minimtp.bench.baselines.llama_cpp import LlamaDecoder
from minimtp.bench.baselines.pytorch.decoding import GraphedTorchDecoder, TorchDecoder
from minimtp.bench.interleaved import Variant, measure_interleaved
from minimtp.decode.decoder import CONFIDENCE, deploy
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.policy.adaptive import AdaptivePolicy
from minimtp.decode.policy.cost import Costs
from minimtp.decode.runtime import ModelRunner
from minimtp.decode.sampling import SamplingParams
from minimtp.errors import UserError
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed import bits_per_weight, weight_bytes
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.modules import QuantizationSpec, convert
from minimtp.training.checkpoint import LoadedRun

ROUNDED = {"int8": QuantizationSpec(weights="q8_0", heads="q8_0"), "int4": QuantizationSpec()}
HALF = QuantizationSpec(weights="f16", embedding="f16", heads="f16")
TORCH, LLAMA = "PyTorch", "llama.cpp"
CALLS = 16  # passes that are timed together


@dataclass
class Form:
    """One model's weights in one form, ready to decode: bytes of all of them, and of those that a pass over a token reads."""

    name: str
    target: ModelRunner | TorchDecoder | LlamaDecoder
    heads: Drafter | None
    bytes: int
    bits: float
    bytes_of_a_pass: int


def models(loaded: LoadedRun, device: str) -> dict[str, LanguageModel]:
    """The model in every form that is measured; the first is what all the others are held against."""
    if loaded.packed is not None or loaded.fake_quantized:
        return {"packed": convert(loaded.model) if loaded.fake_quantized else loaded.model}
    half = {} if device == "cpu" else {"fp16": round_to_nearest(loaded.model, HALF)}
    packed = {name: round_to_nearest(loaded.model, spec) for name, spec in ROUNDED.items()}
    return half | {"fp32": loaded.model} | packed


def deployed(name: str, model: LanguageModel) -> Form:
    """The model as `minimtp generate` decodes it."""
    target, heads = deploy(model)
    return Form(
        name, target, heads, weight_bytes(model), bits_per_weight(model), bytes_of_a_pass(model)
    )


def bytes_of_a_pass(model: LanguageModel) -> int:
    """Bytes of the weights that a token needs on its way: the trunk's, but one row only of a table that is only looked up."""
    trunk = model.trunk
    table = weight_bytes(trunk.embedding)
    return weight_bytes(trunk) - (
        0 if trunk.output is None else table - table // trunk.config.vocabulary_size
    )


def in_torch(loaded: LoadedRun, device: str) -> tuple[list[Form], dict[str, str]]:
    """(the same weights in PyTorch, why it is missing)."""
    if loaded.packed is not None or loaded.fake_quantized:
        return [], {TORCH: "decodes full precision only, and these weights are packed"}
    if find_spec("torch") is None:
        return [], {TORCH: "is not installed; pip install torch measures it too"}
    kinds = [("fp32", "float32", TorchDecoder)]
    if device != "cpu":
        kinds += [("fp32, CUDA graph", "float32", GraphedTorchDecoder), ("fp16", "float16", TorchDecoder),
                  ("fp16, CUDA graph", "float16", GraphedTorchDecoder)]  # fmt: skip
    found, model = [], loaded.model
    try:
        for name, dtype, decoder in kinds:
            share = np.dtype(dtype).itemsize / np.dtype(np.float32).itemsize
            size, read = (
                int(share * count) for count in (weight_bytes(model), bytes_of_a_pass(model))
            )
            target = decoder(model.trunk, device, dtype)
            found.append(
                Form(f"{TORCH} {name}", target, None, size, share * bits_per_weight(model), read)
            )
    except ImportError as error:
        return [], {TORCH: f"cannot be used: {str(error).splitlines()[0]}"}
    return found, {}


def in_llama(models: dict[str, LanguageModel], device: str) -> tuple[list[Form], dict[str, str]]:
    """(the trunks of the models in llama.cpp, why it is missing)."""
    if device != "cpu":
        return [], {LLAMA: "is measured on the CPU only"}
    if find_spec("llama_cpp") is None:
        return [], {LLAMA: "is not installed; pip install llama-cpp-python measures it too"}
    found = []
    try:
        for name, model in models.items():
            target, size = LlamaDecoder.of(model), weight_bytes(model.trunk)
            found.append(
                Form(
                    f"{LLAMA} {name}",
                    target,
                    None,
                    size,
                    bits_per_weight(model.trunk),
                    bytes_of_a_pass(model),
                )
            )
    except (
        ImportError,
        RuntimeError,
        OSError,
        UserError,
    ) as error:  # a library that is not whole, a model that is no GGUF
        return [], {LLAMA: f"cannot be measured: {str(error).splitlines()[0]}"}
    return found, {}


def variants(all_forms: Sequence[Form]) -> dict[str, tuple[Variant, Form]]:
    """The decoders by name, with and without heads."""
    found = {}
    for form in all_forms:
        found[form.name] = Variant(form.name, form.target), form
        if form.heads is not None:
            name, most = f"{form.name} + heads", form.heads.max_depth
            lengths = partial(AdaptivePolicy, Costs(form.target, most), most)
            found[name] = (
                Variant(name, form.target, form.heads, most, CONFIDENCE, policy=lengths),
                form,
            )
    return found


def measure_weight_formats(
    loaded: LoadedRun,
    prompts: Sequence[np.ndarray],
    temperatures: Sequence[float],
    *,
    device: str,
    max_new_tokens: int,
    repeats: int,
    seed: int,
) -> dict[str, object]:
    """Rows by temperature and name, each with its speed-up over the first; and why peers are missing.

    On a GPU also its copy bandwidth, and a form's pass over one token in the middle of such a text.
    """
    measured = models(loaded, device)
    ours = [deployed(name, model) for name, model in measured.items()]
    torch, torch_is_missing = in_torch(loaded, device)
    llama, llama_is_missing = in_llama(measured, device)
    racing = variants([*ours, *torch, *llama])
    rows = []
    for temperature in temperatures:
        found = measure_interleaved(
            [variant for variant, _ in racing.values()], prompts, max_new_tokens=max_new_tokens, sampling=SamplingParams(temperature), repeats=repeats,
            seed=seed,
        )  # fmt: skip
        baseline = found[ours[0].name]
        rows += [
            {
                "name": name, "temperature": temperature, "weight_bytes": form.bytes, "bits_per_weight": form.bits,
                "tokens_per_second": found[name].tokens_per_second, "slowest": found[name].slowest,
                "fastest": found[name].fastest, "tokens_per_step": found[name].tokens_per_step,
                "speedup": found[name].speedup_over(baseline),
            }
            for name, (_, form) in racing.items()
        ]  # fmt: skip
    result = {"rows": rows, "missing": torch_is_missing | llama_is_missing}
    if device != "cpu":
        length = min(len(prompts[0]) + max_new_tokens // 2, loaded.recipe.context_length - 1)
        result |= passes([*ours, *torch], np.resize(prompts[0], length), choose_device(device))
    return result


def passes(all_forms: Sequence[Form], text: np.ndarray, device: Device) -> dict[str, object]:
    """A pass over one token behind a text (T,): its microseconds on the GPU's clock, the bytes it has to read, and the share of
    the copy bandwidth that this makes."""
    bandwidth, found = gpu.copy_gigabytes_per_second(device.xp), {}
    for form in all_forms:
        form.target.truncate(0)
        form.target.forward(text)
        seconds, cache = _seconds(form.target, device), _cache_bytes(form.target)
        size = form.bytes_of_a_pass + cache * len(text) // form.target.context_length
        found[form.name] = {
            "microseconds": 1e6 * seconds, "bytes": size, "share_of_copy": size / seconds / 1e9 / bandwidth
        }  # fmt: skip
        form.target.truncate(0)
    return {"copy_gigabytes_per_second": bandwidth, "cached_tokens": len(text), "passes": found}


def _seconds(target: ModelRunner | TorchDecoder, device: Device) -> float:
    """Of the GPU, for a pass over one token behind those that are cached."""
    if isinstance(target, TorchDecoder):
        return target.seconds_of_a_pass(CALLS, gpu.TIMES)
    length, token = target.length, np.zeros(1, np.int64)

    def run() -> None:
        for _ in range(CALLS):
            target.forward(token)
            target.truncate(length)

    return gpu.median_elapsed(device.xp, run, gpu.TIMES) / CALLS


def _cache_bytes(target: ModelRunner | TorchDecoder) -> int:
    """Of keys and values for the whole context."""
    cache = target if isinstance(target, TorchDecoder) else target.cache
    return cache.keys.nbytes + cache.values.nbytes
