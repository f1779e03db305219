"""Different grids for the matrices of a block, in one name: `q4_0,qkv=q5_0`.

Not every matrix loses the same by rounding. A few more bits for those that lose most cost little
memory. All blocks have the same mixture, because the compiled block is one program for all of them.
"""

from collections.abc import Mapping

from minimtp.errors import UserError, shown
from minimtp.quant.grids import Grid, grid_named

MATRICES = ("qkv", "output", "gate_up", "down")  # of a block (model/transformer.py)


def grids_of_blocks(name: str) -> dict[str, Grid]:
    """Return the grid of each of MATRICES.

    name: the name of a grid, then, for each matrix with another grid, a comma and MATRIX=GRID.
    Raises UserError if a grid or a matrix is unknown, or a matrix is named twice.
    """
    first, *others = name.split(",")
    grids = dict.fromkeys(MATRICES, grid_named(first))
    named = set()
    for part in others:
        matrix, _, grid = part.partition("=")
        if matrix not in MATRICES or matrix in named:
            fault = "is named twice" if matrix in named else "is no matrix of a block"
            raise UserError(
                f"in the grids {shown(name)!r}, {shown(matrix)!r} {fault}: write one grid for all, "
                f"then others as in q4_0,qkv=q5_0, each for one of {', '.join(MATRICES)}"
            )
        named.add(matrix)
        grids[matrix] = grid_named(grid)
    return grids


def mixture_name(grids: Mapping[str, str]) -> str:
    """Return the shortest name of a mixture in which each of MATRICES has this grid."""
    names = [grids[matrix] for matrix in MATRICES]
    first = max(names, key=names.count)
    others = [f"{matrix}={grids[matrix]}" for matrix in MATRICES if grids[matrix] != first]
    return ",".join([first, *others])


def first_grid(name: str) -> str:
    """Return the name of the grid of those matrices for which the mixture names no other."""
    return name.partition(",")[0]
