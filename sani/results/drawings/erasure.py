"""The drawing of an erasure: a sample of a matrix's rows, before and after."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import panels

WIDE = 10  # rows of the matrix beside each other


def erasure(table: pd.DataFrame) -> Figure:
    """Tiles, one per row of a matrix and the darker the longer; those that are zero are white and crossed."""
    matrices = list(dict.fromkeys(table["matrix"]))
    most = table[["before", "after"]].to_numpy().max()
    figure, (shown,) = panels((2.6 * 2 * len(matrices) + 0.9, 3.5), 1, 2 * len(matrices), squeeze=False)
    for number, matrix in enumerate(matrices):
        rows = table[table["matrix"] == matrix]
        for axes, when, title in zip(shown[2 * number :], ("before", "after"), ("before", "just erased")):
            lengths = rows[when].to_numpy()
            tiles = np.full((-(-len(lengths) // WIDE), WIDE), np.nan)
            tiles.flat[: len(lengths)] = np.where(lengths > 0, lengths, np.nan)
            drawn = axes.imshow(tiles, cmap="cividis_r", vmin=0, vmax=most)
            zero = np.flatnonzero(lengths == 0)
            axes.plot(zero % WIDE, zero // WIDE, linestyle="none", marker="x", color="0.45", markersize=6)
            axes.set(xticks=[], yticks=[])
            axes.spines[["top", "right"]].set_visible(True)
            none, all_rows = rows[f"zero_{when}"].iloc[0], rows["rows"].iloc[0]
            axes.set_title(f"{matrix}, {title}\n{none:,} of {all_rows:,} rows are zero", fontsize=10)
    figure.colorbar(drawn, ax=list(shown), shrink=0.8, label="length of a row (L2 norm)")
    erased = table[table["matrix"] == matrices[0]].iloc[0]
    others = table[table["matrix"] != matrices[0]]
    same = "unchanged" if (others["before"] == others["after"]).all() else "changed"
    figure.suptitle(
        f"{erased.zero_after / erased.rows:.0%} of the rows of the {matrices[0]} are erased, "
        f"the {' and '.join(matrices[1:])} are {same}\n"
        f"({len(table) // len(matrices)} rows of each, at equal distances; a cross marks a row of zeros)",
        fontsize=11,
    )
    return figure
