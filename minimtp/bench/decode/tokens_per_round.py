"""What rules and trees bring, apart from time: `minimtp bench rounds`.

Seconds are a machine's, the tokens that a round emits are the rule's. So nothing is timed here: from many places of a held-out
text each way of drafting writes on for `ROUNDS` rounds, and their tokens are counted. That is too short for a model to run in
circles. The places are the same for all ways, so that differences show that the figures themselves are too rough for: each is
given with its 95 % confidence interval over the places,

    over the chain    a tree less the chain of the same rule. A tree accepts at least what the chain of its first children does,
                      but with as many drafts it is not as deep
    over token        a rule less the token rule, the drafts being of the same form. The block rule brings no less on average
                      (Sun et al. 2024, 2403.10444), nor does traversal for trees (Weng et al. 2025, 2505.12398); to write
                      plain decoding's text, as the two others do, may cost some

and a tree, or the block rule, is said to be behind where the whole interval, made half as wide again, lies below zero: that
happens by chance once in six hundred times where there is no difference, and there are dozens of comparisons.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import sqrt
from pathlib import Path
from sys import stderr

from tqdm import tqdm

from minimtp import kernels, machine
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.bench.decode.report import aligned
from minimtp.bench.decode.speed import (
    FIXED_DEPTH,
    LARGEST_TREE,
    Sizes,
    choose_prompts,
    fitting,
    json_lines,
)
from minimtp.decode.decoder import deploy
from minimtp.decode.drafters.registry import every_drafter
from minimtp.decode.options import generate
from minimtp.decode.rules.verify import RULES
from minimtp.decode.sampling import SamplingParams
from minimtp.decode.target import Target
from minimtp.errors import UserError
from minimtp.files import make_folder, write_text
from minimtp.training.checkpoint import load

FILE_NAME = "bench-rounds.json"
TEXTS, TEMPERATURES = ("code", "prose"), (0.0, 1.0)
ROUNDS = 4
FORMS = {"chain": 0, f"tree of {FIXED_DEPTH}": FIXED_DEPTH, f"tree of {LARGEST_TREE}": LARGEST_TREE}
CHAIN = "chain"
SURE = 1.5  # intervals, to say that a way is behind
TOKEN, BLOCK = "token", "block"
Row = dict[str, object]


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
    """Count the tokens of a round with the run in `folder`, at most `FIXED_DEPTH` drafts deep, from `places` of each text.

    small: a run with the same tokens that drafts as well. out: a folder to write what was found to. Raises UserError for what
    cannot be used.
    """
    if places < 2:
        raise UserError(
            f"places must be at least 2, for one says nothing about how far others differ, not {places}"
        )
    loaded = load(folder, device)
    sizes = fitting(
        Sizes(prompts=places, prompt=64, max_new_tokens=2 + ROUNDS * (FIXED_DEPTH + 1)), loaded
    )
    laws = [SamplingParams(temperature) for temperature in temperatures]
    prompts, missing = choose_prompts(loaded, texts, sizes, seed)
    target, heads = deploy(loaded.model)
    drafters = every_drafter(loaded, heads, load(small, device) if small else None)
    if out is not None:
        out = make_folder(out)
    for name, reason in missing.items():
        report(f"{name} is left out: {reason}")
    rows = []
    for text, law in product(prompts, laws):
        ways = list(_ways(drafters, law))
        with tqdm(
            total=len(ways) * places,
            desc=f"{text}, T={law.temperature:g}",
            disable=None,
            file=stderr,
        ) as bar:
            counts = {}
            for way in ways:
                name, form, rule = way
                depth = min(FIXED_DEPTH, drafters[name].max_depth)
                options = dict(
                    max_new_tokens=sizes.max_new_tokens, sampling=law, rule=rule, draft_depth=depth
                )
                counts[way] = np.array([
                    tokens_per_round(target, drafters[name], prompt, seed=seed + place, tree=FORMS[form], **options)
                    for place, prompt in enumerate(prompts[text])
                ])  # fmt: skip
                bar.update(places)
        rows += _rows(text, law.temperature, counts)
    result = {
        "measurement": "rounds", "run": str(folder), "recipe": loaded.recipe.to_dict(),
        "parameters": loaded.recipe.trunk_parameters(), "small": None if small is None else str(small),
        "places": places, "prompt": sizes.prompt, "rounds": ROUNDS, "depth": FIXED_DEPTH, "seed": seed, "missing": missing,
        "kernels": kernels.describe(choose_device(device).name)[0], "versions": machine.versions(), "rows": rows,
    }  # fmt: skip
    if out is not None:
        write_text(out / FILE_NAME, json_lines(result))
    report(table(result))
    if out is not None:
        report(f"saved {out / FILE_NAME}")
    return result


def tokens_per_round(
    target: Target, drafter: object, prompt: np.ndarray, **options: object
) -> float:
    """The mean over the first `ROUNDS` rounds behind the prompt's own, or as many as the context has room for."""
    rounds = generate(target, drafter, prompt, **options).rounds()
    next(rounds)
    return statistics.fmean(
        len(round_.tokens) for round_, _ in zip(rounds, range(ROUNDS), strict=False)
    )


