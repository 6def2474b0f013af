"""The drawings of use case B, each from one table: PAPER Figure 3 (unlearning, F1) and Figure 4 (frequency)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawings import LABELS, STYLE, _grid, _legend, _line, _seeds
from .tables import endpoints, objectives, pick

METHODS = ("repair-only", "pruning", "sani")


def unlearning(table: pd.DataFrame) -> Figure:
    """PAPER Figure 3: what is regurgitated (a) and the emotion classifier's F1 (b), epoch by epoch."""
    raw = objectives(table)[0]
    end = pick(table, "utility", method=raw, start="")["epoch"].max()
    scored = (table["subset"] == "emotions").any()
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 3 if scored else 2)
    wanted = [("in_place", "all", "", "(a) listed terms regurgitated"), ("utility", "none", "", "utility: other words")]
    wanted += [("f1_weighted", "none", "emotions", "(b) weighted F1 of the emotion classifier")] if scored else []
    for axes, (metric, kind, subset, name) in zip(panels, wanted):
        before = pick(table, metric, kind, subset=subset, method=raw, start="", epoch=end).assign(epoch=0)
        for method in METHODS:
            where = {"method": method, "start": raw, "target": "lm-head" if method == "sani" else ""}
            after = pick(table, metric, kind, subset=subset, **where)
            after = after.assign(epoch=after["epoch"] - end)
            rows = pd.concat([before, after[after["epoch"] > 0]])
            _line(axes, rows, method, label=LABELS.get(method, method))
        for method in ("base", "counterfactual", "retrain-at-equal-cost"):
            source = table[table["subset"] == subset]
            (row,) = pick(endpoints(source), metric, kind, subset=subset, method=method).itertuples()
            line = {"color": STYLE[method][0], "linestyle": ":", "linewidth": 1.2}
            axes.axhline(row.value, label=LABELS.get(method, method), **line)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epochs of unlearning (0: off the shelf)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _grid(axes)
    said = pick(table, "in_place", "all", method="sani", start=raw, target="lm-head").set_index("epoch")["value"]
    before = pick(table, "in_place", "all", method=raw, start="", epoch=end)["value"].iloc[0]
    figure.suptitle(
        f"Regurgitated off the shelf: {before:.3f}; after one epoch of SANI {said[end + 1]:.3f}, "
        f"after {said.index.max() - end:g} {said.iloc[-1]:.3f}\n({_seeds(table)})", fontsize=11,
    )  # fmt: skip
    _legend(figure, [panels[0]])
    return figure


def frequency(table: pd.DataFrame) -> Figure:
    """PAPER Figure 4: each term's repetitions against its regurgitations (a), and their running total (b)."""
    epochs = [c for c in table.columns if c.startswith("after ")]
    shown = {"before": ("#D55E00", "X", "off the shelf")}
    greens = ("#66C2A4", "#2CA25F", "#009E73", "#006D2C")
    for n, column in enumerate(epochs):
        plural = "epoch" if n == 0 else "epochs"
        shown[column] = (greens[min(n, 3)], "o^sD"[n % 4], f"{column} {plural} of SANI")
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rng = np.random.default_rng(0)
    spread = np.exp(rng.uniform(-0.06, 0.06, len(table)))  # apart, where many terms have the same small counts
    for column in ("before", epochs[0], epochs[-1]):
        colour, marker, label = shown[column]
        left.plot(
            table["iterations"] * spread, (table[column] + 0.5) * spread[::-1], linestyle="none", marker=marker,
            color=colour, markersize=3.5, alpha=0.55, label=label,
        )  # fmt: skip
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("repetitions of a term in the text")
    left.set_ylabel("(a) of these, regurgitated (+ ½)")
    ordered = table.sort_values(["seed", "iterations"], ascending=[True, False])
    rank = ordered.groupby("seed").cumcount() + 1
    for column, (colour, marker, label) in shown.items():
        total = ordered.assign(rank=rank, total=ordered.groupby("seed")[column].cumsum())
        # A seed with fewer terms keeps its total to the end.
        total = total.pivot(index="rank", columns="seed", values="total").ffill().mean(axis=1)
        right.plot(total.index, total, color=colour, label=label, linewidth=1.6, marker=marker, markevery=0.1)
    right.set_xscale("log")
    right.set_xlabel("terms, the most repeated first")
    right.set_ylabel("(b) regurgitations, running total")
    for axes in (left, right):
        _grid(axes)
    totals = [table.groupby("seed")[c].sum().mean() for c in shown]
    seeds = table["seed"].nunique()
    figure.suptitle(
        "Regurgitations in all, off the shelf and after each epoch of SANI: "
        + " → ".join(f"{total:,.0f}" for total in totals)
        + f"\n({'one seed' if seeds == 1 else f'means over {seeds} seeds'})", fontsize=11,
    )  # fmt: skip
    _legend(figure, [right])
    return figure
