"""The table, the README's part and the picture of `minimtp bench decode`."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minimtp.machine import other_work

PLAIN = "plain"
SAME_TEXT = "shared-noise"  # the rule that promises it
ADAPTIVE = "adaptive"  # how the name of a way ends whose lengths are chosen as `generate` does
SAID = 10  # losing cases; the others are in the file
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#a8123c",
    "#009e73",
    "#56b4e9",
    "#cc79a7",
)  # told apart by the colour-blind as well
Row = Mapping[str, object]


def table(
    result: Mapping[str, object],
    markdown: bool = False,
    shown: Callable[[str, str], bool] = lambda *_: True,
) -> str:
    """A line a way and rule, a column a text and temperature: speed-up over plain decoding, and tokens a step.

    shown: tells of a way and a rule whether they are.
    """
    rows = result["rows"]
    columns = list(dict.fromkeys((row["text"], row["temperature"]) for row in rows))
    cells = {(row["way"], row["rule"], row["text"], row["temperature"]): row for row in rows}
    lines = [["", *(f"{text} T={temperature:g}" for text, temperature in columns)]]
    ways = _ways(rows)
    plain = [cells[*ways[0], *column] for column in columns]
    lines.append(
        [f"{PLAIN}, {ways[0][1]}, tokens/s", *(f"{row['tokens_per_second']:,.0f}" for row in plain)]
    )
    for way, rule in filter(lambda pair: shown(*pair), ways[1:]):
        lines.append(
            [
                f"{way}, {rule}",
                *(_cell(cells.get((way, rule, *column)), markdown) for column in columns),
            ]
        )
    text = aligned(lines, markdown)
    if markdown:
        return text
    said = "speed-up over plain decoding (tokens a step); at temperature 0 all rules are the same"
    return "\n".join([text, said, "", *_lost(rows)])


def formats_table(result: Mapping[str, object], markdown: bool = False) -> str:
    """A line for each form of the weights: its size, and at each temperature its speed and the speed-up over the first.

    On a GPU also what a pass over one token takes, and its share of the copy bandwidth.
    """
    rows, missing, passes = (result["formats"].get(name) for name in ("rows", "missing", "passes"))
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    cells = {(row["name"], row["temperature"]): row for row in rows}
    lines = [
        [
            "",
            "weights",
            *(["us a pass", "of copy"] if passes else []),
            *(f"tokens/s T={t:g}" for t in temperatures),
        ]
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        found = [cells[name, temperature] for temperature in temperatures]
        speeds = [f"{row['tokens_per_second']:,.0f} ({row['speedup']:.2f}x)" for row in found]
        a_pass = [""] * (2 * bool(passes))
        if passes and name in passes:
            a_pass = [f"{passes[name]['microseconds']:.1f}", f"{passes[name]['share_of_copy']:.0%}"]
        lines.append([name, f"{found[0]['weight_bytes']:,} B", *a_pass, *speeds])
    lines += [[name, reason, *([""] * (len(lines[0]) - 2))] for name, reason in missing.items()]
    text = aligned(lines, markdown, said_at=len(lines) - len(missing))
    if not passes:
        return text
    formats = result["formats"]
    said = (
        f"a pass is over one token behind {formats['cached_tokens']}, on the device's clock; its share of copy is what it has "
        f"to read, weights and cache, of the {formats['copy_gigabytes_per_second']:,.0f} GB/s that copying moves"
    )
    return f"{text}\n{chr(10) * markdown}{said}"


def aligned(lines: list[list[str]], markdown: bool, said_at: int | None = None) -> str:
    """The first line is the head; from `said_at` on the second cell is a sentence and not part of a column."""
    if markdown:
        lines = [lines[0], ["---", *["---:"] * (len(lines[0]) - 1)], *lines[1:]]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(map(len, column)) for column in zip(*lines[:said_at], strict=True)]
    widths[0] = max(len(line[0]) for line in lines)
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    return "\n".join(text)


def losses(rows: Sequence[Row]) -> list[Row]:
    """The rows that are slower than plain decoding, the worst first."""
    return sorted(
        (row for row in rows if row["way"] != PLAIN and _loses(row)), key=lambda row: row["speedup"]
    )


def _loses(row: Row) -> bool:
    return round(row["speedup"], 2) < 1


def _lost(rows: Sequence[Row]) -> list[str]:
    """Sentences about the worst of them."""
    losing = losses(rows)
    lines = [
        f"loses: {row['text']} at temperature {row['temperature']:g}, {row['way']}, {row['rule']}: {row['speedup']:.2f}x "
        f"({row['speedup_low']:.2f} to {row['speedup_high']:.2f}), {row['tokens_per_step']:.2f} tokens a step, "
        f"predicted {row['predicted_speedup']:.2f}x"
        for row in losing[:SAID]
    ]
    more = [f"and {len(losing) - SAID} more"] if len(losing) > SAID else []
    return lines + more if lines else ["no way of drafting was slower than plain decoding"]


def readme(result: Mapping[str, object]) -> str:
    """The Markdown that stands in the README."""
    rows, machine, sizes = result["rows"], result["machine"], result["sizes"]
    drafting, losing = [row for row in rows if row["way"] != PLAIN], losses(rows)
    passes = result["seconds_of_a_pass"]
    costs = ", ".join(
        f"{passes[n - 1] / passes[0]:.2f} for {n}" for n in (2, 4, 8, 16) if n <= len(passes)
    )
    adaptive = [row for row in drafting if row["way"].endswith(ADAPTIVE)]
    promised = [row for row in drafting if row["rule"] == SAME_TEXT]
    said = (
        f"Speed-up over plain decoding of the same model, the median of turns side by side, and tokens a step; bold where it "
        f"loses: {_counted(losing, drafting)}; of lengths that adapt, as those of `generate` do, "
        f"{_counted(losses(adaptive), adaptive)}. {result['parameters']:,} parameters at "
        f"{result['bits_per_weight']:.2f} bits, {sizes['prompts']} prompts of each kind, {sizes['max_new_tokens']} tokens each, "
        f"{sizes['repeats']} turns; a pass over more tokens costs so many passes over one: {costs}. {machine['processor']}"
        f"{other_work(machine)}, {'' if result.get('device') == 'cuda' else 'one thread, '}{result['kernels']} kernels. "
        f"With shared noise {sum(row['same_texts'] for row in promised)} of "
        f"{sum(row['texts'] for row in promised)} texts equal those of plain decoding with the same seed, token for token."
    )
    brief = table(
        result,
        markdown=True,
        shown=lambda way, rule: rule == SAME_TEXT or way == drafting[0]["way"],
    )
    return f"{brief}\n\n{said}\n\n{formats_table(result, markdown=True)}"


def _counted(losing: Sequence[Row], rows: Sequence[Row]) -> str:
    return f"{len(losing)} of {len(rows)} cases" + (
        f", at worst {losing[0]['speedup']:.2f}x" if losing else ""
    )


def draw(result: Mapping[str, object], path: Path) -> Path | None:
    """Speed-ups with their middle halves, predicted beside measured, acceptance by depth and c(T). None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if row["way"] != PLAIN]
    texts, temperatures = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("text", "temperature")
    )
    ways = _ways(rows)
    figure = Figure(figsize=(15, 4.4 + 0.24 * len(ways)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1 + 0.24 * len(ways), 3.4))
    panels = upper.subplots(1, len(texts), sharey=True, squeeze=False)[0]
    for panel, text in zip(panels, texts, strict=True):
        for temperature, colour in zip(temperatures, COLOURS, strict=False):
            seen = [row for row in rows if (row["text"], row["temperature"]) == (text, temperature)]
            places = [ways.index((row["way"], row["rule"])) for row in seen]
            middle = [row["speedup"] for row in seen]
            below = [row["speedup"] - row["speedup_low"] for row in seen]
            above = [row["speedup_high"] - row["speedup"] for row in seen]
            label = f"temperature {temperature:g}"
            panel.errorbar(
                middle, places, xerr=[below, above], fmt="o", color=colour, capsize=2, label=label
            )
        panel.axvline(1, color="black", linewidth=1)
        panel.set(title=text, xlabel="speed-up over plain decoding")
    panels[0].set_yticks(range(len(ways)), [f"{way}, {rule}" for way, rule in ways], fontsize=9)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=8)

    predicted, acceptance, costs = lower.subplots(1, 3)
    for text, colour in zip(texts, COLOURS, strict=False):
        seen = [row for row in rows if row["text"] == text]
        points = [row["predicted_speedup"] for row in seen], [row["speedup"] for row in seen]
        predicted.plot(*points, "o", color=colour, markersize=4, alpha=0.7, label=text)
    ends = [0, 1.05 * max(max(row["predicted_speedup"], row["speedup"]) for row in rows)]
    predicted.plot(ends, ends, color="black", linewidth=0.8)
    predicted.set(
        xlabel="predicted from c(T) and acceptance",
        ylabel="measured",
        title="speed-up",
        xlim=ends,
        ylim=ends,
    )
    for text, colour in zip(texts, COLOURS, strict=False):
        for temperature, line in zip(
            (temperatures[0], temperatures[-1]), ("o-", "o--"), strict=True
        ):
            row = next(
                row for row in rows if (row["text"], row["temperature"]) == (text, temperature)
            )
            shares = [share for share in row["acceptance"] if share is not None]
            acceptance.plot(range(1, len(shares) + 1), shares, line, color=colour, markersize=4,
                            label=f"{text}, temperature {temperature:g}")  # fmt: skip
    acceptance.set(
        xlabel="depth of the draft",
        ylabel="accepted / drafted",
        ylim=(0, 1.02),
        title="acceptance: " + ways[0][0],
    )
    passes = result["seconds_of_a_pass"]
    costs.plot(
        range(1, len(passes) + 1),
        [seconds / passes[0] for seconds in passes],
        "o-",
        color=COLOURS[0],
        markersize=4,
    )
    costs.set(xlabel="T, tokens in a pass", ylabel="c(T) / c(1)", title="what a pass costs", ylim=0)
    for axes in (predicted, acceptance):
        axes.legend(fontsize=8)
    for axes in (*panels, predicted, acceptance, costs):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
    return path


def _ways(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Way and rule, all the rules of a way together, in the order they were measured."""
    ways, rules = (list(dict.fromkeys(row[name] for row in rows)) for name in ("way", "rule"))
    measured = {(row["way"], row["rule"]) for row in rows}
    return [(way, rule) for way in ways for rule in rules if (way, rule) in measured]


def _cell(row: Row | None, markdown: bool) -> str:
    if row is None:
        return ""
    speedup = f"{row['speedup']:.2f}x"
    return f"{f'**{speedup}**' if markdown and _loses(row) else speedup} ({row['tokens_per_step']:.1f})"
