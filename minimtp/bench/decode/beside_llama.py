"""Decode one file in minimtp and in llama.cpp: `minimtp bench llama`.

Both read the same GGUF file, so they multiply the same blocks: the model itself if it is a GGUF
file, or what `minimtp export` writes. Both decode greedily from the same prompts, plainly, one text
at a time, taking turns prompt by prompt (see bench/interleaved.py for why). minimtp decodes with
one thread. llama.cpp is measured with each number of threads, in processes of their own
(baselines/llama_cpp/process.py), by its own clock. The prompt is timed apart.

**Equal texts.** The texts need not be equal. Both round the inputs of a product to int8, but
llama.cpp also rounds the scales of the inputs to float16. An input that then falls to the other
side of a half changes the next layer's inputs a little. Where the two best tokens are nearly as
likely, the text may continue differently. The report counts the equal texts. For the others it
gives the largest difference, in minimtp's logits, between the tokens that the two chose at the
first place where they differ. A logit is in nats.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from minimtp import machine
from minimtp.arguments import whole
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.gguf_file import gguf_of
from minimtp.bench.baselines.llama_cpp.process import Continuation, LlamaProcess, find_llama
from minimtp.bench.decode.prompts import Sizes, choose_prompts, fit_to_context
from minimtp.bench.json_lines import hand_over, result_file
from minimtp.bench.table_text import aligned
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import check_file, check_folder
from minimtp.formats.load import load
from minimtp.model.matrix import weight_bytes

FILE_NAME, RESULT = "bench-llama.json", result_file("llama")
OURS = "minimtp"
MAX_THREADS = 256
Engine = Callable[[np.ndarray], Continuation]


def measure_beside_llama(
    path: str | Path,
    *,
    sizes: Sizes | None = None,
    threads: Sequence[int] = (1,),
    texts: Sequence[str] = ("code",),
    seed: int = 0,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure the model at `path` and return the result. With `out`, a folder, also save it.

    threads: of llama.cpp, one measurement each. texts: kinds of prompts, see bench/decode/prompts.
    Raises UserError if an option is invalid, llama.cpp is missing, or the model does not fit a GGUF
    file.
    """
    for count in threads:
        whole(1, MAX_THREADS)("threads", count)
    if out is not None:
        check_folder(out)
        check_file(Path(out, FILE_NAME), RESULT)
    python, version, obstacle = find_llama()
    if python is None:
        raise UserError(f"llama.cpp {obstacle}")
    loaded, load_before = load(path), machine.load()
    sizes = fit_to_context(sizes or Sizes(), loaded)
    prompts, missing = choose_prompts(loaded, texts, sizes, seed)
    machine.warn_if_busy(load_before, report)
    for name, reason in missing.items():
        report(f"{name} is left out: {reason}")
    chosen = [prompt for some in prompts.values() for prompt in some]
    with ExitStack() as stack:
        file = gguf_of(loaded, stack, report)
        target = deploy(loaded.model)[0]
        context = min(sizes.prompt + sizes.max_new_tokens, target.context_length)
        processes = {
            f"llama.cpp, {count} thread{'s' * (count > 1)}": stack.enter_context(
                LlamaProcess(file, threads=count, context=context)
            )
            for count in threads
        }
        engines: dict[str, Engine] = {OURS: lambda prompt: continue_prompt(target, prompt, sizes)}
        for name, process in processes.items():
            engines[name] = lambda prompt, process=process: process.greedy(
                prompt, sizes.max_new_tokens
            )
        found = _take_turns(engines, chosen, sizes.repeats)
        rows = [_row(name, runs, found, chosen, target) for name, runs in found.items()]
        for row in rows[1:]:
            process = processes[row["name"]]
            memory = process.memory()
            row["memory_bytes"] = None if memory is None else memory.model
            row["peak_memory_bytes"] = None if memory is None else memory.peak - memory.before
            row["load_seconds"] = process.load_seconds
        size = Path(file).stat().st_size
    result = {
        "measurement": "llama", "model": str(path), "sizes": asdict(sizes), "texts": [*prompts],
        "seed": seed, "weight_bytes": weight_bytes(loaded.model.trunk), "file_bytes": size,
        "rows": rows, "machine": machine.describe(load_before),
        "versions": machine.versions() | {"llama_cpp": version},
    }  # fmt: skip
    hand_over(result, table, out and Path(out, FILE_NAME), RESULT, report)
    return result


