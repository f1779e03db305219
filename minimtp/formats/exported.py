"""What the exporters of all formats return."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Exported(NamedTuple):
    """The written file or folder: its size in bytes, the number of tensors of each type, and the
    properties of the model that it cannot hold. draft: the same of the heads' own file or folder.
    """

    path: Path
    size: int
    types: Counter
    caveats: list[str]
    draft: "Exported | None" = None
