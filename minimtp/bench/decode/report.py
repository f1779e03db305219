"""The tables of `minimtp bench decode`, on the terminal and in data/results/README.md."""

from collections.abc import Callable, Mapping, Sequence

from minimtp.bench.decode.variants import ADAPTIVE, PLAIN
from minimtp.bench.table_text import aligned
from minimtp.machine import other_work

SAME_TEXT_RULE = "shared-noise"  # the rule that promises the text of plain decoding
MAX_LOSSES = 10  # losing cases that are printed; the file has all of them
Row = Mapping[str, object]


def table(
    result: Mapping[str, object],
    markdown: bool = False,
    shown: Callable[[str, str], bool] = lambda variant, rule: True,
) -> str:
    """Return the speed-up over plain decoding and tokens per step: a line per variant and rule, a
    column per text and temperature.

    shown(variant, rule): whether the table has this line.
    """
    rows = result["rows"]
    columns = list(dict.fromkeys((row["text"], row["temperature"]) for row in rows))
    cells = {(row["variant"], row["rule"], row["text"], row["temperature"]): row for row in rows}
    lines = [["", *(f"{text} T={temperature:g}" for text, temperature in columns)]]
    plain, *others = variants_and_rules(rows)
    speeds = [f"{cells[*plain, *column]['tokens_per_second']:,.0f}" for column in columns]
    lines.append([f"{PLAIN}, {plain[1]}, tokens/s", *speeds])
    for pair in others:
        if shown(*pair):
            found = [_cell(cells.get((*pair, *column)), markdown) for column in columns]
            lines.append([", ".join(pair), *found])
    text = aligned(lines, markdown)
    if markdown:
        return text
    note = "speed-up over plain decoding (tokens per step); at temperature 0 all rules are the same"
    return "\n".join([text, note, "", *_losses_in_words(rows)])


def tables(result: Mapping[str, object]) -> str:
    """Return both tables."""
    return f"{table(result)}\n\n{formats_table(result)}"


def formats_table(result: Mapping[str, object], markdown: bool = False) -> str:
    """Return the size and the speed of each weight format. Speed-ups are relative to the first.

    On a GPU, the table also has the time of a forward pass over one token, and its share of the
    copy bandwidth.
    """
    formats = result["formats"]
    rows, passes = formats["rows"], formats.get("passes")
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    cells = {(row["name"], row["temperature"]): row for row in rows}
    head = ["", "weights", *(["us per pass", "of copy"] if passes else [])]
    lines = [[*head, *(f"tokens/s T={temperature:g}" for temperature in temperatures)]]
    for name in dict.fromkeys(row["name"] for row in rows):
        found = [cells[name, temperature] for temperature in temperatures]
        speeds = [f"{row['tokens_per_second']:,.0f} ({row['speedup']:.2f}x)" for row in found]
        one_pass = ["", ""] if passes else []
        if passes and name in passes:
            measured = passes[name]
            one_pass = [f"{measured['microseconds']:.1f}", f"{measured['share_of_copy']:.0%}"]
        lines.append([name, f"{found[0]['weight_bytes']:,} B", *one_pass, *speeds])
    text = aligned(lines, markdown, list(formats["missing"].items()))
    if not passes:
        return text
    note = (
        f"A pass is over one token after {formats['cached_tokens']} cached ones, by the device's "
        'clock. "of copy": the bytes that it has to read (weights and cache) per second, as a '
        f"share of the {formats['copy_gigabytes_per_second']:,.0f} GB/s of a copy."
    )
    return f"{text}\n{chr(10) * markdown}{note}"


def variants_and_rules(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the measured pairs (variant, rule), all rules of a variant together, in order."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    measured = {(row["variant"], row["rule"]) for row in rows}
    return [(v, rule) for v in variants for rule in rules if (v, rule) in measured]


def losses(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are slower than plain decoding, the slowest first."""
    losing = [row for row in rows if row["variant"] != PLAIN and _loses(row)]
    return sorted(losing, key=lambda row: row["speedup"])


def _loses(row: Row) -> bool:
    return round(row["speedup"], 2) < 1


def _losses_in_words(rows: Sequence[Row]) -> list[str]:
    losing = losses(rows)
    lines = [
        f"loses: {row['text']} at temperature {row['temperature']:g}, {row['variant']}, "
        f"{row['rule']}: {row['speedup']:.2f}x ({row['speedup_low']:.2f} to "
        f"{row['speedup_high']:.2f}), {row['tokens_per_step']:.2f} tokens per step, "
        f"predicted {row['predicted_speedup']:.2f}x"
        for row in losing[:MAX_LOSSES]
    ]
    if len(losing) > MAX_LOSSES:
        lines.append(f"and {len(losing) - MAX_LOSSES} more")
    return lines or ["no variant was slower than plain decoding"]


def readme(result: Mapping[str, object]) -> str:
    """Return the Markdown for data/results/README.md."""
    rows = result["rows"]
    drafting = [row for row in rows if row["variant"] != PLAIN]
    first = drafting[0]["variant"]

    def shown(variant: str, rule: str) -> bool:
        return rule == SAME_TEXT_RULE or variant == first

    short = table(result, markdown=True, shown=shown)
    return f"{short}\n\n{_conditions(result, drafting)}\n\n{formats_table(result, markdown=True)}"


def _conditions(result: Mapping[str, object], drafting: Sequence[Row]) -> str:
    machine, sizes, passes = result["machine"], result["sizes"], result["seconds_per_pass"]
    lengths = [n for n in (2, 4, 8, 16) if n <= len(passes)]
    costs = ", ".join(f"{passes[n - 1] / passes[0]:.2f} (T = {n})" for n in lengths)
    adaptive = [row for row in drafting if row["variant"].endswith(ADAPTIVE)]
    promised = [row for row in drafting if row["rule"] == SAME_TEXT_RULE]
    equal = sum(row["equal_texts"] for row in promised)
    threads = "" if result.get("device") == "cuda" else "one thread, "
    return (
        "Speed-up over plain decoding of the same model (median over pairs of runs) and tokens "
        f"per step. Losses are bold: {_counted(losses(drafting), drafting)}. Adaptive drafting, "
        f"the default of `generate`, loses in {_counted(losses(adaptive), adaptive)}. "
        f"{result['parameters']:,} parameters at {result['bits_per_weight']:.2f} bits per weight, "
        f"{sizes['prompts']} prompts of each kind, {sizes['max_new_tokens']} new tokens, "
        f"{sizes['repeats']} repeats. Cost of a forward pass over T tokens, relative to one token: "
        f"{costs}. {machine['processor']}{other_work(machine)}, {threads}{result['kernels']} "
        f"kernels. With shared noise {equal} of {sum(row['texts'] for row in promised)} texts "
        "equal those of plain decoding with the same seed, token for token."
    )


def _counted(losing: Sequence[Row], rows: Sequence[Row]) -> str:
    worst = f", {losing[0]['speedup']:.2f}x at worst" if losing else ""
    return f"{len(losing)} of {len(rows)} cases{worst}"


def _cell(row: Row | None, markdown: bool) -> str:
    if row is None:
        return ""
    speedup = f"{row['speedup']:.2f}x"
    if markdown and _loses(row):
        speedup = f"**{speedup}**"
    return f"{speedup} ({row['tokens_per_step']:.1f})"
