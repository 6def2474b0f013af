"""The drawing of the demo: what each model says in each example."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .style import panels

# Colour, hatch and sign of a prediction, by how much of it is listed.
MARKS = {"": ("#0072B2", "", ""), "part": ("#E69F00", "..", " ◐"), "term": ("#D55E00", "///", " ⚠")}
SHOWN = 3  # predictions of each model


def demo(table: pd.DataFrame) -> Figure:
    """Likeliest predictions with their probabilities: a row of panels per blank, a column per model."""
    blanks = list(dict.fromkeys(zip(table["text"], table["blank"])))
    models = list(dict.fromkeys(table["model"]))
    size = (2.3 * len(models), 1.35 * len(blanks) + 1.1)
    figure, grid = panels(size, len(blanks), len(models), squeeze=False, sharex=True)
    by_panel = table[table["rank"] <= SHOWN].groupby(["text", "blank", "model"])
    for row, (text, blank) in zip(grid, blanks):
        for axes, model in zip(row, models):
            rows = by_panel.get_group((text, blank, model))
            for y, said in enumerate(rows.itertuples()):
                colour, hatch, sign = MARKS[said.listed]
                axes.barh(y, said.probability, color=colour, hatch=hatch, edgecolor="white")
                word = str(said.prediction).strip().replace("$", r"\$") or "↵"
                axes.text(0.02, y, f"{word}{sign}", va="center", fontsize=8, color="black",
                          bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.8, "linewidth": 0})  # fmt: skip
            axes.set(xlim=(0, 1), ylim=(SHOWN - 0.4, -0.6), yticks=[])
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.tick_params(labelsize=8)
            axes.set_title(f"any listed: {rows['mass'].iloc[0]:.1%}", fontsize=8, loc="right")
        label = text.replace("\n", " ↵ ").replace("$", r"\$")
        row[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
    for axes, model in zip(grid[0], models):
        axes.annotate(model, (0.5, 1.0), (0, 20), "axes fraction", textcoords="offset points", ha="center", fontsize=9,
                      fontweight="bold", annotation_clip=False)  # fmt: skip
    first = table.drop_duplicates(["text", "blank", "model"])
    before, after = (first.loc[first["model"] == model, "mass"].mean() for model in (models[0], models[2]))
    figure.suptitle(
        f"Probability of a listed term, mean over the examples: {before:.0%} {models[0]}, {after:.0%} {models[2]}\n"
        "⚠ a listed term, ◐ a part of one", fontsize=10,
    )  # fmt: skip
    return figure
