"""How many drafts a pretrained model accepts, per kind of prompt: `minimtp bench acceptance`.

Tokens per pass do not depend on the machine, so nothing is timed. Every prompt is held out from all
training: beginnings of code and prose, first messages of conversations, and requests to change a
function (training/self_generated/requests.py). Each drafter continues the same prompts:

    heads       drafts of at most DEPTH tokens from the heads, in every round
    lookup      drafts after a repetition of the text, where there is one
    combined    the lookup where it finds something, the heads otherwise

A user's decoder also decides how far to draft (policy/), which costs some tokens per pass, and
saves time. `minimtp compare --from` measures that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from sys import stderr

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.arguments import whole
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.bench.json_lines import hand_over, result_file
from minimtp.bench.table_text import aligned
from minimtp.decode.drafters.combined import HEADS, CombinedDrafter
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.statistics import Statistics
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import check_file
from minimtp.formats.load import load
from minimtp.records import MAX_INT
from minimtp.training.self_generated.requests import Requests

RESULT = result_file("acceptance")
KINDS = ("code", "prose", "chat", "edit")
MAX_PROMPTS = 10_000  # of a kind; with more, the texts alone would take days
DEPTH = 4  # drafts of the heads in one round
TEMPERATURES = (0.0, 1.0)
Row = dict[str, object]


def measure_acceptance(
    path: str | Path,
    *,
    prompts: int = 36,
    new_tokens: int = 96,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Count the accepted drafts of the model at `path`, which has heads.

    prompts: of each kind. new_tokens: of each text, at most. out: a file for the result. Raises
    UserError if the model has no heads, or if an option is invalid.
    """
    whole(1, MAX_PROMPTS)("prompts", prompts)
    whole(1)("new_tokens", new_tokens)
    whole(0, MAX_INT)("seed", seed)
    if out is not None:
        check_file(out, RESULT)
    loaded = load(path, device)
    target, heads = deploy(loaded.model)
    if heads is None:
        raise UserError(
            f"{path} has no prediction heads: train some (minimtp train --from {path} --heads "
            "eagle3 --freeze-trunk)"
        )
    requests = Requests(loaded.tokenizer, loaded.config.context_length, seed, held_out=True)
    by_kind = {kind: requests.prompts(kind, prompts) for kind in KINDS}
    rows = []
    variants = {"heads": lambda: _heads(heads), "lookup": _lookup, "combined": lambda: _both(heads)}
    total = len(variants) * len(temperatures) * sum(map(len, by_kind.values()))
    with tqdm(total=total, desc="acceptance", unit="text", disable=None, file=stderr) as bar:
        for temperature, (kind, texts), (name, make) in product(
            temperatures, by_kind.items(), variants.items()
        ):
            drafter, depth = make()
            options = GenerationOptions(
                max_new_tokens=new_tokens,
                sampling=SamplingParams(temperature),
                draft_depth=depth,
                stop_tokens=loaded.tokenizer.end_tokens,
            )
            counts = Statistics.of_prompt(0, depth, 0)
            for number, prompt in enumerate(texts):
                _count(counts, target, drafter, prompt, options, seed + number)
                bar.update()
            rows.append(_row(kind, temperature, name, counts))
    result = {
        "measurement": "acceptance", "model": str(path), "heads": loaded.recipe.heads,
        "trained_tokens": loaded.tokens, "text_tokens": loaded.corpus.get("training_tokens"),
        "prompts": prompts, "new_tokens": new_tokens, "depth": DEPTH, "seed": seed,
        "kernels": kernels.describe(choose_device(device).name)[0],
        "versions": machine.versions(), "rows": rows,
    }  # fmt: skip
    hand_over(result, table, out, RESULT, report)
    return result


def _heads(heads: Drafter) -> tuple[Drafter, int]:
    return heads, min(DEPTH, heads.max_depth)


def _lookup() -> tuple[Drafter, int]:
    drafter = CombinedDrafter(None, memory=0)
    return drafter, drafter.max_depth


def _both(heads: Drafter) -> tuple[Drafter, int]:
    drafter = CombinedDrafter(heads, memory=0)
    drafter.depths[HEADS] = min(DEPTH, heads.max_depth)
    return drafter, max(drafter.depths)


def _count(
    total: Statistics,
    target: Target,
    drafter: Drafter,
    prompt: np.ndarray,
    options: GenerationOptions,
    seed: int,
) -> None:
    """Generate one text, and add its rounds after prefill to `total`."""
    rounds = start_generation(target, drafter, prompt, replace(options, seed=seed)).rounds()
    next(rounds, None)
    for round_ in rounds:
        total.add(round_, 0.0, 0.0)


def _row(kind: str, temperature: float, drafter: str, counts: Statistics) -> Row:
    """accepted: by depth, the share of the drafted tokens that were accepted, if their predecessors
    were.
    """
    reached = [counts.drafted[0], *counts.accepted[:-1]]
    shares = [a / r if r else 0.0 for a, r in zip(counts.accepted, reached, strict=True)]
    return {
        "kind": kind, "temperature": temperature, "drafter": drafter,
        "tokens_per_pass": counts.emitted / counts.steps if counts.steps else 1.0,
        "drafting_share": counts.drafted[0] / counts.steps if counts.steps else 0.0,
        "accepted": shares[:DEPTH],
    }  # fmt: skip


def table(result: Mapping[str, object], markdown: bool = False) -> str:
    """Return the result as two tables: tokens per pass, and the heads' acceptance by depth."""
    rows = result["rows"]
    columns = list(dict.fromkeys((row["kind"], row["temperature"]) for row in rows))
    heading = ["", *(f"{kind} T={temperature:g}" for kind, temperature in columns)]
    found = {(row["drafter"], row["kind"], row["temperature"]): row for row in rows}
    passes, depths = [heading], [heading]
    for drafter in dict.fromkeys(row["drafter"] for row in rows):
        cells = [f"{found[drafter, *column]['tokens_per_pass']:.2f}" for column in columns]
        passes.append([drafter, *cells])
    for depth in range(len(found["heads", *columns[0]]["accepted"])):
        cells = [f"{found['heads', *column]['accepted'][depth]:.2f}" for column in columns]
        depths.append([f"draft {depth + 1} accepted", *cells])
    heads = f"{result['heads']} heads"
    if result.get("text_tokens"):  # recorded since 2026-11-30
        heads += f" trained for {result['trained_tokens']:,} tokens on a text of "
        heads += f"{result['text_tokens']:,}"
    note = (
        f"{result['prompts']} held-out prompt{'s' * (result['prompts'] != 1)} of each kind, "
        f"at most {result['new_tokens']} new tokens, {heads}, "
        f"at most {result['depth']} of their drafts in a round. "
        "Tokens per pass of the target; below, how often each of the heads' drafts was accepted if "
        "the ones before it were."
    )
    return "\n\n".join([aligned(passes, markdown), aligned(depths, markdown), note])
