"""The measurements of a comparison on a pretrained model: quality, decoding speed, and memory.

Texts are greedy and alternate prompt by prompt (bench/interleaved.py), for each kind of prompt on
its own, on one thread. A text ends at the model's end tokens, as for a user. Every drafted text
must equal plain decoding of the same weights.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from tqdm import tqdm

from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.bench.agreement import batch_invariant, check_greedy_texts
from minimtp.bench.interleaved import Speed, Variant, measure_interleaved
from minimtp.bench.memory import peak_memory
from minimtp.compare.pretrained.configurations import LLAMA, TITLES
from minimtp.compare.pretrained.llama import Llama
from minimtp.compare.pretrained.quality import Quality, add_quality_percent
from minimtp.compare.pretrained.schema import speed_part
from minimtp.compare.pretrained.sizes import Sizes
from minimtp.compare.pretrained.texts import Texts
from minimtp.compare.result_cache import Figures, GetPart
from minimtp.compare.schema import by_configuration
from minimtp.decode.drafters.config import CONFIDENCE
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.registry import make_drafter
from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.registry import make_policy
from minimtp.decode.sampling.params import GREEDY
from minimtp.formats.load import load
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.records import Positive
from minimtp.training.run.folder import LoadedRun

DRAFTING = ("mtp", "mtp_qat_int4")
PLAIN = "mtp_qat_int4, plain"
UNDRAFTED = {"mtp": "standard", "mtp_qat_int4": PLAIN}  # the same weights without drafts
NGRAM = 4  # tokens, for the share of a text that repeats itself

Runs = dict[str, LoadedRun]  # by configuration


def measure_configurations(
    runs: Runs,
    texts: Texts,
    sizes: Sizes,
    device: Device,
    threads: int,
    llama: Llama,
    get_part: GetPart,
) -> dict[str, Figures]:
    """Return the results of each configuration by name."""
    quality = Quality(runs["standard"], texts, sizes, threads, get_part)
    results = {
        name: {
            "name": name,
            "title": TITLES[name],
            "folder": str(loaded.path),
            "weight_bytes": weight_bytes(loaded.model),
            "bits_per_weight": bits_per_weight(loaded.model),
        }
        | quality.of(name, loaded)
        for name, loaded in runs.items()
    }
    if llama.obstacle is None:
        results[LLAMA] = {
            "name": LLAMA,
            "title": TITLES[LLAMA],
            "folder": results["mtp_qat_int4"]["folder"],
            "weight_bytes": llama.weight_bytes,
            "bits_per_weight": results["int4_gptq"]["bits_per_weight"],  # also without heads
        } | llama.quality(quality)
    add_quality_percent(results)
    measure_memory = partial(_memory, runs, texts, sizes, device, llama)
    memory = get_part("memory", measure_memory, by_configuration(Positive, results))
    for name, figures in results.items():
        figures["memory_bytes"] = memory[name]
    for kind in texts.prompts:
        measure = partial(_speeds, kind, runs, texts, sizes, device, llama)
        speeds = get_part(f"speed on {kind}", measure, speed_part(results, UNDRAFTED))
        for name, figures in results.items():
            for key, value in speeds[name].items():
                figures.setdefault(key, {})[kind] = value
    return results


def _speeds(
    kind: str, runs: Runs, texts: Texts, sizes: Sizes, device: Device, llama: Llama
) -> Figures:
    """Measure every configuration on one kind of prompt."""
    prompts = texts.prompts[kind]
    variants = {name: variant(name, loaded) for name, loaded in runs.items()}
    variants[PLAIN] = Variant(PLAIN, variants["mtp_qat_int4"].target)
    theirs = llama.variant(max(map(len, prompts)) + sizes.new_tokens)
    if theirs is not None:
        variants[LLAMA] = theirs
    total = sizes.repeats * len(prompts) * len(variants)
    title = f"decoding {kind}"
    with tqdm(total=total, desc=title, unit="text", disable=None, file=sys.stderr) as bar:
        speeds = measure_interleaved(
            list(variants.values()),
            prompts,
            max_new_tokens=sizes.new_tokens,
            sampling=GREEDY,
            repeats=sizes.repeats,
            stop_tokens=runs["standard"].tokenizer.end_tokens,
            progress=bar.update,
        )
    results = {
        name: _named(speeds[name], speeds["standard"], prompts)
        for name in variants
        if name in TITLES
    }
    for name, undrafted in UNDRAFTED.items():
        plain = speeds[undrafted]
        agreement = check_greedy_texts(
            variants[name],
            prompts,
            speeds[name].texts,
            allow_ties=not batch_invariant(device.name),
            plain=plain.texts,
        )
        results[name] |= {
            "tokens_per_second_without_drafts": plain.tokens_per_second,
            "speedup_over_plain": speeds[name].speedup_over(plain),
            "greedy_texts": asdict(agreement),
        }
    return results


def variant(name: str, loaded: LoadedRun) -> Variant:
    """Return how a configuration decodes: if it drafts, with heads and lookup."""
    target, heads = deploy(loaded.model)
    if name not in DRAFTING:
        return Variant(name, target)
    drafter = make_drafter("combined", loaded, heads)
    policy = partial(make_policy, Costs(target, drafter.max_depth), drafter)
    return Variant(name, target, drafter, drafter.max_depth, CONFIDENCE, policy=policy)


def _named(speed: Speed, standard: Speed, prompts: Sequence[np.ndarray]) -> Figures:
    return {
        "tokens_per_second": speed.tokens_per_second,
        "tokens_per_second_slowest": speed.slowest,
        "tokens_per_second_fastest": speed.fastest,
        "tokens_per_step": speed.tokens_per_step,
        "speedup": speed.speedup_over(standard),
        "acceptance": speed.acceptance,
        "repetition": repetition(speed.texts, prompts),
    }


def repetition(texts: Sequence[Sequence[int]], prompts: Sequence[np.ndarray]) -> float:
    """Return the share of the new tokens' n-grams that occurred earlier in the same new text.

    Small models repeat themselves when they decode greedily, and repetitions are easy to draft.
    """
    repeated = total = 0
    for text, prompt in zip(texts, prompts, strict=True):
        new = text[len(prompt) :]
        ngrams = [tuple(new[i : i + NGRAM]) for i in range(len(new) - NGRAM + 1)]
        repeated += len(ngrams) - len(set(ngrams))
        total += len(ngrams)
    return repeated / total if total else 0.0


def _memory(runs: Runs, texts: Texts, sizes: Sizes, device: Device, llama: Llama) -> dict[str, int]:
    """Return the peak memory of decoding one text, by configuration, in bytes."""
    prompt = next(iter(texts.prompts.values()))[0]

    def build(name: str, loaded: LoadedRun) -> Variant:
        return variant(name, load(loaded.path, device.name, dequantize=True))

    found = {
        name: peak_memory(partial(build, name, loaded), prompt, sizes.new_tokens)
        for name, loaded in runs.items()
    }
    if llama.obstacle is None:
        found[LLAMA] = llama.memory(prompt, sizes.new_tokens)
    return found
