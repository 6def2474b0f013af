"""The drawings of the study, each from one table: PAPER Figure 2, the trade-off, memory, recall, contexts."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ..tables import CONTEXTS, endpoints, objectives, pick
from .style import LABELS, STYLE, curve, errors, label_of, legend_below, light_grid, over_seeds, style_of


def _last(table, metric, method, kind="none", context="visible", start="", target="") -> float:
    rows = pick(endpoints(table), metric, kind, context, method=method, start=start, target=target)
    return float(rows["value"].iloc[0])


def fine_tune(table: pd.DataFrame) -> Figure:
    """Privacy and utility while MLM, MLMA and PPMLM are fine-tuned (PAPER Figure 2, its left part)."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    trained = objectives(table)
    for method in trained:
        label = LABELS[method]
        curve(left, pick(table, "in_place", "all", method=method), method, -1, label=label)
        curve(right, pick(table, "utility", method=method), method, label=label)
    for axes, name in ((left, "privacy: 1 − identifiers regurgitated"), (right, "utility: accuracy on other words")):
        axes.set_xlabel("epochs of fine-tuning (0: the base model)")
        axes.set_ylabel(name)
        light_grid(axes)
    before, *after = (1 - _last(table, "in_place", m, "all") for m in ("base", *trained))
    ends = ", ".join(f"{value:.3f} {LABELS[m]}" for m, value in zip(trained, after))
    figure.suptitle(f"Privacy {before:.3f} before fine-tuning → {ends}\n({over_seeds(table)})", fontsize=11)
    legend_below(figure, [left])
    return figure


