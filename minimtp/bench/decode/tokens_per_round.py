"""Compare rules and trees by tokens per round, without timing: `minimtp bench rounds`.

Times depend on the machine, but the tokens of a round depend only on the rule and the drafts.
Nothing is timed here. Each variant generates for `ROUNDS` rounds from many places of a held-out
text, and their tokens are counted. A model does not fall into a loop within so few rounds. All
variants start from the same places, because the difference between two variants is less noisy than
their individual results. Each difference is given with its 95 % confidence interval over the
places:

    over the chain   a tree minus the chain of the same rule. A tree accepts at least as many drafts
                     as the chain of its first children. But a tree with as many drafts as a chain
                     is not as deep
    over token       a rule minus the token rule, with drafts of the same form. On average the block
                     rule accepts no fewer drafts (Sun et al. 2024, 2403.10444), nor does traversal
                     for trees (Weng et al. 2025, 2505.12398). The other two rules generate the text
                     of plain decoding, which may cost acceptance

A comparison of a tree or of the block rule counts as lost if the interval, widened by half, lies
below zero. If there is no real difference, this happens by chance once in six hundred comparisons.
There are dozens of comparisons.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import sqrt
from pathlib import Path
from sys import stderr

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.bench.decode.prompts import Sizes, choose_prompts, fit_to_context
from minimtp.bench.decode.variants import FIXED_DEPTH, MAX_TREE
from minimtp.bench.json_lines import hand_over, result_file
from minimtp.bench.table_text import aligned
from minimtp.decode.drafters.deploy import deploy, with_head
from minimtp.decode.drafters.drafter import Drafter, TreeDrafter
from minimtp.decode.drafters.registry import every_drafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.rules.registry import RULES
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import check_file, check_folder, make_folder
from minimtp.formats.load import load, load_draft

FILE_NAME = "bench-rounds.json"
RESULT = result_file("rounds")
TEXTS, TEMPERATURES = ("code", "prose"), (0.0, 1.0)
ROUNDS = 4
CHAIN = "chain"
FORMS = {CHAIN: 0, f"tree of {FIXED_DEPTH}": FIXED_DEPTH, f"tree of {MAX_TREE}": MAX_TREE}
CERTAINTY = 1.5  # half intervals below zero that count as a loss
TOKEN, BLOCK = "token", "block"
Row = dict[str, object]
Kind = tuple[str, str, str]  # (drafter, form, rule)


def measure_tokens_per_round(
    folder: str | Path,
    *,
    places: int = 1000,
    temperatures: Sequence[float] = TEMPERATURES,
    texts: Sequence[str] = TEXTS,
    small: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Count the tokens per round of the run in `folder`, with draft depths up to `FIXED_DEPTH`.

    places: starting points per text. small: a run with the same tokenizer that drafts too. out: a
    folder for the result. Raises UserError if an option is invalid.
    """
    if places < 2:
        raise UserError(f"places must be at least 2 to estimate an interval, not {places}")
    if out is not None:
        check_folder(out)
        check_file(Path(out, FILE_NAME), RESULT)
    loaded = load(folder, device)
    max_new_tokens = 2 + ROUNDS * (FIXED_DEPTH + 1)
    wanted = Sizes(prompts=places, prompt=64, max_new_tokens=max_new_tokens)
    sizes = fit_to_context(wanted, loaded)
    prompts, missing = choose_prompts(loaded, texts, sizes, seed)
    also = load_draft(small, loaded) if small else None
    target, heads = deploy(with_head(loaded.model, also))
    drafters = every_drafter(loaded, heads, also)
    if out is not None:
        out = make_folder(out)
    for name, reason in missing.items():
        report(f"{name} is left out: {reason}")
    rows = []
    for text, temperature in product(prompts, temperatures):
        sampling = SamplingParams(temperature)
        counts = _count(target, drafters, prompts[text], sampling, sizes, seed, text)
        rows += _rows(text, temperature, counts)
    result = {
        "measurement": "rounds", "run": str(folder), "recipe": loaded.recipe.to_dict(),
        "parameters": loaded.recipe.trunk_parameters(),
        "small": None if small is None else str(small), "places": places, "prompt": sizes.prompt,
        "rounds": ROUNDS, "depth": FIXED_DEPTH, "seed": seed, "missing": missing,
        "kernels": kernels.describe(choose_device(device).name)[0],
        "versions": machine.versions(), "rows": rows,
    }  # fmt: skip
    hand_over(result, table, out and out / FILE_NAME, RESULT, report)
    return result