def _ways(drafters: dict[str, object], sampling: SamplingParams) -> Iterator[tuple[str, str, str]]:
    """(drafter, form, rule), one rule where all are the same."""
    for (name, drafter), form in product(drafters.items(), FORMS):
        if form == CHAIN or hasattr(drafter, "draft_tree"):
            for rule in RULES[:1] if sampling.greedy else RULES:
                yield name, form, rule


def _rows(
    text: str, temperature: float, counts: dict[tuple[str, str, str], np.ndarray]
) -> Iterator[Row]:
    for (name, form, rule), found in counts.items():
        row = {
            "text": text,
            "temperature": temperature,
            "drafter": name,
            "form": form,
            "rule": rule,
        }
        row["tokens_per_round"] = interval(found)
        row["over_chain"] = None if form == CHAIN else interval(found - counts[name, CHAIN, rule])
        token = counts.get((name, form, TOKEN))
        row["over_token"] = None if token is None or rule == TOKEN else interval(found - token)
        yield row


def interval(values: np.ndarray) -> list[float]:
    """The mean, and half the width of its 95 % confidence interval."""
    return [float(values.mean()), 1.96 * float(values.std(ddof=1)) / sqrt(len(values))]


def behind(rows: Sequence[Row]) -> tuple[int, list[str]]:
    """(how many comparisons of trees with chains and of the block rule with the token rule there are, those that are lost)."""
    compared = [(row, "its chain", row["over_chain"]) for row in rows if row["over_chain"]]
    compared += [
        (row, "the token rule", row["over_token"])
        for row in rows
        if row["over_token"] and row["rule"] == BLOCK
    ]
    lost = [
        f"behind {other}: {row['text']} at temperature {row['temperature']:g}, {row['drafter']}, {row['form']}, {row['rule']}: "
        f"{_signed(difference)}"
        for row, other, difference in compared
        if difference[0] + SURE * difference[1] < 0
    ]
    return len(compared), lost


def table(result: dict[str, object], markdown: bool = False) -> str:
    """A line a drafter, form and rule; for each text and temperature tokens a round, and what they are ahead."""
    rows = result["rows"]
    columns = list(dict.fromkeys((row["text"], row["temperature"]) for row in rows))
    drafters = dict.fromkeys(row["drafter"] for row in rows)
    cells = {
        (row["drafter"], row["form"], row["rule"], row["text"], row["temperature"]): row
        for row in rows
    }
    lines = [["", *(f"{text} T={temperature:g}" for text, temperature in columns)]]
    for way in product(drafters, FORMS, RULES):
        found = [cells.get((*way, *column)) for column in columns]
        if any(found):
            lines.append([", ".join(way), *map(_cell, found)])
    compared, lost = behind(rows)
    said = (
        f"Tokens a round, at most {result['depth']} drafts deep, in the first {result['rounds']} rounds behind "
        f"{result['places']} places of held-out text, with 95 % confidence intervals. In brackets: what a tree gains over the "
        f"chain of the same rule, and a rule over the token rule with drafts of the same form. Of {compared} comparisons of "
        f"trees and of the block rule {len(lost) or 'none'} {'is' if len(lost) <= 1 else 'are'} lost."
    )
    return "\n".join([aligned(lines, markdown), "", said, *lost])


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    mean, half = row["tokens_per_round"]
    names = {"over_chain": "chain", "over_token": "token"}
    ahead = ", ".join(f"{other} {_signed(row[name])}" for name, other in names.items() if row[name])
    return f"{mean:.2f} +- {half:.2f}" + (f" ({ahead})" if ahead else "")


def _signed(difference: Sequence[float]) -> str:
    return f"{difference[0]:+.2f} +- {difference[1]:.2f}"
