"""The time of a forward pass by number of tokens, of threads and of cached positions, and by the
number format of the cache.

A pass over one token is plain decoding, a pass over a few is a verification, and a prompt is read
in passes of 16. The numbers of threads and the formats of the cache alternate, and each figure is
the median over rounds. The last column is for plain decoding on one thread: the share of the pass
that reading the weights alone would take, at the fastest of three ways to read so many bytes
(bench/kernels/speed.py).

llama.cpp can take part with the same weights. It stores keys and values in float16, its default, or
in float32. Its passes include about 0.05 ms for the exchange with its process.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess
from minimtp.bench.json_lines import hand_over, result_file
from minimtp.bench.kernels.speed import read_seconds
from minimtp.bench.table_text import aligned
from minimtp.decode.decoder import deploy
from minimtp.decode.model_runner import MAX_ROWS, ModelRunner
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import check_file
from minimtp.formats.export import export
from minimtp.formats.load import load
from minimtp.model.loaded import LoadedModel

RESULT = result_file("passes")
ROWS = 1, 2, 4, 8, 16
CACHED = 128, 2048, 8000
LLAMA = "llama.cpp"
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
    rounds: int = 9,
    seed: int = 0,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure the model at `path` on the CPU and return the result. With `out`, a file, also save
    it.

    threads: numbers of threads (default: one, and all cores). cached: numbers of tokens in the
    cache (default: those of CACHED that fit the context, or half the context). kv_caches: its
    number formats, those of `Decoder`. llama_cpp: also measure llama.cpp, with the same formats
    except int8.
    Raises UserError if an option is invalid, the model has no compiled kernels, or llama.cpp is not
    installed or cannot run the model.
    """
    threads = list(dict.fromkeys([1, *(threads or [machine.available_cores()])]))
    _check("threads", threads, MAX_THREADS)
    _check("rounds", [rounds], MAX_ROUNDS)
    _check("seed", [seed], 2**63 - 1, 0)
    if out is not None:
        check_file(out, RESULT)
    loaded, load_before = load(path), machine.load()
    runner = deploy(loaded.model)[0]
    if not runner.rows_at_once or array_module(runner.final_norm) is not np:
        raise UserError(f"{path} has no compiled kernels for the CPU, which this measures")
    last = runner.context_length - MAX_ROWS
    if last < 1:
        raise UserError(
            f"{path} has a context of {runner.context_length}, but a pass of {MAX_ROWS} tokens is "
            "measured: use another model"
        )
    _check("cached", cached, last)
    cached = list(cached) or [count for count in CACHED if count <= last] or [-(-last // 2)]
    machine.warn_if_busy(load_before, report)
    reading = read_seconds(runner.weight_bytes, rounds)
    rows = []
    with ExitStack() as stack:
        targets = _our_targets(runner, kv_caches, threads)
        if llama_cpp:
            gguf = _as_gguf(loaded, stack)
            targets |= _llama_targets(gguf, kv_caches, threads, max(cached) + MAX_ROWS, stack)
        bar = stack.enter_context(tqdm(total=len(cached) * len(ROWS), desc="passes", disable=None))
        for count in cached:
            for entries in _measure(targets, threads, count, rounds, seed):
                rows += [e | {"reading_share": reading / e["seconds"][0]} for e in entries]
                bar.update()
    result = {
        "measurement": "passes", "model": str(path), "threads": threads, "rounds": rounds,
        "seed": seed, "weight_bytes": runner.weight_bytes, "read_seconds": reading, "rows": rows,
        "kernels": kernels.describe("cpu")[0], "machine": machine.describe(load_before),
        "versions": machine.versions(),
    }  # fmt: skip
    hand_over(result, table(result), out, RESULT, report)
    return result


def _check(name: str, values: Sequence[int], maximum: int, minimum: int = 1) -> None:
    for value in values:
        if not minimum <= value <= maximum:
            raise UserError(f"{name} must be at least {minimum} and at most {maximum}, not {value}")


def _our_targets(
    runner: ModelRunner, kv_caches: Sequence[str], threads: Sequence[int]
) -> dict[Key, Target]:
    """Return runners of the same weights, each with a cache of its own. With copies of the weights,
    passes would evict each other's from the processor's caches.
    """
    targets = {}
    for kind in kv_caches:
        for count in threads:
            targets[kind, count] = each = runner.clone(kind)
            each.use_threads(count)
    return targets


def _llama_targets(
    gguf: Path, kv_caches: Sequence[str], threads: Sequence[int], context: int, stack: ExitStack
) -> dict[Key, Target]:
    """Return processes of llama.cpp, which end with the stack."""
    return {
        (f"{LLAMA}, {kind}", count): stack.enter_context(
            LlamaProcess(gguf, threads=count, context=context, exact=kind == "float32")
        )
        for kind in kv_caches
        if kind != "int8"
        for count in threads
    }


def _as_gguf(loaded: LoadedModel, stack: ExitStack) -> Path:
    """Return the model as a GGUF file: its own, or one that is deleted with the stack."""
    if Path(loaded.path).suffix == ".gguf":
        return Path(loaded.path)
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minimtp-")), "model.gguf")
    export(loaded, path)
    return path


def _measure(
    targets: dict[Key, Target], threads: Sequence[int], cached: int, rounds: int, seed: int
) -> Iterator[list[dict[str, object]]]:
    """Yield for each number of tokens, and for each kind of cache, the seconds of a pass with each
    number of threads.
    """
    vocabulary = next(iter(targets.values())).vocabulary_size
    tokens = np.random.default_rng(seed).integers(0, vocabulary, cached + MAX_ROWS)
    for each in targets.values():
        each.truncate(0)
        for first in range(0, cached, MAX_ROWS):
            each.forward(tokens[first : min(first + MAX_ROWS, cached)])
    for rows in ROWS:
        times: dict[Key, list[float]] = {key: [] for key in targets}
        for _ in range(rounds + 1):
            for key, each in targets.items():
                began = perf_counter()
                each.forward(tokens[cached : cached + rows])
                times[key].append(perf_counter() - began)
                each.truncate(cached)
        found = []
        for kind in dict.fromkeys(kind for kind, _ in targets):
            # The first pass wakes the threads.
            medians = [median(times[kind, count][1:]) for count in threads]
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
