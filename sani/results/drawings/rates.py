"""The learning rate of the repair: what each method keeps and what it still predicts, by rate."""

import pandas as pd
from matplotlib.figure import Figure

from .style import STYLE, dress, errors, finish, label_of, panels, points, style_of

SHOWN = {
    "utility_heldout": "utility on persons never trained on",
    "regurgitation of direct identifiers": "direct identifiers predicted in place",
    "exposure of names": "exposure of names, isolated",
}


def rates(table: pd.DataFrame) -> Figure:
    """A column per measure, a line per method over the rates of its repair; the base and unprotected model as lines."""
    metrics = [name for name in SHOWN if name in set(table["metric"])]
    figure, (row,) = panels((3.5 * len(metrics), 4.4), 1, len(metrics), squeeze=False)
    for axes, metric in zip(row, metrics):
        of_metric = table[table["metric"] == metric]
        for name in ("base", "unprotected"):
            value = of_metric.loc[of_metric["method"] == name, "value"].iloc[0]
            axes.axhline(value, color=STYLE[name][0], linestyle=":", linewidth=1.2, label=label_of(name))
        swept = of_metric[(of_metric["rate"] > 0) & (of_metric["method"] != "fine-tuned")]
        for method, rows in swept.groupby("method", sort=False):
            rows = rows.sort_values("rate")
            line = style_of(method) | {"linestyle": "-", "linewidth": 1.2, "markersize": 5}
            points(axes, rows["rate"], rows["value"], yerr=errors(rows), label=label_of(method, "lm-head"), **line)
        axes.set_xscale("log")
        dress(axes, "learning rate of the repair", SHOWN[metric])
    at = table[table["metric"].eq("utility_heldout") & table["method"].eq("sani")]
    at = at.set_index("rate")["value"]
    title = f"SANI on lm-head keeps a utility from {at.min():.3f} to {at.max():.3f}, by the rate of its repair"
    return finish(figure, title, table, row[:1])
