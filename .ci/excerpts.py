"""Write the code blocks of the lessons from the library: python .ci/excerpts.py

A block in a lesson's README.md is marked by a comment that names a file and a definition in it:

    <!-- code: minimtp/engine/ops.py MatMul.forward -->
    ```python
    ...
    ```

It shows this function, class or method (`Class.method`), dedented and without docstrings. Two texts
after the name, `FIRST .. LAST`, show a part of it: from the first line that contains FIRST to the
first line after that one that contains LAST. tests/lessons/test_excerpts.py checks that the blocks
are up to date.
"""

import ast
import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(ROOT.glob("lessons/*/README.md"))
MARK = re.compile(r"<!-- code: (\S+) (\S+)(?: ([^\n]+?))? -->")
BLOCK = re.compile(rf"({MARK.pattern}\n```python\n)(.*?)```$", flags=re.DOTALL | re.MULTILINE)
SEPARATOR = re.compile(r"\s*(?<!\.)\.\.(?!\.)\s*")  # "..", but not the "..." of x[..., 0]


def excerpt(path: str, name: str, part: str | None = None) -> str:
    """Return the source of a definition, or the part of it between two texts.

    Raises LookupError if the file has no such definition, or the definition no such part.
    """
    source = (ROOT / path).read_text(encoding="utf-8")
    node = ast.parse(source)
    for step in name.split("."):
        named = [n for n in node.body if getattr(n, "name", None) == step]
        if not named:
            raise LookupError(f"{path} defines no {name}")
        node = named[0]
    lines = dict(enumerate(source.splitlines(), start=1))
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    hidden = docstring_lines(node, lines)
    shown = [lines[n] for n in range(first, node.end_lineno + 1) if n not in hidden]
    if part is not None:
        shown = between(shown, part, f"{path} {name}")
    return dedent("\n".join(shown)) + "\n"


def docstring_lines(node: ast.AST, lines: dict[int, str]) -> set[int]:
    """Return the numbers of all docstring lines, each with the empty line below it, if any."""
    numbers = set()
    for inner in ast.walk(node):
        if not isinstance(inner, ast.FunctionDef | ast.ClassDef) or not ast.get_docstring(inner):
            continue
        docstring = inner.body[0]
        numbers.update(range(docstring.lineno, docstring.end_lineno + 1))
        if not lines[docstring.end_lineno + 1].strip():
            numbers.add(docstring.end_lineno + 1)
    return numbers


def between(lines: list[str], part: str, where: str) -> list[str]:
    """Return the lines from the first text of `part` to the second. Raises LookupError."""
    texts = SEPARATOR.split(part)
    if len(texts) != 2:
        raise LookupError(f"{where}: expected FIRST .. LAST, not {part!r}")
    start = next((i for i, line in enumerate(lines) if texts[0] in line), len(lines))
    end = next((i for i, line in enumerate(lines) if texts[1] in line and i > start), None)
    if end is None:
        raise LookupError(f"{where} has no line with {texts[0]!r} and one with {texts[1]!r} below")
    return lines[start : end + 1]


def updated(page: str) -> str:
    """Return the page with the text of every block from the library."""
    return BLOCK.sub(lambda found: found[1] + excerpt(*found.group(2, 3, 4)) + "```", page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
