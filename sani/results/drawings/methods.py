"""The drawing of methods of unlearning: what each keeps, what stays remembered under attack, and what it costs."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from .style import STYLE, dress, errors, label_of, over_seeds, panels, points

GROUPS = {  # colour (Okabe–Ito) and marker by what a method is
    "ours": ("#E69F00", "*"),
    "the paper's": ("#009E73", "o"),
    "competitor": ("#0072B2", "s"),
    "control": ("#000000", "D"),
}
ATTACKED = "exposure under the worst attack"
PANELS = {  # metrics of a panel, the second one hollow, and what its axis says
    ("utility", "utility on other persons"): "accuracy on other words\n(hollow: persons never trained on)",
    ("regurgitation of direct identifiers",): "direct identifiers\npredicted in place",
    (ATTACKED, "exposure of names"): "exposure of names under the worst attack\n(hollow: no attack; line: chance)",
    ("cost",): "cost, share of training",
}


def methods(table: pd.DataFrame) -> Figure:
    """A row per method, grouped; chance is the counterfactual's exposure of names. Columns: method, group, metric,
    value, low, high.
    """
    rows = table.drop_duplicates("method").sort_values("group", key=lambda g: g.map([*GROUPS].index), kind="stable")
    names, groups = rows["method"].tolist()[::-1], dict(zip(rows["method"], rows["group"]))
    figure, axes = panels((13, 0.34 * len(names) + 2.2), 1, len(PANELS), sharey=True)
    for on, (metrics, label) in zip(axes, PANELS.items()):
        for number, metric in enumerate(metrics):
            for found in table[table["metric"] == metric].itertuples():
                colour, marker = GROUPS[groups[found.method]]
                style = {"color": colour, "marker": marker, "markersize": 10 if marker == "*" else 7}
                style |= {"markerfacecolor": "white"} if number else {}
                points(on, found.value, names.index(found.method) - 0.2 * number, xerr=errors(found), **style)
        dress(on, label, grid="x")
    at = table.set_index(["method", "metric"])["value"]
    chance = at["counterfactual", "exposure of names"]
    axes[2].axvline(chance, color=STYLE["counterfactual"][0], linewidth=1.2, zorder=-1)
    for share in (axes[1], axes[3]):
        share.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        share.set_xlim(left=min(0, share.get_xlim()[0]))
    axes[0].set_yticks(range(len(names)), [label_of(name, "lm-head") for name in names])
    looks = {name: {"color": c, "marker": m, "linestyle": "none"} for name, (c, m) in GROUPS.items()}
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items() if name in set(groups.values())]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    attacked = [name for name in names if groups[name] == "ours" and (name, ATTACKED) in at]
    ours = sorted(attacked, key=lambda name: abs(at[name, ATTACKED] - chance))[:1]
    told = ", ".join(
        f"{label_of(name)} {at[name, ATTACKED]:.2f} at utility {at[name, 'utility']:.3f}"
        for name in ("unprotected", "sani", *ours)
        if (name, ATTACKED) in at
    )
    over = f"\n({over_seeds(table)})" if "seeds" in table else ""
    figure.suptitle(f"Exposure of names under the worst attack (chance {chance:.2f}): {told}{over}", fontsize=11)
    return figure
