"""Tables as aligned text or as Markdown."""

from collections.abc import Sequence


def aligned(
    lines: list[list[str]], markdown: bool, notes: Sequence[tuple[str, str]] = (), names: int = 1
) -> str:
    """Format lines of cells. The first line is the heading.

    notes: (name, sentence) lines below the table. A sentence does not widen a column. names: number
    of columns of names, which come first and are left-aligned.
    """
    if markdown:
        width = len(lines[0])
        rule = [*["---"] * names, *["---:"] * (width - names)]
        padded = [[name, sentence, *[""] * (width - 2)] for name, sentence in notes]
        return "\n".join("| " + " | ".join(c) + " |" for c in [lines[0], rule, *lines[1:], *padded])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[0] = max([widths[0], *(len(name) for name, _ in notes)])
    text = []
    for cells in lines:
        first = map(str.ljust, cells[:names], widths)
        text.append("  ".join([*first, *map(str.rjust, cells[names:], widths[names:])]).rstrip())
    text += [f"{name.ljust(widths[0])}  {sentence}" for name, sentence in notes]
    return "\n".join(text)
