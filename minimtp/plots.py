"""Plots as PNG files. They need matplotlib (the extra `plots`); everything else works without it.

A plot is an extra: if it cannot be drawn or saved, that costs one line on standard error, and the
command goes on.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minimtp import extras
from minimtp.errors import shown
from minimtp.files import FileKind, atomic_write, reason_for
from minimtp.quoting import shown_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_REASON = 200  # characters
_reported: set[str] = set()  # reasons that this process has given already
PLOT = FileKind("a plot", begins=b"\x89PNG", contains=b"Software\0minimtp")


def save_plot(
    path: Path, draw: Callable[["Figure"], None], size: tuple[float, float], dpi: int = 120
) -> Path | None:
    """Call `draw` with an empty figure of `size` (width, height) in inches, and save it.

    Returns the path, or None if the plot cannot be made.
    """
    matplotlib, obstacle = extras.find("matplotlib.figure")
    if matplotlib is None:
        hint = extras.install_hint("matplotlib.figure")
        return _missing(path, f"matplotlib {obstacle} ({hint})")
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL)  # damaged settings and missing fonts are not worth a line
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure = matplotlib.Figure(figsize=size, layout="constrained")
            draw(figure)
            with atomic_write(path, PLOT) as file:
                figure.savefig(file, format="png", dpi=dpi, metadata={"Software": "minimtp"})
    except Exception as error:  # matplotlib raises errors of many types
        return _missing(path, shown(reason_for(error), MAX_REASON))
    finally:
        log.setLevel(level)
    return path


def _missing(path: Path, reason: str) -> None:
    """Say once for each reason that plots cannot be made."""
    if reason not in _reported:
        _reported.add(reason)
        print(f"minimtp: there is no plot {shown_path(path)}: {reason}", file=sys.stderr)
