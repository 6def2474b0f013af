"""Erasure requests one after another: what of the names asked for stays, and what is still known, by request."""

import pandas as pd
from matplotlib.figure import Figure

from .style import STYLE, dress, errors, finish, panels, points

SHOWN = {
    "exposure of names asked for": "exposure of names asked for, isolated",
    "direct identifiers asked for": "direct identifiers asked for, predicted in place",
    "utility": "utility",
    "utility_heldout": "utility on persons never trained on",
}
LINES = {"growing list": "-", "own list alone": ":", "all at once": "none"}
FACES = {"growing list": {}, "own list alone": {"markerfacecolor": "white"}, "all at once": {"markersize": 11}}
COLOURS = ("#009E73", "#0072B2")


def requests(table: pd.DataFrame) -> Figure:
    """A panel per measure over the requests answered, a line per method and list; base and unprotected as lines."""
    names = [name for name in dict.fromkeys(table["method"]) if name not in STYLE or name == "sani"]
    figure, grid = panels((9.5, 7.5), 2, 2)
    for axes, (metric, title) in zip(grid.flat, SHOWN.items()):
        of_metric = table[table["metric"] == metric]
        for control in ("base", "unprotected"):
            value = of_metric.loc[of_metric["method"] == control, "value"].iloc[0]
            axes.axhline(value, color=STYLE[control][0], linestyle=":", linewidth=1.2, label=control)
        for colour, method in zip(COLOURS, names):
            mine = of_metric[of_metric["method"] == method]
            for way, rows in mine.groupby("way", sort=False):
                if way == "own list alone":  # the first request is answered alike
                    rows = pd.concat([mine[mine["request"] == 1], rows])
                rows = rows.sort_values("request")
                style = {"color": colour, "marker": "o", "linestyle": LINES[way], "linewidth": 1.3} | FACES[way]
                label = f"{'SANI' if method == 'sani' else method}, {way}"
                points(axes, rows["request"], rows["value"], yerr=errors(rows), label=label, **style)
        axes.set_xticks(range(1, int(table["request"].max()) + 1))
        dress(axes, "requests answered", title)
    at = table[table["metric"].eq("exposure of names asked for") & table["request"].eq(table["request"].max())]
    at = at.set_index(["method", "way"])["value"]
    said = " · ".join(f"{at[names[-1], way]:.2f} {way}" for way in LINES)
    return finish(figure, f"Exposure of names after the last request, {names[-1]}: {said}", table, grid[0, :1], 4)
