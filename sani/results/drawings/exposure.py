"""The drawing of exposure: how a model ranks a listed name among its like (PAPER §5)."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..tables import EXPOSURES, has, objectives, pick, value_of
from .style import STYLE, dress, errors, finish, label_of, panels, points, style_of

HOLLOW = {"markerfacecolor": "white"}


def exposure(table: pd.DataFrame) -> Figure:
    """Exposure of all names and of rare ones: a row per method at its end, with the counterfactual's level."""
    raw, pseudonymized, _ = objectives(table)
    ends = table[(table["start"] != pseudonymized) & table["target"].isin(["", "lm-head"])]
    methods = [m for m in STYLE if m in set(ends["method"])][::-1]
    shown = [metric for metric in EXPOSURES if has(ends, metric, "names", "isolated")]
    figure, (row,) = panels((10.5, 0.4 * len(methods) + 2.2), 1, len(shown), sharex=True, sharey=True, squeeze=False)
    for axes, metric in zip(row, shown):
        for number, method in enumerate(methods):
            for context, face, shift in (("visible", HOLLOW, -0.17), ("isolated", {}, 0.17)):
                for found in pick(ends, metric, "names", context, method=method).itertuples():
                    style = style_of(method) | {"markersize": 7} | face
                    points(axes, found.value, number + shift, xerr=errors(found), **style)
        for chance in pick(ends, metric, "names", "isolated", method="counterfactual").itertuples():
            (below,), (above,) = errors(chance)
            style = {"color": STYLE["counterfactual"][0], "zorder": -1}
            axes.axvspan(chance.value - below, chance.value + above, alpha=0.25, linewidth=0, **style)
            axes.axvline(chance.value, linewidth=1.2, **style)
        axes.axvline(0.5, color="0.2", linewidth=1.2, linestyle="--", zorder=-1)
        dress(axes, "exposure", title=EXPOSURES[metric])
    hidden = {"logit-filter": "logit filter (hidden)"}
    row[0].set_yticks(range(len(methods)), [hidden.get(m, label_of(m, "lm-head")) for m in methods])
    names = (
        ("isolated (other listed terms masked)", {"marker": "o"}),
        ("visible", {"marker": "o"} | HOLLOW),
        ("counterfactual, isolated, with its interval", {"linestyle": "-", "color": STYLE["counterfactual"][0]}),
        ("0.5: nothing remembered", {"linestyle": "--"}),
    )
    handles = [Line2D([], [], **{"color": "0.3", "linestyle": "none"} | style, label=name) for name, style in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    at = {"unprotected": {"method": raw}, label_of("sani", "lm-head"): {"method": "sani"},
          label_of("sani-tied"): {"method": "sani-tied"}, "counterfactual": {"method": "counterfactual"}}  # fmt: skip
    at = {name: run for name, run in at.items() if run["method"] in methods}
    metric = shown[-1]
    said = " · ".join(f"{value_of(ends, metric, 'names', 'isolated', **run):.2f} {name}" for name, run in at.items())
    return finish(figure, f"Exposure of {EXPOSURES[metric].split(' (')[0]}, isolated: {said}", table)
