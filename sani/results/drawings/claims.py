"""The drawing of the ledger: claims by settings, a mark per measure of privacy and reading of the last layer."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from ..statistics import MEASURES
from ..tables import READINGS, deciding
from .style import legend_of_marks, mark, panels

# Colour (Okabe–Ito), marker, initial of the word, and its ink.
VERDICTS = {
    "holds": ("#009E73", "o", "h", "white"),
    "contradicted": ("#D55E00", "D", "c", "white"),
    "equal": ("#0072B2", "p", "e", "white"),
    "undecided": ("#999999", "s", "u", "black"),
    "not testable": ("#CCCCCC", "X", "n", "black"),
}


def claims(table: pd.DataFrame) -> Figure:
    """The verdicts: a row per claim, a column per setting; in a cell a line per measure, four places for readings."""
    table = deciding(table).assign(measure=table.get("measure", "in_place"))
    names = sorted(table["id"].unique())
    settings = list(dict.fromkeys(table["setting"]))
    text = table.drop_duplicates("id").set_index("id")["claim"]
    several = table.groupby(["id", "setting"])["measure"].nunique()
    tall = several.max() > 1
    figure, axes = panels((max(8.0, 5.2 + 1.15 * len(settings)), (0.62 if tall else 0.4) * len(names) + 1.7))
    for row in table.itertuples():
        shift = 0.0 if row.reading not in READINGS else 0.22 * (READINGS.index(row.reading) - 1.5)
        down = 0.48 * (MEASURES.index(row.measure) - 0.5) if several[row.id, row.setting] > 1 else 0.0
        x, y = settings.index(row.setting) + shift, names.index(row.id) + down
        mark(axes, x, y, VERDICTS[row.verdict], 12 if row.verdict == "contradicted" else 15, "bold")
    axes.set_xlim(-0.5, len(settings) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(settings)), settings, fontsize=9)
    axes.xaxis.tick_top()
    labels = ["\n      ".join(textwrap.wrap(f"{name}  {text[name]}", 62)) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=9, ha="left")
    axes.tick_params(length=0, pad=6)
    axes.tick_params(axis="y", pad=335)
    axes.vlines([x - 0.5 for x in range(1, len(settings))], -0.5, len(names) - 0.5, color="0.85", linewidth=0.8)
    axes.hlines([y - 0.5 for y in range(1, len(names))], -0.5, len(settings) - 0.5, color="0.92", linewidth=0.6)
    axes.spines[:].set_visible(False)
    legend_of_marks(figure, {f"{look[2]}: {name}": look for name, look in VERDICTS.items()})
    counts = table["verdict"].value_counts()
    said = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
    lines = "\nTwo lines in a cell: privacy by paper, then by in_place" if tall else ""
    figure.suptitle(
        f"Verdicts on the paper's claims and ours: {said}{lines}\n"
        f"(in a cell from left to right: {', '.join(READINGS)};\n"
        "a mark in the middle: the claim does not depend on it)",
        fontsize=10,
    )  # fmt: skip
    return figure
