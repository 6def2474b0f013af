"""The drawing of the demo: what each model predicts in each example."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .style import panels

# Colour, hatch and sign of a prediction, by how much of it is listed.
MARKS = {"": ("#9CCBEC", "", ""), "part": ("#F5CF85", "..", " ◐"), "term": ("#F0A37A", "///", " ⚠")}
SHOWN = 3  # predictions of each model


def demo(table: pd.DataFrame) -> Figure:
    """Likeliest predictions with their probabilities: a row of panels per blank, a column per model."""
    blanks = list(dict.fromkeys(zip(table["family"], table["text"], table["blank"])))
    models = list(dict.fromkeys(table["model"]))
    several = pd.Series([text for _, text, _ in blanks]).value_counts()
    size = (1.8 * len(models), 1.28 * len(blanks) + 1.5)
    figure, grid = panels(size, len(blanks), len(models), squeeze=False, sharex=True)
    by_panel = table[table["rank"] <= SHOWN].groupby(["family", "text", "blank", "model"])
    for row, (family, text, blank) in zip(grid, blanks):
        for axes, model in zip(row, models):
            rows = by_panel.get_group((family, text, blank, model))
            for y, found in enumerate(rows.itertuples()):
                colour, hatch, sign = MARKS[found.listed]
                axes.barh(y, found.probability, color=colour, hatch=hatch, edgecolor="white")
                word = str(found.prediction).strip().replace("$", r"\$") or "↵"
                axes.text(0.02, y, f"{word}{sign}", va="center", fontsize=10, color="black")
            axes.set(xlim=(0, 1), ylim=(SHOWN - 0.4, -0.6), yticks=[], xticks=(0, 0.5, 1))
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.tick_params(labelsize=9)
            axes.set_title(f" \nlisted: {rows['mass'].iloc[0]:.1%}", fontsize=10, loc="right", pad=3)
        label = text.replace("\n", " ↵ ").replace("$", r"\$")
        which = f" (blank {blank + 1})" if several[text] > 1 else ""
        asked = row[0].annotate(f"{family}: {label}{which}", (0, 1), (0, 18), "axes fraction", fontsize=10,
                                textcoords="offset points", fontweight="bold", annotation_clip=False)  # fmt: skip
        asked.set_in_layout(False)  # it is wider than its panel; the first line of the titles keeps its place
    for axes, model in zip(grid[0], models):
        axes.annotate("\n".join(textwrap.wrap(model, 16)), (0.5, 1.0), (0, 38), "axes fraction", ha="center",
                      textcoords="offset points", fontsize=10.5, fontweight="bold", annotation_clip=False)  # fmt: skip
    mass = table.drop_duplicates(["family", "text", "blank", "model"]).groupby(["family", "model"])["mass"].mean()
    means = (
        f"{family}: " + ", ".join(f"{mass[family, model]:.0%} {model}" for model in models)
        for family in dict.fromkeys(table["family"])
    )
    signs = "⚠ a listed term, ◐ a part of one; “listed”: the probability of any listed term"
    figure.suptitle("\n".join(["Probability of a listed term, mean over the examples", *means, signs]), fontsize=10)
    return figure
