"""Finished generations with odd tokens, and the colours of the trace page."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import minimtp
from minimtp.decode.display.trace import Trace
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.options import GenerationOptions, start_generation
from tests.helpers.table_models import TableTarget, greedy_text

ROOT = Path(minimtp.__file__).resolve().parent.parent
ODD = [
    b"</script><script>document.title='broken'</script>",
    b"<img src=x onerror=\"document.title='broken'\">", b"<!--",
    b"\n", b"\t", b"\xff", b"\xe2\x82", b"\xac", b"\x1b[2J", b"", b"__TRACE__", b"a b",
    "\u202e".encode(), "\u2028".encode(), "é🙂".encode(),
]  # fmt: skip


def spell(tokens):
    return b"".join(ODD[token] for token in tokens)


def letters(tokens):
    return bytes(97 + token for token in tokens)


def traced(vocabulary_size=4, max_new_tokens=40, depth=5, wrong_every=3, stop=(), prompt=(0, 1, 2)):
    """Return a finished greedy generation with a wrong draft at every `wrong_every`-th position."""
    target = TableTarget(vocabulary_size, 200, seed=2)

    def draft(tokens, depth, rule):
        right = greedy_text(target, tokens, depth)
        places = range(len(tokens), len(tokens) + len(right))
        return [
            (token + (place % wrong_every == 0)) % vocabulary_size
            for token, place in zip(right, places, strict=True)
        ], None

    drafter = FunctionDrafter(draft, depth) if depth else None
    trace = Trace(
        start_generation(
            target,
            drafter,
            prompt,
            GenerationOptions(max_new_tokens=max_new_tokens, stop_tokens=stop),
        )
    )
    list(trace)
    return trace


class TreeDrafter(FunctionDrafter):
    """Grows trees from the logits of another table."""

    def __init__(self, other):
        super().__init__(None, 4)
        self.other = other

    def draft_tree(self, nodes, depth, rule, min_acceptance):
        def follow(node, parent, path):
            return self.other.logits([*self.tokens, *path])[None]

        return grow(self.tokens[-1], follow, rule, nodes, depth, min_acceptance)


def traced_trees(vocabulary_size=4):
    other = TableTarget(vocabulary_size, 200, seed=2)
    drafter = TreeDrafter(
        SimpleNamespace(
            logits=lambda tokens: 0.6 * other.logits(tokens) + np.arange(vocabulary_size) % 2
        )
    )
    trace = Trace(
        start_generation(
            TableTarget(vocabulary_size, 200, seed=2),
            drafter,
            [0, 1, 2],
            GenerationOptions(max_new_tokens=40, tree=6),
        )
    )
    list(trace)
    return trace


TEMPLATE = (ROOT / "minimtp" / "decode" / "display" / "trace.html").read_text(encoding="utf-8")
THEMES = {
    name: dict(
        re.findall(r"--([\w-]+): (#[0-9a-f]{6})", TEMPLATE.partition(selector)[2].partition("}")[0])
    )
    for name, selector in (("light", "\n:root {"), ("dark", '\n:root[data-theme="dark"] {'))
}
