"""Plots as PNG files. They need matplotlib (the extra `plots`); everything else works without it.

A plot is an extra: if it cannot be drawn or saved, that costs one line on standard error, and the
command goes on.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp.files import FileKind, atomic_write, reason_for
from minimtp.quoting import shown_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT = FileKind("a plot", begins=b"\x89PNG", contains=b"Software\0minimtp")


def save_plot(
    path: Path, draw: Callable[["Figure"], None], size: tuple[float, float], dpi: int = 120
) -> Path | None:
    """Call `draw` with an empty figure of `size` (width, height) in inches, and save it.

    Returns the path, or None if matplotlib is not installed or the plot cannot be made.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    try:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        with atomic_write(path, PLOT) as file:
            figure.savefig(file, format="png", dpi=dpi, metadata={"Software": "minimtp"})
    except Exception as error:  # matplotlib raises errors of many types
        if sys.stderr is not None:
            line = f"minimtp: there is no plot {shown_path(path)}: {reason_for(error)}"
            print(line, file=sys.stderr)
        return None
    return path
