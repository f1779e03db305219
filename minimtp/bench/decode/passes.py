"""The time of a forward pass by number of tokens, of threads and of cached positions, and by the
number format of the cache.

A pass over one token is plain decoding, a pass over a few is a verification, and a prompt is read
in passes of 16. The numbers of threads and the formats of the cache alternate, and each figure is
the median over rounds. The last column is for plain decoding on one thread: the share of the pass
that reading the weights alone would take, at the fastest of three ways to read them
(bench/kernels/speed.py).

llama.cpp can take part with the same weights and its default settings. It stores keys and values in
float16, whatever our formats are. Its passes include about 0.05 ms for the exchange with its
process.

Each timed pass follows another one of the same kind, which is not timed. So it finds the caches of
the processor as decoding does, and not as another program left them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from statistics import median
from time import perf_counter

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.arguments import whole
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.gguf_file import gguf_of
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess, find_llama
from minimtp.bench.decode.random_model import random_model
from minimtp.bench.json_lines import hand_over, result_file
from minimtp.bench.kernels.speed import read_seconds
from minimtp.bench.table_text import aligned
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.model_runner import MAX_ROWS, ModelRunner
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import check_file
from minimtp.formats.load import load
from minimtp.records import MAX_INT

RESULT = result_file("passes")
ROWS = 1, 2, 4, 8, 16
CACHED = 128, 2048, 8000
LLAMA = "float16, llama.cpp"  # beside the formats of our caches
Key = tuple[str, int]  # the kind of cache, and the number of threads
MAX_THREADS = 1024
MAX_ROUNDS = 1000


def measure_passes(
    path: str | Path,
    *,
    threads: Sequence[int] = (),
    cached: Sequence[int] = (),
    kv_caches: Sequence[str] = ("float32",),
    llama_cpp: bool = False,
    random_weights: str | None = None,
    rounds: int = 9,
    seed: int = 0,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure the model at `path` on the CPU and return the result. With `out`, a file, also save
    it.

    threads: numbers of threads (default: one, and all cores). cached: numbers of tokens in the
    cache (default: those of CACHED that fit the context, or half the context). kv_caches: its
    number formats, those of `Decoder`. llama_cpp: also measure llama.cpp. random_weights: a grid,
    for a model of the sizes in the config.json at `path` with random weights (random_model.py).
    Raises UserError if an option is invalid, the model has no compiled kernels or no cache of these
    formats, or llama.cpp is not installed, and MeasurementFailed if it cannot run the model.
    """
    threads = list(dict.fromkeys([1, *(threads or [machine.available_cores()])]))
    for count in threads:
        whole(1, MAX_THREADS)("threads", count)
    whole(1, MAX_ROUNDS)("rounds", rounds)
    whole(0, MAX_INT)("seed", seed)
    if out is not None:
        check_file(out, RESULT)
    if llama_cpp and random_weights is not None:
        raise UserError("llama.cpp needs a file with a tokenizer: give a model, not only its sizes")
    if llama_cpp and find_llama().python is None:
        raise UserError(f"llama.cpp {find_llama().obstacle}")
    load_before = machine.load()
    loaded = load(path) if random_weights is None else None
    model = loaded.model if loaded else random_model(path, random_weights, seed)
    runner = deploy(model)[0]
    if not runner.rows_at_once or array_module(runner.final_norm) is not np:
        raise UserError(f"{path} has no compiled kernels for the CPU, which this measures")
    if runner.cache.steps is not None and set(kv_caches) != {"int8"}:
        raise UserError(f"{path} was trained with an int8 cache, so it has no other: choose int8")
    last = runner.context_length - MAX_ROWS
    if last < 1:
        raise UserError(
            f"{path} has a context of {runner.context_length}, but a pass of {MAX_ROWS} tokens is "
            "measured: use another model"
        )
    for count in cached:
        whole(1, last)("cached", count)
    cached = list(cached) or [count for count in CACHED if count <= last] or [-(-last // 2)]
    machine.warn_if_busy(load_before, report)
    reading = read_seconds(runner.weight_bytes, rounds)
    rows = []
    with ExitStack() as stack:
        llama: dict[Key, LlamaProcess] = {}
        if llama_cpp:
            file, context = gguf_of(loaded, stack, report), max(cached) + MAX_ROWS
            for count in threads:
                process = LlamaProcess(file, threads=count, context=context)
                llama[LLAMA, count] = stack.enter_context(process)
        kinds = {kind: runner.clone(kind) for kind in kv_caches}
        tokens = np.random.default_rng(seed).integers(
            0, runner.vocabulary_size, max(*cached, MAX_ROWS)
        )
        bar = stack.enter_context(tqdm(total=len(cached) * len(ROWS), desc="passes", disable=None))
        for count in cached:
            targets = _filled(kinds, llama, threads, tokens[:count])
            for entries in _measure(targets, threads, count, rounds, tokens):
                rows += [e | {"reading_share": reading / e["seconds"][0]} for e in entries]
                bar.update()
    result = {
        "measurement": "passes", "model": str(path), "random_weights": random_weights,
        "threads": threads, "rounds": rounds, "seed": seed,
        "weight_bytes": runner.weight_bytes, "read_seconds": reading, "rows": rows,
        "kernels": kernels.describe("cpu")[0], "machine": machine.describe(load_before),
        "versions": machine.versions() | ({"llama_cpp": find_llama().version} if llama_cpp else {}),
    }  # fmt: skip
    hand_over(result, table, out, RESULT, report)
    return result


def _filled(
    kinds: dict[str, ModelRunner],
    llama: dict[Key, LlamaProcess],
    threads: Sequence[int],
    tokens: np.ndarray,
) -> dict[Key, Target]:
    """Return what is timed, by kind of cache and number of threads. All caches hold the tokens.

    Runners of a kind have the same weights and the same cache. With copies, passes would evict each
    other's from the processor's caches.
    """
    targets: dict[Key, Target] = {}
    for kind, runner in kinds.items():
        runner.use_threads(max(threads))
        _feed(runner, tokens)
        runner.make_room(len(tokens) + MAX_ROWS)  # a copy would make room for itself
        for count in threads:
            targets[kind, count] = each = copy(runner)
            each.use_threads(count)
    for process in llama.values():
        _feed(process, tokens)
    return targets | llama


def _feed(target: Target, tokens: np.ndarray) -> None:
    target.truncate(0)
    for first in range(0, len(tokens), target.max_rows):
        target.forward(tokens[first : first + target.max_rows])


def _measure(
    targets: dict[Key, Target], threads: Sequence[int], cached: int, rounds: int, tokens: np.ndarray
) -> Iterator[list[dict[str, object]]]:
    """Yield for each number of tokens, and for each kind of cache, the seconds of a pass with each
    number of threads.
    """
    for rows in ROWS:
        times: dict[Key, list[float]] = {key: [] for key in targets}
        for _ in range(rounds):
            for key, each in targets.items():
                for _ in range(2):
                    began = perf_counter()
                    each.forward(tokens[:rows])
                    seconds = perf_counter() - began
                    each.truncate(cached)
                times[key].append(seconds)
        found = []
        for kind in dict.fromkeys(kind for kind, _ in targets):
            medians = [median(times[kind, count]) for count in threads]
            entry = {"cached": cached, "kv_cache": kind, "tokens": rows, "seconds": medians}
            found.append(entry)
        yield found


def table(result: dict[str, object], markdown: bool = False) -> str:
    """Return the result as a table, as text or as Markdown."""
    _, *others = result["threads"]
    formats = len({row.get("kv_cache") for row in result["rows"]}) > 1
    heading = ["cached", "tokens", *["KV cache"] * formats, "1 thread"]
    heading += [f"{count} threads" for count in others] + [f"{count} : 1" for count in others]
    lines = [[*heading, "tokens/s", "reading"]]
    for row in result["rows"]:
        alone, *together = row["seconds"]
        plain = row["tokens"] == 1
        lines.append(
            [f"{row['cached']:,}", str(row["tokens"])]
            + [row.get("kv_cache", "")] * formats
            + [f"{seconds * 1e3:.2f} ms" for seconds in row["seconds"]]
            + [f"{alone / seconds:.2f}x" for seconds in together]
            + [
                f"{row['tokens'] / min(row['seconds']):,.0f}",
                f"{row['reading_share']:.0%}" if plain else "",
            ]
        )
    machine_ = result["machine"]
    note = (
        f"{result['weight_bytes'] / 1e6:,.1f} MB of weights, median of {result['rounds']} rounds, "
        f"{result['kernels']} kernels, {machine_['processor']}"
    )
    return aligned(lines, markdown) + f"\n\n{note}"
