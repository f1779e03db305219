"""Tables as aligned text or as Markdown."""

from collections.abc import Sequence


def aligned(lines: list[list[str]], markdown: bool, notes: Sequence[tuple[str, str]] = ()) -> str:
    """Format lines of cells. The first line is the heading. The first column is left-aligned.

    notes: (name, sentence) lines below the table. A sentence does not widen a column.
    """
    if markdown:
        width = len(lines[0])
        rule = ["---", *["---:"] * (width - 1)]
        padded = [[name, sentence, *[""] * (width - 2)] for name, sentence in notes]
        return "\n".join("| " + " | ".join(c) + " |" for c in [lines[0], rule, *lines[1:], *padded])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[0] = max([widths[0], *(len(name) for name, _ in notes)])
    text = []
    for cells in lines:
        rest = map(str.rjust, cells[1:], widths[1:])
        text.append("  ".join([cells[0].ljust(widths[0]), *rest]).rstrip())
    text += [f"{name.ljust(widths[0])}  {sentence}" for name, sentence in notes]
    return "\n".join(text)