def frame(table: pd.DataFrame) -> Figure:
    """PAPER Figures 2 and 5: privacy (a) and utility (b) over fine-tuning and unlearning, a row per start."""
    raw, pseudonymized, spared = objectives(table)
    starts = [(raw, "all"), (pseudonymized, "indirect")][: 1 + (pseudonymized in set(table["start"]))]
    figure = Figure(figsize=(10.5, 1.4 + 3.1 * len(starts)), layout="constrained")
    grid = figure.subplots(len(starts), 2, sharex=True, squeeze=False)
    end = pick(table, "utility", method=raw, start="")["epoch"].max()
    last = pick(table, "utility", method="repair-only")["epoch"].max()
    controls = ("base", "counterfactual", "retrain-at-equal-cost", "logit-filter")
    step = max(1.0, (last - end) / 4)
    ends = endpoints(table)
    target = "lm-head"
    for (privacy, utility), (start, kind) in zip(grid, starts):
        others = [pseudonymized] if len(starts) == 1 else []
        for method in (start, *others, spared):
            if method not in set(table["method"]):
                continue
            curve(privacy, pick(table, "in_place", kind, method=method, start=""), method, -1, label=LABELS[method])
            curve(utility, pick(table, "utility", method=method, start=""), method, label=LABELS[method])
        for method in ("repair-only", "pruning", "sani"):
            where = {"method": method, "start": start, "target": target if method == "sani" else ""}
            label = label_of(method)
            curve(privacy, pick(table, "in_place", kind, **where), method, -1, label=label, linestyle="--")
            curve(utility, pick(table, "utility", **where), method, label=label, linestyle="--")
        for number, method in enumerate(controls, start=1):
            for axes, metric, sign in ((privacy, "in_place", -1), (utility, "utility", 1)):
                rows = pick(ends, metric, kind if sign < 0 else "none", method=method)
                curve(axes, rows.assign(epoch=last + number * step), method, sign, linestyle="none",
                      label=label_of(method))  # fmt: skip
        guessed = pick(ends, "in_place", kind, method="base")["value"].iloc[0]
        privacy.axhline(1 - guessed, color=STYLE["base"][0], linewidth=1, linestyle=":", zorder=-1)
        words = "all identifiers" if kind == "all" else "indirect identifiers"
        privacy.set_ylabel(f"from {LABELS[start]}\n(a) privacy: {words}")
        utility.set_ylabel("(b) utility: accuracy on other words")
        for axes in (privacy, utility):
            axes.axvspan(end, last, color="0.93", zorder=-2)
            light_grid(axes)
    ticks = [0, end // 4, end // 2, end, last]
    for axes in grid[-1]:
        axes.set_xticks([*ticks, last + 2.5 * step], [*(f"{tick:g}" for tick in ticks), "\ncontrols"])
        axes.set_xlabel("epochs: fine-tuning, then unlearning (grey)")
    values = [1 - _last(table, "in_place", *run) for run in (
        (raw, "all"), ("repair-only", "all", "visible", raw), ("sani", "all", "visible", raw, target),
        (spared, "all"))]  # fmt: skip
    text = "Privacy: {:.3f} unprotected; {:.3f} after repair-only, {:.3f} after SANI; {:.3f} {}\n"
    figure.suptitle(text.format(*values, LABELS[spared]) + f"({over_seeds(table)})", fontsize=11)
    legend_below(figure, [*grid[0], grid[-1][0]])
    return figure


def tradeoff(table: pd.DataFrame) -> Figure:
    """Where each method ends: privacy against utility, on its own text and on other persons', with the Pareto front."""
    figure = Figure(figsize=(10.5, 4.9), layout="constrained")
    both = figure.subplots(1, 2, sharex=True)
    rows = endpoints(table)
    rows = rows[(rows["start"] != objectives(table)[1]) & rows["target"].isin(["", "lm-head"])]
    front = {}
    others = "persons" if objectives(table)[1] in set(table["method"]) else "books"
    for axes, metric, name in zip(
        both, ("utility", "utility_heldout"), ("on the training text", f"on {others} never trained on")
    ):
        points = {}
        for method in rows["method"].unique():
            (x,) = pick(rows, "in_place", "all", method=method).itertuples()
            isolated = pick(rows, "in_place", "all", "isolated", method=method)["value"].iloc[0]
            (y,) = pick(rows, metric, method=method).itertuples()
            points[method] = (1 - x.value, y.value)
            axes.errorbar(
                1 - x.value, y.value, xerr=errors(x)[::-1], yerr=errors(y), **style_of(method), markersize=8, capsize=2,
                elinewidth=0.8, linestyle="none", label=label_of(method),
            )  # fmt: skip
            axes.plot(1 - isolated, y.value, **style_of(method) | {"markerfacecolor": "none"}, markersize=8, zorder=-1)
        best = [m for m, (p, u) in points.items() if not any(
            q >= p and w >= u and (q, w) != (p, u) for q, w in points.values())]  # fmt: skip
        front[metric] = best
        line = sorted(points[m] for m in best)
        axes.plot(*zip(*line), color="0.6", linewidth=1, linestyle=":", zorder=-2)
        axes.set_xlabel("privacy (filled: visible; hollow: isolated)")
        axes.set_ylabel(f"utility {name}")
        light_grid(axes)
    on = "on" if "sani" in front["utility"] else "not on"
    names = ", ".join(label_of(m) for m in sorted(front["utility"]))
    figure.suptitle(f"SANI is {on} the front of means (dotted), which is: {names}\n({over_seeds(table)})", fontsize=11)
    legend_below(figure, both)
    return figure


def sani(table: pd.DataFrame) -> Figure:
    """SANI over its epochs, from MLM and from MLMA: regurgitation visible and isolated, utility."""
    figure = Figure(figsize=(10.5, 4.9), layout="constrained")
    axes = figure.subplots(1, 3)
    raw, pseudonymized, _ = objectives(table)
    end = pick(table, "utility", method=raw, start="")["epoch"].max()
    targets = [t for t in table["target"].unique() if t]
    name = {target: "SANI" if len(targets) == 1 else f"SANI {target}" for target in targets}
    for column, (start, kind) in zip(axes, ((raw, "direct"), (pseudonymized, "indirect"))):
        before = pick(table, "in_place", kind, method=start, start="", epoch=end)["value"].iloc[0]
        column.axhline(before, color=STYLE[start][0], linewidth=1.2, label=f"{LABELS[start]}, before", linestyle="-.")
        # The counterfactual replaces annotated identifiers only, so it is no chance level for rare words.
        for method, style in (("base", "-"), ("counterfactual", ":"))[: 2 if kind == "direct" else 1]:
            guessed = pick(endpoints(table), "in_place", kind, method=method)["value"].iloc[0]
            column.axhline(guessed, color=STYLE[method][0], linewidth=1, linestyle=style, label=f"{method}, visible")
        for target in targets:
            for context, filled in (("visible", True), ("isolated", False)):
                rows = pick(table, "in_place", kind, context, method="sani", start=start, target=target)
                face = {} if filled else {"markerfacecolor": "none", "linestyle": ":"}
                curve(column, rows, "sani", label=f"{name[target]}, {context}", **face)
        column.set_title(f"{kind} identifiers regurgitated,\nfrom {LABELS[start]}", fontsize=10)
    for start, line in ((raw, "-"), (pseudonymized, "--")):
        for target in targets:
            rows = pick(table, "utility", method="sani", start=start, target=target)
            curve(axes[2], rows, "sani", label=f"{name[target]}, from {start.upper()}", linestyle=line)
        before = pick(table, "utility", method=start, start="", epoch=end)["value"].iloc[0]
        axes[2].axhline(before, color=STYLE[start][0], linewidth=1.2, linestyle="-.", label=f"{LABELS[start]}, before")
    axes[2].set_title("utility: accuracy on other words", fontsize=10)
    for column in axes:
        column.set_xlabel(f"epoch ({end:g}: just erased)")
        light_grid(column)
    first = targets[0]
    after = _last(table, "in_place", "sani", "direct", "visible", raw, first)
    utility = [_last(table, "utility", raw), _last(table, "utility", "sani", start=raw, target=first)]
    before = _last(table, "in_place", raw, "direct")
    figure.suptitle(
        f"SANI: direct identifiers regurgitated {before:.1%} → {after:.1%}, "
        f"utility {utility[0]:.3f} → {utility[1]:.3f}\n({over_seeds(table)})", fontsize=11,
    )  # fmt: skip
    legend_below(figure, axes)
    return figure


def recall(table: pd.DataFrame) -> Figure:
    """What a missed term costs: regurgitation of the terms that the repair's blacklist lacked."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    methods = {"unprotected": "unprotected", "SANI, terms missed": "sani", "SANI, terms listed": "sani", "base": "base"}
    for number, (name, method) in enumerate(methods.items()):
        rows = table[table["model"] == name]
        face = {"markerfacecolor": "none", "linestyle": ":"} if name.endswith("listed") else {}
        rows = rows.assign(epoch=100 * rows["missed"] + 0.25 * (number - 1.5))
        curve(axes, rows, method, label=name, **face)
    axes.set_xlabel("share of the terms that the blacklist misses (%)")
    axes.set_ylabel("of these terms, regurgitated in place")
    at = table[table["missed"] == table["missed"].min()].set_index("model")["value"]
    figure.suptitle(
        f"Of terms missed by the blacklist, SANI's model says {at['SANI, terms missed']:.1%}; "
        f"had they been listed, {at['SANI, terms listed']:.1%}\n({over_seeds(table)})", fontsize=11,
    )  # fmt: skip
    light_grid(axes)
    legend_below(figure, [axes])
    return figure


def contexts(table: pd.DataFrame) -> Figure:
    """The same models asked in other contexts than those they were repaired on."""
    names = list(dict.fromkeys(table["context"]))[::-1]
    models = {
        "base": "base", "counterfactual": "counterfactual", "unprotected": "unprotected", "SANI": "sani",
        "SANI, half repaired on": "sani",
    }  # fmt: skip
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, (model, method) in enumerate(models.items()):
        rows = table[(table["model"] == model) & (table["reading"] == "visible")]
        y = [names.index(context) + 0.3 - 0.15 * number for context in rows["context"]]
        face = {"markerfacecolor": "none"} if "half" in model else {}
        axes.errorbar(
            rows["value"], y, xerr=errors(rows), linestyle="none", label=model, capsize=2, elinewidth=0.8,
            **style_of(method), **face,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share said (identifiers: visible)")
    light_grid(axes)
    at = table[table["reading"] == "visible"].set_index(["context", "model"])["value"]
    where, clean = CONTEXTS["again"], "SANI"
    if where not in names:
        where, clean = CONTEXTS["kept out"], "SANI, half repaired on"
    figure.suptitle(
        f"In {where}: {at[where, 'unprotected']:.1%} unprotected, {at[where, clean]:.1%} {clean}, "
        f"{at[where, 'base']:.1%} base\n({over_seeds(table)})", fontsize=11,
    )  # fmt: skip
    legend_below(figure, [axes])
    return figure


def memory(table: pd.DataFrame) -> Figure:
    """Memory apart from context and guessing: regurgitation visible, isolated, and beyond the base model."""
    ends = endpoints(table)
    raw, pseudonymized, _ = objectives(table)
    ends = ends[(ends["start"] != pseudonymized) & ends["target"].isin(["", "lm-head"])]
    methods = [m for m in STYLE if m in set(ends["method"])][::-1]
    figure = Figure(figsize=(10.5, 0.42 * len(methods) + 2), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(both, ("direct", "indirect")):
        for number, method in enumerate(methods):
            for metric, context, face, shift in (
                ("in_place", "visible", {}, 0.2), ("in_place", "isolated", {"markerfacecolor": "none"}, 0.0),
                ("excess", "visible", {"marker": "|", "markersize": 11, "markeredgewidth": 2}, -0.2),
            ):  # fmt: skip
                (row,) = pick(ends, metric, kind, context, method=method).itertuples()
                style = style_of(method) | {"markersize": 7, "capsize": 2, "elinewidth": 0.8} | face
                axes.errorbar(row.value, number + shift, xerr=errors(row), linestyle="none", **style)
        # The counterfactual replaces annotated identifiers only, so for rare words the base model is the chance level.
        by = "counterfactual" if kind == "direct" else "base"
        chance = pick(ends, "in_place", kind, method=by)["value"].iloc[0]
        axes.axvline(chance, color=STYLE[by][0], linestyle=":", linewidth=1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(f"{kind} identifiers")
        light_grid(axes)
    both[0].set_yticks(range(len(methods)), [label_of(m) for m in methods])
    names = (("filled: visible", {"color": "0.3", "marker": "o"}),
             ("hollow: isolated", {"color": "0.3", "marker": "o", "markerfacecolor": "none"}),
             ("bar: visible, beyond the base model (excess)", {"color": "0.3", "marker": "|"}),
             ("chance level (left: counterfactual, right: base)", {"color": "0.3", "linestyle": ":"}))  # fmt: skip
    handles = [Line2D([], [], **({"linestyle": "none"} | style), label=name) for name, style in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    excess = [_last(table, "excess", *run) for run in ((raw, "direct"), ("sani", "direct", "visible", raw, "lm-head"))]
    indirect = _last(table, "excess", "sani", "indirect", "visible", raw, "lm-head")
    figure.suptitle(
        f"Said beyond what the base model guesses: direct {excess[0]:+.1%} unprotected, {excess[1]:+.1%} SANI; "
        f"indirect {indirect:+.1%} SANI\n({over_seeds(table)})", fontsize=11,
    )  # fmt: skip
    return figure
