"""The drawings of use case B (PAPER Figures 3 and 4), of free generation and of costs, each from one table."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..tables import endpoints, objectives, pick
from .style import STYLE, curve, errors, label_of, legend_below, light_grid, over_seeds, style_of

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
            curve(axes, rows, method, label=label_of(method))
        ends = endpoints(table[table["subset"] == subset])
        for method in ("base", "counterfactual", "retrain-at-equal-cost") if end else ():
            for row in pick(ends, metric, kind, subset=subset, method=method).itertuples():
                style = {"color": STYLE[method][0], "linestyle": ":", "linewidth": 1.2}
                axes.axhline(row.value, label=label_of(method), **style)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epochs of unlearning")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        light_grid(axes)
    said = pick(table, "in_place", "all", method="sani", start=raw, target="lm-head").set_index("epoch")["value"]
    before = pick(table, "in_place", "all", method=raw, start="", epoch=end)["value"].iloc[0]
    figure.suptitle(
        f"Regurgitated before unlearning: {before:.3f}; after one epoch of SANI {said[end + 1]:.3f}, "
        f"after {said.index.max() - end:g} {said.iloc[-1]:.3f}\n({over_seeds(table)})", fontsize=11,
    )  # fmt: skip
    legend_below(figure, [panels[0]])
    return figure


def frequency(table: pd.DataFrame) -> Figure:
    """PAPER Figure 4: each term's repetitions against its regurgitations (a), and their running total (b)."""
    epochs = [c for c in table.columns if c.startswith("after ")]
    shown = {"before": ("#D55E00", "X", "before")}
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
            color=colour, markersize=3.5, alpha=0.55, label=label, rasterized=True,
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
        light_grid(axes)
    totals = [table.groupby("seed")[c].sum().mean() for c in shown]
    seeds = table["seed"].nunique()
    figure.suptitle(
        "Regurgitations in all, before and after each epoch of SANI: "
        + " → ".join(f"{total:,.0f}" for total in totals)
        + f"\n({'one seed' if seeds == 1 else f'means over {seeds} seeds'})", fontsize=11,
    )  # fmt: skip
    legend_below(figure, [right])
    return figure


def generation(table: pd.DataFrame) -> Figure:
    """How many listed terms come out of free generation, from the beginnings of records and from nothing."""
    figure = Figure(figsize=(9, 0.42 * table["method"].nunique() + 1.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    methods = list(dict.fromkeys(table["method"]))[::-1]
    for axes, prompt, name in zip(panels, ("prefix", "nothing"), ("beginnings of records", "nothing")):
        for row in table[table["prompt"] == prompt].itertuples():
            axes.errorbar(
                row.value, methods.index(row.method), xerr=errors(row) if row.low == row.low else None, markersize=8,
                capsize=2, elinewidth=0.8, linestyle="none", **style_of(row.method),
            )  # fmt: skip
        axes.set_title(f"prompted with {name}", fontsize=10)
        axes.set_xlabel("different listed terms in 100 samples")
        axes.set_xlim(left=0)
        light_grid(axes)
    panels[0].set_yticks(range(len(methods)), [label_of(method) for method in methods])
    at = table.set_index(["prompt", "method"])["value"]
    raw = next(method for method in ("clm", "mlm") if method in methods)
    figure.suptitle(
        "Listed terms generated freely: "
        + ", ".join(f"{at[prompt, raw]:.1f} → {at[prompt, 'sani']:.1f} ({prompt})" for prompt in ("prefix", "nothing"))
        + f"\n({over_seeds(table)})", fontsize=11,
    )  # fmt: skip
    return figure


def cost(table: pd.DataFrame) -> Figure:
    """What is regurgitated and what is known against the cost of unlearning, a row for each erased target."""
    targets = sorted(t for t in set(table["target"]) if t)[::-1]
    figure = Figure(figsize=(10, 3.4 * len(targets) + 1.4), layout="constrained")
    panels = np.atleast_2d(figure.subplots(len(targets), 2, sharex=True))
    ways = (
        ("sani", "model", "SANI, whole model"),
        ("sani", "head", "SANI, head only"),
        ("repair-only", "model", "repair-only"),
        ("retrain-at-equal-cost", "model", "retrain from the base"),
    )
    for target, pair in zip(targets, panels):
        for axes, metric, name in zip(pair, ("regurgitation", "utility"), ("listed terms regurgitated", "utility")):
            rows = table[table["metric"] == metric]
            for method, scope, label in ways:
                of_method = (rows["method"] == method) & (rows["scope"] == scope) & (rows["budget"] > 0)
                found = rows[of_method & rows["target"].isin([target, ""])].rename(columns={"budget": "epoch"})
                options = {"linestyle": "--", "markerfacecolor": "white"} if scope == "head" else {}
                curve(axes, found, method, label=label, **options)
            for method, style in (("unprotected", ":"), ("base", "--"), ("logit-filter", "-.")):
                value = rows.loc[rows["method"] == method, "value"].mean()
                axes.axhline(value, color=STYLE[method][0], linestyle=style, linewidth=1, label=label_of(method))
            value = rows.loc[(rows["method"] == "erased") & (rows["target"] == target), "value"].mean()
            axes.axhline(value, color=STYLE["sani"][0], linestyle=(0, (1, 4)), linewidth=1, label="just erased")
            axes.set_xscale("log")
            axes.set_xticks(sorted(set(table["budget"]) - {0.0}), minor=False)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
            axes.minorticks_off()
            axes.set_ylabel(name)
            axes.set_title(f"erased: {target}", fontsize=10)
            light_grid(axes)
    for axes in panels[-1]:
        axes.set_xlabel("cost, share of the fine-tuning's multiply-adds")
    at = table[(table["method"] == "sani") & (table["target"] == "lm-head") & (table["scope"] == "model")]
    at = at[at["metric"] == "regurgitation"].set_index("budget")["value"].sort_index()
    before = table.loc[(table["method"] == "unprotected") & (table["metric"] == "regurgitation"), "value"].mean()
    figure.suptitle(
        f"Regurgitated before: {before:.3f}; after SANI at {at.index[0]:.1%} of the training's cost {at.iloc[0]:.3f}, "
        f"at {at.index[-1]:.0%} {at.iloc[-1]:.3f}\n"
        f"({over_seeds(table)})", fontsize=11,
    )  # fmt: skip
    legend_below(figure, panels[-1][:1])
    return figure
