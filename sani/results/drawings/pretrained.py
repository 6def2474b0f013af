"""The drawings of use case B (PAPER Figures 3 and 4), of free generation and of costs, each from one table."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..tables import endpoints, objectives, pick, value_of
from .style import STYLE, curve, dress, errors, finish, label_of, legend_below, panels, points, style_of


def unlearning(table: pd.DataFrame) -> Figure:
    """PAPER Figure 3: what is regurgitated (a) and the emotion classifier's F1 (b), epoch by epoch."""
    raw = objectives(table)[0]
    end = pick(table, "utility", method=raw, start="")["epoch"].max()
    wanted = [("in_place", "all", "", "(a) listed terms regurgitated"), ("utility", "none", "", "utility: other words")]
    if (table["subset"] == "emotions").any():
        wanted.append(("f1_weighted", "none", "emotions", "(b) weighted F1 of the emotion classifier"))
    figure, grid = panels((10.5, 4.6), 1, len(wanted))
    for axes, (metric, kind, subset, name) in zip(grid, wanted):
        before = pick(table, metric, kind, subset=subset, method=raw, start="", epoch=end).assign(epoch=0)
        for method in ("repair-only", "pruning", "sani"):
            target = "lm-head" if method == "sani" else ""
            after = pick(table, metric, kind, subset=subset, method=method, start=raw, target=target)
            after = after.assign(epoch=after["epoch"] - end)
            curve(axes, pd.concat([before, after[after["epoch"] > 0]]), method, label=label_of(method))
        ends = endpoints(table[table["subset"] == subset])
        for method in ("base", "counterfactual", "retrain-at-equal-cost") if end else ():
            for row in pick(ends, metric, kind, subset=subset, method=method).itertuples():
                style = {"color": STYLE[method][0], "linestyle": ":", "linewidth": 1.2}
                axes.axhline(row.value, label=label_of(method), **style)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        dress(axes, "epochs of unlearning", title=name)
    said = pick(table, "in_place", "all", method="sani", start=raw, target="lm-head").set_index("epoch")["value"]
    before = value_of(table, "in_place", "all", method=raw, start="", epoch=end)
    title = (
        f"Regurgitated before unlearning: {before:.3f}; after one epoch of SANI {said[end + 1]:.3f}, "
        f"after {said.index.max() - end:g} {said.iloc[-1]:.3f}"
    )
    return finish(figure, title, table, grid[:1])


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
    dress(left, "repetitions of a term in the text", "(a) of these, regurgitated (+ ½)")
    ordered = table.sort_values(["seed", "iterations"], ascending=[True, False])
    rank = ordered.groupby("seed").cumcount() + 1
    for column, (colour, marker, label) in shown.items():
        total = ordered.assign(rank=rank, total=ordered.groupby("seed")[column].cumsum())
        # A seed with fewer terms keeps its total to the end.
        total = total.pivot(index="rank", columns="seed", values="total").ffill().mean(axis=1)
        right.semilogx(total.index, total, color=colour, label=label, linewidth=1.6, marker=marker, markevery=0.1)
    dress(right, "terms, the most repeated first", "(b) regurgitations, running total")
    totals = " → ".join(f"{table.groupby('seed')[column].sum().mean():,.0f}" for column in shown)
    seeds = table["seed"].nunique()
    over = "one seed" if seeds == 1 else f"means over {seeds} seeds"
    title = f"Regurgitations in all, before and after each epoch of SANI: {totals}\n({over})"
    figure.suptitle(title, fontsize=11)
    legend_below(figure, [right])
    return figure


def generation(table: pd.DataFrame) -> Figure:
    """How many listed terms come out of free generation, from the beginnings of records and from nothing."""
    methods = list(dict.fromkeys(table["method"]))[::-1]
    figure, pair = panels((9, 0.42 * len(methods) + 1.9), 1, 2, sharey=True)
    for axes, prompt, name in zip(pair, ("prefix", "nothing"), ("beginnings of records", "nothing")):
        for row in table[table["prompt"] == prompt].itertuples():
            interval = errors(row) if row.low == row.low else None
            points(axes, row.value, methods.index(row.method), xerr=interval, markersize=8, **style_of(row.method))
        axes.set_xlim(left=0)
        dress(axes, "different listed terms in 100 samples", title=f"prompted with {name}")
    pair[0].set_yticks(range(len(methods)), [label_of(method) for method in methods])
    at = table.set_index(["prompt", "method"])["value"]
    raw = next(method for method in ("clm", "mlm") if method in methods)
    said = (f"{at[prompt, raw]:.1f} → {at[prompt, 'sani']:.1f} ({prompt})" for prompt in ("prefix", "nothing"))
    return finish(figure, f"Listed terms generated freely: {', '.join(said)}", table)


def cost(table: pd.DataFrame) -> Figure:
    """What is regurgitated and what is known against the cost of unlearning, a row for each erased target."""
    targets = sorted(t for t in set(table["target"]) if t)[::-1]
    figure, grid = panels((10, 3.4 * len(targets) + 1.4), len(targets), 2, sharex=True, squeeze=False)
    ways = (
        ("sani", "model", "SANI, whole model"),
        ("sani", "head", "SANI, head only"),
        ("repair-only", "model", "repair-only"),
        ("retrain-at-equal-cost", "model", "retrain from the base"),
    )
    lines = (("unprotected", ":"), ("base", "--"), ("logit-filter", "-."), ("erased", (0, (1, 4))))
    for target, pair in zip(targets, grid):
        for axes, metric, name in zip(pair, ("regurgitation", "utility"), ("listed terms regurgitated", "utility")):
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
            dress(axes, y=name, title=f"erased: {target}")
    for axes in grid[-1]:
        axes.set_xlabel("cost, share of the fine-tuning's multiply-adds")
    leak = table[table["metric"] == "regurgitation"]
    at = leak[(leak["method"] == "sani") & (leak["target"] == "lm-head") & (leak["scope"] == "model")]
    at = at.set_index("budget")["value"].sort_index()
    before = leak.loc[leak["method"] == "unprotected", "value"].mean()
    title = (
        f"Regurgitated before: {before:.3f}; after SANI at {at.index[0]:.1%} of the training's cost {at.iloc[0]:.3f}, "
        f"at {at.index[-1]:.0%} {at.iloc[-1]:.3f}"
    )
    return finish(figure, title, table, grid[-1][:1])
