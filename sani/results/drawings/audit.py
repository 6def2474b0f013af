"""The drawing of audits: attacks by models, a mark for the verdict and the worst value beside its chance level."""

from textwrap import fill

import pandas as pd
from matplotlib.figure import Figure

from .style import label_of, legend_of_marks, mark, panels

# Colour (Okabe–Ito), marker, sign, and its ink.
VERDICTS = {
    "far from chance": ("#D55E00", "D", "✘", "white"),
    "undecided": ("#999999", "s", "?", "black"),
    "hidden": ("#0072B2", "p", "h", "white"),
    "near chance": ("#009E73", "o", "✔", "white"),
    "not testable": ("#CCCCCC", "X", "–", "black"),
    "no chance level": ("#CCCCCC", "X", "–", "black"),
    "not run": ("#FFFFFF", ".", "·", "black"),
}
SHORT = {
    "in_place": "predicted",
    "exposure": "exposure",
    "exposure_rare": "exposure, rare",
    "auc": "AUC",
    "samples": "samples",
    "predicted": "bare prompts",
}


def audit(table: pd.DataFrame) -> Figure:
    """Verdicts: a row per attack, a column per model, families side by side; below a mark what was found worst."""
    attacks = list(dict.fromkeys(table["attack"]))
    models = list(dict.fromkeys(zip(table["family"], table["model"])))
    several = table["family"].nunique() > 1
    figure, axes = panels((3.2 + (1.45 if several else 1.3) * len(models), 0.52 * len(attacks) + 1.9))
    for row in table.itertuples():
        x, y = models.index((row.family, row.model)), attacks.index(row.attack)
        mark(axes, x - 0.32, y, VERDICTS[row.verdict])
        told = row.verdict if pd.isna(row.metric) else f"{SHORT[row.metric]}\n{row.value:.2f} ({row.chance:.2f})"
        axes.text(x - 0.12, y, told, ha="left", va="center", fontsize=8)
    axes.set_xlim(-0.6, len(models) - 0.3)
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    names = [f"{family}\n{_name(m, 'lm-head')}" if several else _in_two_lines(m) for family, m in models]
    axes.set_xticks(range(len(models)), names, fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(attacks)), attacks, fontsize=9)
    axes.tick_params(length=0)
    axes.hlines([y - 0.5 for y in range(1, len(attacks))], -0.6, len(models) - 0.3, color="0.9", linewidth=0.6)
    axes.spines[:].set_visible(False)
    used = set(table["verdict"])
    legend_of_marks(figure, {f"{look[2]} {name}": look for name, look in VERDICTS.items() if name in used})
    far = table[table["verdict"] == "far from chance"].groupby(["family", "model"], sort=False).size()
    told = ", ".join(
        f"{family if several else ''} {_name(m)} {far.get((family, m), 0)}".strip() for family, m in models
    )
    told = fill(f"Attacks that find what no chance explains: {told}", 20 * len(models) + 40)
    figure.suptitle(f"{told}\n(worst value, in brackets the chance level)", fontsize=10)
    return figure


def _name(model: str, usual: str = "") -> str:
    """What a model is called: "sani last-block" is SANI of that target."""
    method, _, target = model.partition(" ")
    return label_of(method, target or usual)


def _in_two_lines(model: str) -> str:
    """The same where there is little room."""
    return _name(model, "lm-head").replace(" (", "\n(").replace(", ", ",\n").replace(" at ", "\nat ")
