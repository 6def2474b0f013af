"""The drawings of use case B (PAPER Figures 3 and 4), of free generation and of costs, each from one table."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..statistics import MEASURES
from ..tables import endpoints, has, objectives, pick, value_of
from .style import (
    BY,
    CONTROLS,
    LONG,
    STYLE,
    curve,
    dress,
    errors,
    finish,
    label_of,
    legend_below,
    panels,
    points,
    style_of,
)  # fmt: skip


def unlearning(table: pd.DataFrame) -> Figure:
    """PAPER Figure 3: what is regurgitated, utility, and the emotion classifier's F1 by epoch; controls beside."""
    raw = objectives(table)[0]
    end = pick(table, "utility", method=raw, start="")["epoch"].max()
    wanted = [(m, "all", "", f"listed terms predicted\n{BY[m]}") for m in MEASURES if has(table, m, "all")]
    wanted.append(("utility", "none", "", "utility:\naccuracy on other words"))
    if (table["subset"] == "emotions").any():
        wanted.append(("f1_weighted", "none", "emotions", "weighted F1 of the\nemotion classifier"))
    columns = 2 if len(wanted) == 4 else len(wanted)
    figure, grid = panels((10.5, 1.6 + 3.4 * (len(wanted) // columns)), len(wanted) // columns, columns, squeeze=False)
    if columns == 2:
        grid[0, 1].sharey(grid[0, 0])
    last = pick(table, "utility", method="sani", start=raw, target="lm-head")["epoch"].max() - end
    for letter, axes, (metric, kind, subset, name) in zip("abcd", grid.flat, wanted):
        before = pick(table, metric, kind, subset=subset, method=raw, start="", epoch=end).assign(epoch=0)
        for method in ("repair-only", "pruning", "sani"):
            target = "lm-head" if method == "sani" else ""
            after = pick(table, metric, kind, subset=subset, method=method, start=raw, target=target)
            after = after.assign(epoch=after["epoch"] - end)
            curve(axes, pd.concat([before, after[after["epoch"] > 0]]), method, label=label_of(method, target))
        ends = endpoints(table[table["subset"] == subset])
        for number, method in enumerate(CONTROLS):
            rows = pick(ends, metric, kind, subset=subset, method=method).assign(epoch=last + 0.6 + 0.27 * number)
            if len(rows):
                curve(axes, rows, method, linestyle="none", label=label_of(method))
        axes.axvspan(last + 0.35, last + 2.5, color="0.95", zorder=-2)
        axes.set_xlim(right=last + 2.5)
        ticks = range(int(last) + 1)
        axes.set_xticks([*ticks, last + 1.4], [*map(str, ticks), "controls"])
        dress(axes, "epochs of unlearning", title=f"({letter}) {name}")
    runs = pick(table, "in_place", "all", method="sani", start=raw, target="lm-head").set_index("epoch")["value"]
    before = value_of(table, "in_place", "all", method=raw, start="", epoch=end)
    title = (
        f"Predicted in place before unlearning: {before:.3f}; after one epoch of {label_of('sani', 'lm-head')} "
        f"{runs[end + 1]:.3f}, after {last:g} {runs.iloc[-1]:.3f}"
    )
    return finish(figure, title, table, grid.flat)


def frequency(table: pd.DataFrame) -> Figure:
    """PAPER Figure 4: each term's repetitions against its regurgitations (a), and their running total (b)."""
    epochs = [c for c in table.columns if c.startswith("after ")]
    shown = {"before": ("#D55E00", "X", "before")}
    greens = ("#66C2A4", "#2CA25F", "#009E73", "#006D2C")
    for n, column in enumerate(epochs):
        plural = "epoch" if n == 0 else "epochs"
        shown[column] = (greens[min(n, 3)], "o^sD"[n % 4], f"{column} {plural} of SANI")
    figure, (left, right) = panels((10.5, 4.6), 1, 2)
    rng = np.random.default_rng(0)
    spread = np.exp(rng.uniform(-0.06, 0.06, len(table)))  # apart, where many terms have the same small counts
    for column in ("before", epochs[0], epochs[-1]):
        colour, marker, label = shown[column]
        left.loglog(
            table["iterations"] * spread, (table[column] + 0.5) * spread[::-1], linestyle="none", marker=marker,
            color=colour, markersize=3.5, alpha=0.55, label=label, rasterized=True,
        )  # fmt: skip
    dress(left, "repetitions of a term in the text", "(a) of these, predicted in place (+ ½)")
    for column, (colour, marker, label) in shown.items():
        # By seed, what terms that stand at most so often in the text are predicted in all; then the mean.
        total = table.pivot_table(index="iterations", columns="seed", values=column, aggfunc="sum").fillna(0).cumsum()
        total = total.mean(axis=1)
        style = {"marker": marker, "markevery": max(1, len(total) // 8), "markersize": 5}
        right.semilogx(total.index, total, color=colour, label=label, linewidth=1.6, drawstyle="steps-post", **style)
    dress(right, "repetitions of a term in the text, at most", "(b) predicted in place, running total")
    totals = " → ".join(f"{table.groupby('seed')[column].sum().mean():,.0f}" for column in shown)
    seeds = table["seed"].nunique()
    over = "one seed" if seeds == 1 else f"means over {seeds} seeds"
    title = f"Terms predicted in place, in all, before and after each epoch of SANI (lm-head): {totals}\n({over})"
    figure.suptitle(title, fontsize=11)
    legend_below(figure, [right])
    return figure


def generation(table: pd.DataFrame) -> Figure:
    """How many listed terms come out of free generation, from the beginnings of records and from nothing."""
    methods = list(dict.fromkeys(table["method"]))[::-1]
    figure, pair = panels((9, 0.42 * len(methods) + 1.9), 1, 2, sharey=True)
    for axes, prompt, name in zip(pair, ("prefix", "nothing"), ("beginnings of records", "nothing")):
        for row in table[table["prompt"] == prompt].itertuples():
            interval = errors(row, (0, np.inf)) if row.low == row.low else None
            points(axes, row.value, methods.index(row.method), xerr=interval, markersize=8, **style_of(row.method))
        axes.set_xlim(left=0)
        dress(axes, "different listed terms in 100 samples", title=f"prompted with {name}")
    pair[0].set_yticks(range(len(methods)), [label_of(method, "lm-head") for method in methods])
    at = table.set_index(["prompt", "method"])["value"]
    raw = next(method for method in ("clm", "mlm") if method in methods)
    said = (f"{at[prompt, raw]:.1f} → {at[prompt, 'sani']:.1f} ({prompt})" for prompt in ("prefix", "nothing"))
    return finish(figure, f"Listed terms generated freely, before and after SANI (lm-head): {', '.join(said)}", table)


def cost(table: pd.DataFrame) -> Figure:
    """What is regurgitated and what is known against the cost of unlearning: a row per metric, a column per target."""
    targets = sorted(t for t in set(table["target"]) if t)[::-1]
    metrics = [metric for metric in LONG if metric in set(table["metric"])]
    size = (10.5, 2.9 * len(metrics) + 1.6)
    figure, grid = panels(size, len(metrics), len(targets), sharex=True, sharey="row", squeeze=False)
    ways = (
        ("sani", "model", "SANI, whole model"),
        ("sani", "head", "SANI, head only"),
        ("repair-only", "model", "repair-only"),
        ("retrain-at-equal-cost", "model", "retrain from the base"),
    )
    lines = (("unprotected", ":"), ("base", "--"), ("logit-filter", "-."), ("erased", (0, (1, 4))))
    for metric, row in zip(metrics, grid):
        for axes, target in zip(row, targets):
            rows = table[(table["metric"] == metric) & table["target"].isin([target, ""])]
            for method, scope, label in ways:
                found = rows[(rows["method"] == method) & (rows["scope"] == scope) & (rows["budget"] > 0)]
                options = {"linestyle": "--", "markerfacecolor": "white"} if scope == "head" else {}
                curve(axes, found.rename(columns={"budget": "epoch"}), method, label=label, **options)
            for method, line in lines:
                value = rows.loc[rows["method"] == method, "value"].mean()
                colour, label = ("sani", "just erased") if method == "erased" else (method, label_of(method))
                axes.axhline(value, color=STYLE[colour][0], linestyle=line, linewidth=1, label=label)
            axes.set_xscale("log")
            axes.set_xticks(sorted(set(table["budget"]) - {0.0}), minor=False)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
            axes.minorticks_off()
            dress(axes, y=LONG[metric] if axes is row[0] else "", title=f"erased: {target}")
    for axes in grid[-1]:
        axes.set_xlabel("cost, share of the fine-tuning's multiply-adds")
    leak = table[table["metric"] == "regurgitation of direct identifiers"]
    at = leak[(leak["method"] == "sani") & (leak["target"] == "lm-head") & (leak["scope"] == "model")]
    at = at.set_index("budget")["value"].sort_index()
    before = leak.loc[leak["method"] == "unprotected", "value"].mean()
    title = (
        f"Direct identifiers predicted in place before: {before:.3f}; after SANI (lm-head) at {at.index[0]:.1%} of the "
        f"training's cost {at.iloc[0]:.3f}, at {at.index[-1]:.0%} {at.iloc[-1]:.3f}"
    )
    return finish(figure, title, table, grid[-1][:1])