def continue_prompt(target: Target, prompt: np.ndarray, sizes: Sizes) -> Continuation:
    """Decode greedily and plainly, as `generate` does, timed as llama.cpp is."""
    options = GenerationOptions(max_new_tokens=sizes.max_new_tokens)
    began = perf_counter()
    generation = start_generation(target, None, prompt, options)
    next(generation)
    after_prompt = perf_counter()
    for _ in generation:
        pass
    seconds = perf_counter() - after_prompt
    return Continuation(generation.tokens[len(prompt) :], after_prompt - began, seconds)


def _take_turns(
    engines: dict[str, Engine], prompts: Sequence[np.ndarray], repeats: int
) -> dict[str, list[list[Continuation]]]:
    """Return the runs of each engine, [repeat][prompt]. A first run is not counted."""
    found = {name: [[] for _ in range(repeats)] for name in engines}
    for engine in engines.values():
        engine(prompts[0])
    total = repeats * len(prompts) * len(engines)
    with tqdm(total=total, desc="decoding", unit="text", disable=None, file=sys.stderr) as bar:
        for repeat in range(repeats):
            for prompt in prompts:
                for name, engine in engines.items():
                    found[name][repeat].append(engine(prompt))
                    bar.update()
    return found


def _row(
    name: str,
    runs: list[list[Continuation]],
    found: dict[str, list[list[Continuation]]],
    prompts: Sequence[np.ndarray],
    target: Target,
) -> dict[str, object]:
    ours = found[OURS]
    rates = [
        sum(len(run.tokens) - 1 for run in some) / sum(run.seconds for run in some) for some in runs
    ]
    pairs = [
        (mine, other)
        for some, others in zip(ours, runs, strict=True)
        for mine, other in zip(some, others, strict=True)
    ]
    first_repeat = zip(ours[0], runs[0], prompts, strict=True)
    margins = [
        margin(target, prompt, mine.tokens, other.tokens)
        for mine, other, prompt in first_repeat
        if mine.tokens != other.tokens
    ]
    prompt_seconds = [sum(run.prompt_seconds for run in some) for some in runs]
    return {
        "name": name, "tokens_per_second": statistics.median(rates), "slowest": min(rates),
        "fastest": max(rates),
        "prompt_tokens_per_second": sum(map(len, prompts)) / statistics.median(prompt_seconds),
        # How many times as fast minimtp is: the median of runs that were neighbours in time.
        "minimtp_speedup": statistics.median(b.seconds / a.seconds for a, b in pairs),
        "minimtp_prompt_speedup": statistics.median(
            b.prompt_seconds / a.prompt_seconds for a, b in pairs
        ),
        "equal_texts": len(prompts) - len(margins), "texts": len(prompts),
        "largest_margin": max(margins, default=0.0),
    }  # fmt: skip


def margin(target: Target, prompt: np.ndarray, mine: Sequence[int], others: Sequence[int]) -> float:
    """Return how much `target` prefers its own token where two continuations first differ, in
    nats.
    """
    place = next(i for i, (a, b) in enumerate(zip(mine, others, strict=True)) if a != b)
    target.truncate(0)
    tokens = np.concatenate([prompt, np.asarray(mine[:place], np.int64)])
    logits = target.forward(tokens).logits[-1]
    return float(logits[mine[place]] - logits[others[place]])


def table(result: dict[str, object], markdown: bool = False) -> str:
    """Return the speeds, the equal texts and the memory as a table."""
    lines = [["", "tokens/s", "range", "minimtp is", "prompt tokens/s", "equal texts", "margin"]]
    for row in result["rows"]:
        lines.append([
            row["name"], f"{row['tokens_per_second']:,.0f}",
            f"{row['slowest']:,.0f}-{row['fastest']:,.0f}", f"{row['minimtp_speedup']:.2f}x",
            f"{row['prompt_tokens_per_second']:,.0f}", f"{row['equal_texts']}/{row['texts']}",
            f"{row['largest_margin']:.2f} nats",
        ])  # fmt: skip
    return aligned(lines, markdown)
