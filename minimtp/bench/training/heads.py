"""How the acceptance of draft heads grew while they were trained: `minimtp bench heads`.

A run logs with every evaluation how often a draft was the model's own choice on held-out text, if
the drafts before it were (`training/evaluate.py`). Here the logs of several runs stand side by
side, for example of heads of two kinds, or on texts of two sizes. Nothing is measured again.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minimtp.bench.json_lines import hand_over, result_file
from minimtp.bench.table_text import aligned
from minimtp.errors import UserError
from minimtp.files import check_file
from minimtp.formats.load import load
from minimtp.quoting import shown_path
from minimtp.training.run.log import read_log

RESULT = result_file("heads")


def measure_heads(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Collect what the logs of the run folders `runs` say about their heads.

    out: a file for the result. Raises UserError if a folder is no run with heads, or if its log has
    no evaluation.
    """
    if out is not None:
        check_file(out, RESULT)
    found, rows = [], []
    for run in map(Path, runs):
        about, points = _curve(run)
        found.append(about)
        rows += points
    result = {"measurement": "heads", "runs": found, "rows": rows}
    hand_over(result, table, out, RESULT, report)
    return result


def _curve(folder: Path) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Return what a run is about, and its points: the tokens and seconds of training, and the
    acceptance by depth.
    """
    loaded, seconds, points = load(folder), 0.0, []
    for line in read_log(folder):
        seconds = line.get("seconds") or seconds
        accepted = (line.get("evaluation") or {}).get("acceptance")
        if accepted:
            points.append(
                {"run": str(folder), "tokens": line["tokens"], "seconds": seconds,
                 "accepted": accepted}
            )  # fmt: skip
    if not points:
        raise UserError(
            f"{shown_path(folder)} has no log of accepted drafts: give a folder that minimtp train "
            "wrote, with --heads"
        )
    text_tokens = loaded.corpus.get("training_tokens")
    return {"run": str(folder), "heads": loaded.recipe.heads, "text_tokens": text_tokens}, points


def table(result: Mapping[str, object], markdown: bool = False) -> str:
    """Return a row for each number of tokens, with the first two drafts of each run."""
    runs = result["runs"]
    lines = [["trained, tokens"]]
    for run in runs:
        lines[0] += [f"{run['run']}: passes", "minutes", "draft 1 accepted", "draft 2"]
    points = {(row["run"], row["tokens"]): row for row in result["rows"]}
    for tokens in sorted({row["tokens"] for row in result["rows"]}):
        cells = [f"{tokens:,}"]
        for run in runs:
            point = points.get((run["run"], tokens))
            cells += [""] * 4 if point is None else _cells(point, run["text_tokens"])
        lines.append(cells)
    about = [
        f"{run['run']}: {run['heads']} heads"
        + (f" on a text of {run['text_tokens']:,} tokens" if run["text_tokens"] else "")
        for run in runs
    ]
    note = (
        "How often a draft was the model's own choice on held-out text, if the drafts before it "
        f"were. {'. '.join(about)}."
    )
    return f"{aligned(lines, markdown)}\n\n{note}"


def _cells(point: Mapping[str, object], text_tokens: int | None) -> list[str]:
    passes = f"{point['tokens'] / text_tokens:.1f}" if text_tokens else ""
    accepted = [f"{share:.3f}" for share in point["accepted"][:2]]
    return [passes, f"{point['seconds'] / 60:.0f}", *accepted, *[""] * (2 - len(accepted))]
