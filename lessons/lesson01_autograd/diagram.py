"""Draw graph.png, values and gradients of five nodes: python -m lessons.lesson01_autograd.diagram

The numbers are those of `Tensor`, for a = 3 and b = 4.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.engine.ops import Add, Multiply
from minimtp.engine.tensor import Tensor
from minimtp.plots import save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATH = Path(__file__).parent / "graph.png"
SIZE = (10, 3.6)
BLUE, ORANGE = "#1f618d", "#ba4a00"
PLACES = {"a": (0.9, 0.8), "b": (0.9, 3.0), "c": (4.1, 3.0), "d": (7.3, 1.9), "L": (10.5, 1.9)}
NAMES = {"c": "c = a · b", "d": "d = c + a", "L": "L = d · d"}
WIDTH, HEIGHT = 1.5, 1.15  # of a node
STEP_BACK = 0.13  # half the distance between the arrow of a value and that of its gradient


def numbers(a: float = 3.0, b: float = 4.0) -> dict[str, tuple[float, float]]:
    """Return {node: (value, gradient of L)}.

    Only leaves keep their gradient, so each node is once a leaf, with its value.
    """
    values = {"a": a, "b": b, "c": a * b, "d": a * b + a}
    found = {}
    for leaf in values:
        nodes = {name: Tensor(value) for name, value in values.items()}
        nodes[leaf].requires_grad = True
        if leaf in "ab":
            nodes["c"] = Multiply().apply(nodes["a"], nodes["b"])
        if leaf != "d":
            nodes["d"] = Add().apply(nodes["c"], nodes["a"])
        loss = Multiply().apply(nodes["d"], nodes["d"])
        loss.backward()
        found[leaf] = values[leaf], float(nodes[leaf].grad)
    return found | {"L": (float(loss.data), 1.0)}


def draw(figure: "Figure") -> None:
    """Draw nodes with their values, and two arrows per use: one forward and one backward."""
    axes = figure.subplots()
    axes.set(xlim=(0, 11.5), ylim=(-0.1, 4.1))
    axes.axis("off")
    found = numbers()
    (a, _), (b, _), (_, c_bar), (d, d_bar) = (found[name] for name in "abcd")
    for source, target, sent, label, above in (
        ("a", "c", f"b · {c_bar:g} = {b * c_bar:g}", (1.75, 2.1), True),
        ("b", "c", f"a · {c_bar:g} = {a * c_bar:g}", (2.5, 3.38), True),
        ("a", "d", f"{d_bar:g}", (4.2, 0.9), False),
        ("c", "d", f"{d_bar:g}", (5.85, 2.87), True),
        ("d", "L", f"{d:g} + {d:g} = {d_bar:g}", (8.9, 2.28), True),
    ):
        edge(axes, PLACES[source], PLACES[target], above)
        axes.text(*label, sent, color=ORANGE, fontsize=10, ha="center", va="center")
    for name, place in PLACES.items():
        node(axes, place, NAMES.get(name, name), *found[name])
    axes.text(0.1, 3.95, "values, forward", color=BLUE, fontsize=10)
    axes.text(2.1, 3.95, "gradients of L, backward", color=ORANGE, fontsize=10)


def node(
    axes: "Axes", place: tuple[float, float], name: str, value: float, gradient: float
) -> None:
    from matplotlib.patches import Rectangle

    x, y = place
    style = {"facecolor": "white", "edgecolor": "black", "zorder": 3}
    axes.add_patch(Rectangle((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, **style))
    for up, text, colour in (
        (0.33, name, "black"),
        (0.0, f"value {value:g}", BLUE),
        (-0.33, f"gradient {gradient:g}", ORANGE),
    ):
        axes.text(x, y + up, text, ha="center", va="center", fontsize=10, color=colour, zorder=4)


def edge(
    axes: "Axes", start: tuple[float, float], end: tuple[float, float], backward_above: bool
) -> None:
    """Draw a blue arrow forward and an orange one backward beside it."""
    (x1, y1), (x2, y2) = start, end
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    side = STEP_BACK if backward_above else -STEP_BACK
    left = (-(y2 - y1) / length * side, (x2 - x1) / length * side)
    for colour, tail, head, sign in ((BLUE, start, end, -1), (ORANGE, end, start, 1)):
        axes.annotate(
            "",
            (head[0] + sign * left[0], head[1] + sign * left[1]),
            (tail[0] + sign * left[0], tail[1] + sign * left[1]),
            arrowprops={
                "arrowstyle": "-|>", "color": colour, "linewidth": 1.3,
                "shrinkA": 52, "shrinkB": 52,
            },
        )  # fmt: skip


if __name__ == "__main__":
    save_plot(PATH, draw, SIZE, dpi=90)
