"""Print shares by distance and kind of heads."""


def report(title: str, shares: dict[str, list[float | None]], last: dict[str, str]) -> None:
    """Print a table with a row for each kind of heads: its share at each distance, None if there is
    none, and a last column. The first entry of `last` is the head of this column.
    """
    print(f"\n{title}")
    distances = range(1, 1 + len(next(iter(shares.values()))))
    name = next(iter(last))
    print(" " * 22 + "".join(f"{k:>6}" for k in distances) + f"{name:>12}")
    for kind, row in shares.items():
        cells = "".join("     -" if share is None else f"{share:>6.0%}" for share in row)
        print(f"{kind:<22}{cells}{last[kind]:>12}")
