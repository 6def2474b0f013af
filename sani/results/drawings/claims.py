"""The drawing of the ledger: claims by settings, a mark per reading of the last layer."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..tables import READINGS, deciding

# Colour (Okabe–Ito), marker, and the initial of the word: the verdict can be told without the colour.
VERDICTS = {"holds": ("#009E73", "o", "h"), "contradicted": ("#D55E00", "X", "c"), "undecided": ("#999999", "s", "u")}


def claims(table: pd.DataFrame) -> Figure:
    """The verdicts: a row per claim, a column per setting, four places for the readings of the last layer."""
    table = deciding(table)
    names = sorted(table["id"].unique())
    settings = list(dict.fromkeys(table["setting"]))
    text = table.drop_duplicates("id").set_index("id")["claim"]
    figure = Figure(figsize=(11, 0.36 * len(names) + 1.7), layout="constrained")
    axes = figure.subplots()
    for row in table.itertuples():
        colour, marker, initial = VERDICTS[row.verdict]
        shift = 0.0 if row.reading not in READINGS else 0.22 * (READINGS.index(row.reading) - 1.5)
        x, y = settings.index(row.setting) + shift, names.index(row.id)
        filled = colour if row.verdict != "undecided" else "white"
        axes.plot(x, y, marker=marker, markersize=12, color=colour, markerfacecolor=filled, linestyle="none")
        ink = "white" if row.verdict != "undecided" else "black"
        axes.text(x, y, initial, ha="center", va="center", fontsize=7.5, color=ink, fontweight="bold")
    axes.set_xlim(-0.5, len(settings) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(settings)), settings, fontsize=9)
    axes.xaxis.tick_top()
    labels = [f"{name}  {text[name] if len(text[name]) < 66 else text[name][:64] + '…'}" for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=7.5, ha="left")
    axes.tick_params(length=0, pad=6)
    axes.tick_params(axis="y", pad=335)
    for x in range(1, len(settings)):
        axes.axvline(x - 0.5, color="0.85", linewidth=0.8)
    for y in range(1, len(names)):
        axes.axhline(y - 0.5, color="0.92", linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    counts = table["verdict"].value_counts()
    handles = [
        Line2D([], [], marker=marker, color=colour, linestyle="none", markersize=9,
               markerfacecolor=colour if name != "undecided" else "white", label=f"{initial}: {name}")
        for name, (colour, marker, initial) in VERDICTS.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    said = ", ".join(f"{counts.get(name, 0)} {name}" for name in VERDICTS)
    figure.suptitle(
        f"Verdicts on the paper's claims: {said}\n(in a cell from left to right: {', '.join(READINGS)}; "
        f"a mark in the middle: the claim does not depend on it)", fontsize=10,
    )  # fmt: skip
    return figure
