"""The time of choosing one token from a vocabulary, beside that of the output layer.

A vocabulary of 49,152 tokens has 196 KB of logits. Reading them takes a few microseconds, the
output layer that computes them a millisecond. So a choice should take a small part of the time of
the output layer. Compiled and plain kernels alternate, and each figure is the median over rounds.
Everything runs on one thread.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

from minimtp import kernels, machine
from minimtp.arguments import whole
from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.bench.json_lines import hand_over, result_file
from minimtp.bench.table_text import aligned
from minimtp.decode.logits_processors import RepetitionPenalty
from minimtp.decode.rules.block import block_rule
from minimtp.decode.rules.token import token_rule
from minimtp.decode.sampling.gumbel_noise import GumbelNoise
from minimtp.decode.sampling.random_source import SeededRandomSource
from minimtp.errors import UserError
from minimtp.files import check_file
from minimtp.kernels import plain
from minimtp.kernels.ggml import blocks
from minimtp.records import MAX_INT

RESULT = result_file("sampling")
HIDDEN = 576  # inputs of the output layer, as in SmolLM2-135M
DRAFTS = 4  # of a round whose verification is measured
TEXT = 512  # tokens that a repetition penalty has seen
TEMPERATURE = 0.8
MAX_ROUNDS = 1000
OUTPUT = "output layer, q8_0"
Call = Callable[[], object]


def measure_sampling(
    vocabulary_size: int = 49_152,
    *,
    rounds: int = 21,
    seed: int = 0,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure every operation and return the result. With `out`, a file, also save it.

    Raises UserError if an option is out of range or there are no compiled kernels.
    """
    whole(64, 1 << 20)("vocabulary_size", vocabulary_size)
    whole(1, MAX_ROUNDS)("rounds", rounds)
    whole(0, MAX_INT)("seed", seed)
    if out is not None:
        check_file(out, RESULT)
    name, reason = kernels.describe("cpu")
    if name == "plain":
        raise UserError(f"there are no compiled kernels to measure: {reason}")
    load = machine.load()
    machine.warn_if_busy(load, report)
    result = {
        "measurement": "sampling", "vocabulary_size": vocabulary_size, "rounds": rounds,
        "seed": seed, "rows": _measure(vocabulary_size, rounds, seed), "kernels": name,
        "machine": machine.describe(load), "versions": machine.versions(),
    }  # fmt: skip
    hand_over(result, table, out, RESULT, report)
    return result


def _measure(vocabulary_size: int, rounds: int, seed: int) -> list[dict[str, object]]:
    """Return the median microseconds of every operation, compiled and plain; None if the operation
    has only one version.
    """
    rows = []
    for name, (compiled, plainly) in _operations(vocabulary_size, seed).items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(1 + rounds):
            for call, found in zip((compiled, plainly), times, strict=True):
                if call is not None:
                    began = perf_counter()
                    call()
                    found.append(perf_counter() - began)
        # The first call may compile.
        found = [1e6 * median(each[1:]) if each else None for each in times]
        rows.append({"operation": name, "microseconds": found[0], "microseconds_plain": found[1]})
    return rows


def _operations(vocabulary_size: int, seed: int) -> dict[str, tuple[Call, Call | None]]:
    """Return each operation by name: compiled, and plain if it has a plain version."""
    rng = np.random.default_rng(seed)
    kernel = kernels.for_array(np.zeros(0, np.float32))
    logits = (3 * rng.standard_normal((1 + DRAFTS, vocabulary_size))).astype(np.float32)
    one, scores = logits[:1], logits[:DRAFTS] / TEMPERATURE
    drafts = scores.argmax(axis=-1)
    noise, source = GumbelNoise(seed, vocabulary_size), SeededRandomSource(seed)
    row, positions = noise.rows(0, 1).copy(), iter(range(1, 1 << 62))
    text = rng.integers(0, vocabulary_size, TEXT)
    temperatures, points = np.full(1, TEMPERATURE, np.float32), np.full(1, 0.5)

    def both(call: Callable[..., object], *arguments: object) -> tuple[Call, Call]:
        """call(kernel, *arguments) with either kernel."""
        return (lambda: call(kernel, *arguments)), (lambda: call(plain, *arguments))

    def verify(kernel: object, rule: Callable) -> object:
        return kernel.verify_chain(rule, logits, TEMPERATURE, drafts, scores, None, source)

    x, output = rng.standard_normal((1, HIDDEN)).astype(np.float32), _output(vocabulary_size, rng)
    verified = f"verifying {DRAFTS} drafts"
    return {
        OUTPUT: (lambda: kernel.linear(x, output), None),
        "greedy choice": both(lambda k: k.choose(one, 1.0)),
        "sampling at a temperature": both(lambda k: k.sample(one, temperatures, points)),
        "shared noise of one position": (lambda: noise.rows(next(positions), 1), None),
        "choice with that noise": both(lambda k: k.choose(one, TEMPERATURE, row)),
        "top-k 40": both(lambda k: k.truncate(one, 40, 1.0)),
        "top-p 0.9": both(lambda k: k.truncate(one, 0, 0.9)),
        f"repetition penalty, {TEXT} tokens": (lambda: RepetitionPenalty(1.1)(one, text), None),
        f"{verified}, token rule": both(verify, token_rule),
        f"{verified}, block rule": both(verify, block_rule),
    }


def _output(vocabulary_size: int, rng: np.random.Generator) -> Array:
    """Return an output layer in q8_0, prepared for the compiled kernels. It repeats 32 rows."""
    panel = rng.standard_normal((32, HIDDEN)).astype(np.float32)
    kernel = kernels.for_array(panel)
    prepared = kernel.prepare_q8_0(blocks.pack_q8_0(*blocks.encode_q8_0(panel)))
    return prepared.repeated(vocabulary_size // 32)


def table(result: dict[str, object], markdown: bool = False) -> str:
    """Return the result as a table, as text or as Markdown."""
    lines = [["operation", "us", "of the output layer", "plain, us", "plain : compiled"]]
    whole = result["rows"][0]["microseconds"]
    for row in result["rows"]:
        fast, slow = row["microseconds"], row["microseconds_plain"]
        lines.append(
            [row["operation"], f"{fast:,.0f}", f"{fast / whole:.1%}"]
            + ([f"{slow:,.0f}", f"{slow / fast:.1f}x"] if slow else ["", ""])
        )
    note = (
        f"A vocabulary of {result['vocabulary_size']:,} tokens, {HIDDEN} inputs of the output "
        f"layer, one thread of {result['machine']['processor']}"
        f"{machine.other_work(result['machine'])}, medians of {result['rounds']} rounds."
    )
    return aligned(lines, markdown) + f"\n\n{note}"