def _count(
    target: Target,
    drafters: Mapping[str, Drafter],
    prompts: Sequence[np.ndarray],
    sampling: SamplingParams,
    sizes: Sizes,
    seed: int,
    text: str,
) -> dict[Kind, np.ndarray]:
    """Return the tokens per round at every place, by drafter, form and rule."""
    kinds = list(_kinds(drafters, sampling))
    description = f"{text}, T={sampling.temperature:g}"
    counts = {}
    total = len(kinds) * len(prompts)
    with tqdm(total=total, desc=description, disable=None, file=stderr) as bar:
        for name, form, rule in kinds:
            drafter = drafters[name]
            options = GenerationOptions(
                max_new_tokens=sizes.max_new_tokens,
                sampling=sampling,
                rule=rule,
                draft_depth=min(FIXED_DEPTH, drafter.max_depth),
                tree=FORMS[form],
            )
            means = [
                tokens_per_round(target, drafter, prompt, replace(options, seed=seed + place))
                for place, prompt in enumerate(prompts)
            ]
            counts[name, form, rule] = np.array(means)
            bar.update(len(prompts))
    return counts


def tokens_per_round(
    target: Target, drafter: Drafter, prompt: np.ndarray, options: GenerationOptions
) -> float:
    """Return the mean over the first `ROUNDS` rounds after prefill, or over as many as fit the
    context.
    """
    rounds = start_generation(target, drafter, prompt, options).rounds()
    next(rounds)
    found = zip(rounds, range(ROUNDS), strict=False)
    return statistics.fmean(len(round_.tokens) for round_, _ in found)


def _kinds(drafters: Mapping[str, Drafter], sampling: SamplingParams) -> Iterator[Kind]:
    """(drafter, form, rule); only the first rule at temperature 0, where all are the same."""
    for (name, drafter), form in product(drafters.items(), FORMS):
        if form == CHAIN or isinstance(drafter, TreeDrafter):
            for rule in RULES[:1] if sampling.greedy else RULES:
                yield name, form, rule


def _rows(text: str, temperature: float, counts: Mapping[Kind, np.ndarray]) -> Iterator[Row]:
    for (name, form, rule), found in counts.items():
        row: Row = {"text": text, "temperature": temperature}
        row |= {"drafter": name, "form": form, "rule": rule}
        row["tokens_per_round"] = interval(found)
        row["over_chain"] = None if form == CHAIN else interval(found - counts[name, CHAIN, rule])
        token = counts.get((name, form, TOKEN))
        row["over_token"] = None if token is None or rule == TOKEN else interval(found - token)
        yield row


def interval(values: np.ndarray) -> list[float]:
    """Return the mean, and half the width of its 95 % confidence interval."""
    return [float(values.mean()), 1.96 * float(values.std(ddof=1)) / sqrt(len(values))]


def lost_comparisons(rows: Sequence[Row]) -> tuple[int, list[str]]:
    """Return (number of comparisons, a sentence for each that is lost).

    Trees are compared with their chains, the block rule with the token rule.
    """
    compared = [(row, "its chain", row["over_chain"]) for row in rows if row["over_chain"]]
    for row in rows:
        if row["over_token"] and row["rule"] == BLOCK:
            compared.append((row, "the token rule", row["over_token"]))
    lost = []
    for row, other, difference in compared:
        if difference[0] + CERTAINTY * difference[1] < 0:
            case = f"{row['text']} at temperature {row['temperature']:g}, {row['drafter']}"
            case += f", {row['form']}, {row['rule']}"
            lost.append(f"fewer tokens than {other}: {case}: {_signed(difference)}")
    return len(compared), lost


def table(result: Mapping[str, object], markdown: bool = False) -> str:
    """Return the tokens per round and differences: a line per drafter, form and rule, a column per
    text and temperature.
    """
    rows = result["rows"]
    columns = list(dict.fromkeys((row["text"], row["temperature"]) for row in rows))
    drafters = dict.fromkeys(row["drafter"] for row in rows)
    keys = ("drafter", "form", "rule", "text", "temperature")
    cells = {tuple(row[key] for key in keys): row for row in rows}
    lines = [["", *(f"{text} T={temperature:g}" for text, temperature in columns)]]
    for kind in product(drafters, FORMS, RULES):
        found = [cells.get((*kind, *column)) for column in columns]
        if any(found):
            lines.append([", ".join(kind), *map(_cell, found)])
    compared, lost = lost_comparisons(rows)
    note = (
        f"Tokens per round with at most {result['depth']} drafts in sequence, over the first "
        f"{result['rounds']} rounds at {result['places']} places of held-out text, with 95 % "
        "confidence intervals. In brackets: the difference between a tree and the chain of the "
        "same rule, and between a rule and the token rule with drafts of the same form. Of "
        f"{compared} comparisons of trees and of the block rule, {len(lost) or 'none'} "
        f"{'shows' if len(lost) <= 1 else 'show'} a significant loss."
    )
    return "\n".join([aligned(lines, markdown), "", note, *lost])


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    mean, half = row["tokens_per_round"]
    names = {"over_chain": "chain", "over_token": "token"}
    ahead = ", ".join(f"{other} {_signed(row[name])}" for name, other in names.items() if row[name])
    return f"{mean:.2f} +- {half:.2f}" + (f" ({ahead})" if ahead else "")


def _signed(difference: Sequence[float]) -> str:
    return f"{difference[0]:+.2f} +- {difference[1]:.2f}"
