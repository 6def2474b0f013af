"""The drawings of the study, each from one table: PAPER Figure 2, the trade-off, memory, recall, contexts."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ..tables import CONTEXTS, endpoints, objectives, pick, value_of
from .style import LABELS, STYLE, curve, dress, errors, finish, label_of, panels, points, style_of

HOLLOW = {"markerfacecolor": "none"}


def _privacy_and_utility(pair, rows: pd.DataFrame, method: str, kind: str, **options) -> None:
    """A method's privacy in the left panel, and its utility in the right one."""
    curve(pair[0], pick(rows, "in_place", kind, method=method), method, -1, label=label_of(method), **options)
    curve(pair[1], pick(rows, "utility", method=method), method, label=label_of(method), **options)


def fine_tune(table: pd.DataFrame) -> Figure:
    """Privacy and utility while MLM, MLMA and PPMLM are fine-tuned (PAPER Figure 2, its left part)."""
    figure, pair = panels((9, 4), 1, 2)
    trained = objectives(table)
    for method in trained:
        _privacy_and_utility(pair, table, method, "all")
    for axes, name in zip(pair, ("privacy: 1 − identifiers regurgitated", "utility: accuracy on other words")):
        dress(axes, "epochs of fine-tuning (0: the base model)", name)
    ends = endpoints(table)
    before, *after = (1 - value_of(ends, "in_place", "all", method=m) for m in ("base", *trained))
    said = ", ".join(f"{value:.3f} {LABELS[m]}" for m, value in zip(trained, after))
    return finish(figure, f"Privacy {before:.3f} before fine-tuning → {said}", table, pair[:1])


def frame(table: pd.DataFrame) -> Figure:
    """PAPER Figures 2 and 5: privacy (a) and utility (b) over fine-tuning and unlearning, a row per start."""
    raw, pseudonymized, spared = objectives(table)
    starts = [(raw, "all"), (pseudonymized, "indirect")][: 1 + (pseudonymized in set(table["start"]))]
    figure, grid = panels((10.5, 1.4 + 3.1 * len(starts)), len(starts), 2, sharex=True, squeeze=False)
    end = pick(table, "utility", method=raw, start="")["epoch"].max()
    last = pick(table, "utility", method="repair-only")["epoch"].max()
    controls = ("base", "counterfactual", "retrain-at-equal-cost", "logit-filter")
    step = max(1.0, (last - end) / 4)
    ends = endpoints(table)
    for pair, (start, kind) in zip(grid, starts):
        for method in (start, *([pseudonymized] if len(starts) == 1 else []), spared):
            if method in set(table["method"]):
                _privacy_and_utility(pair, table[table["start"] == ""], method, kind)
        for method in ("repair-only", "pruning", "sani"):
            target = "lm-head" if method == "sani" else ""
            rows = table[(table["start"] == start) & (table["target"] == target)]
            _privacy_and_utility(pair, rows, method, kind, linestyle="--")
        for number, method in enumerate(controls, start=1):
            _privacy_and_utility(pair, ends.assign(epoch=last + number * step), method, kind, linestyle="none")
        guessed = value_of(ends, "in_place", kind, method="base")
        pair[0].axhline(1 - guessed, color=STYLE["base"][0], linewidth=1, linestyle=":", zorder=-1)
        words = "all identifiers" if kind == "all" else "indirect identifiers"
        dress(pair[0], y=f"from {LABELS[start]}\n(a) privacy: {words}")
        dress(pair[1], y="(b) utility: accuracy on other words")
        for axes in pair:
            axes.axvspan(end, last, color="0.93", zorder=-2)
    ticks = [0, end // 4, end // 2, end, last]
    for axes in grid[-1]:
        axes.set_xticks([*ticks, last + 2.5 * step], [*(f"{tick:g}" for tick in ticks), "\ncontrols"])
        axes.set_xlabel("epochs: fine-tuning, then unlearning (grey)")
    runs = (
        {"method": raw},
        {"method": "repair-only", "start": raw},
        {"method": "sani", "start": raw, "target": "lm-head"},
        {"method": spared},
    )
    before, repaired, clean, never = (1 - value_of(ends, "in_place", "all", **run) for run in runs)
    said = f"{before:.3f} unprotected; {repaired:.3f} after repair-only, {clean:.3f} after SANI; {never:.3f}"
    return finish(figure, f"Privacy: {said} {LABELS[spared]}", table, [*grid[0], grid[-1][0]])


def tradeoff(table: pd.DataFrame) -> Figure:
    """Where each method ends: privacy against utility, on its own text and on other persons', with the Pareto front."""
    figure, both = panels((10.5, 4.9), 1, 2, sharex=True)
    rows = endpoints(table)
    rows = rows[(rows["start"] != objectives(table)[1]) & rows["target"].isin(["", "lm-head"])]
    front = {}
    others = "persons" if objectives(table)[1] in set(table["method"]) else "books"
    for axes, metric, name in zip(
        both, ("utility", "utility_heldout"), ("on the training text", f"on {others} never trained on")
    ):
        ends = {}
        for method in rows["method"].unique():
            (x,) = pick(rows, "in_place", "all", method=method).itertuples()
            (y,) = pick(rows, metric, method=method).itertuples()
            ends[method] = (1 - x.value, y.value)
            style = style_of(method) | {"markersize": 8}
            points(axes, *ends[method], xerr=errors(x)[::-1], yerr=errors(y), label=label_of(method), **style)
            isolated = value_of(rows, "in_place", "all", "isolated", method=method)
            axes.plot(1 - isolated, y.value, **style | HOLLOW, zorder=-1)
        front[metric] = [m for m, (p, u) in ends.items() if not any(
            q >= p and w >= u and (q, w) != (p, u) for q, w in ends.values())]  # fmt: skip
        axes.plot(*zip(*sorted(ends[m] for m in front[metric])), color="0.6", linewidth=1, linestyle=":", zorder=-2)
        dress(axes, "privacy (filled: visible; hollow: isolated)", f"utility {name}")
    on = "on" if "sani" in front["utility"] else "not on"
    names = ", ".join(label_of(m) for m in sorted(front["utility"]))
    return finish(figure, f"SANI is {on} the front of means (dotted), which is: {names}", table, both)


def sani(table: pd.DataFrame) -> Figure:
    """SANI over its epochs, from MLM and from MLMA: regurgitation visible and isolated, utility."""
    figure, axes = panels((10.5, 4.9), 1, 3)
    raw, pseudonymized, _ = objectives(table)
    end, ends = pick(table, "utility", method=raw, start="")["epoch"].max(), endpoints(table)
    targets = [t for t in table["target"].unique() if t]
    name = {target: "SANI" if len(targets) == 1 else f"SANI {target}" for target in targets}

    def before(column, start, metric, kind="none"):
        value = value_of(table, metric, kind, method=start, start="", epoch=end)
        column.axhline(value, color=STYLE[start][0], linewidth=1.2, label=f"{LABELS[start]}, before", linestyle="-.")

    for column, (start, kind) in zip(axes, ((raw, "direct"), (pseudonymized, "indirect"))):
        before(column, start, "in_place", kind)
        # The counterfactual replaces annotated identifiers only, so it is no chance level for rare words.
        for method, style in (("base", "-"), ("counterfactual", ":"))[: 2 if kind == "direct" else 1]:
            guessed = value_of(ends, "in_place", kind, method=method)
            column.axhline(guessed, color=STYLE[method][0], linewidth=1, linestyle=style, label=f"{method}, visible")
        for target in targets:
            for context, face in (("visible", {}), ("isolated", HOLLOW | {"linestyle": ":"})):
                rows = pick(table, "in_place", kind, context, method="sani", start=start, target=target)
                curve(column, rows, "sani", label=f"{name[target]}, {context}", **face)
        dress(column, title=f"{kind} identifiers regurgitated,\nfrom {LABELS[start]}")
    for start, line in ((raw, "-"), (pseudonymized, "--")):
        for target in targets:
            rows = pick(table, "utility", method="sani", start=start, target=target)
            curve(axes[2], rows, "sani", label=f"{name[target]}, from {start.upper()}", linestyle=line)
        before(axes[2], start, "utility")
    dress(axes[2], title="utility: accuracy on other words")
    for column in axes:
        column.set_xlabel(f"epoch ({end:g}: just erased)")
    runs = ({"method": raw}, {"method": "sani", "start": raw, "target": targets[0]})
    leak = " → ".join(f"{value_of(ends, 'in_place', 'direct', **run):.1%}" for run in runs)
    utility = " → ".join(f"{value_of(ends, 'utility', **run):.3f}" for run in runs)
    return finish(figure, f"SANI: direct identifiers regurgitated {leak}, utility {utility}", table, axes)


def recall(table: pd.DataFrame) -> Figure:
    """What a missed term costs: regurgitation of the terms that the repair's blacklist lacked."""
    figure, axes = panels((7, 4.2))
    methods = {"unprotected": "unprotected", "SANI, terms missed": "sani", "SANI, terms listed": "sani", "base": "base"}
    for number, (name, method) in enumerate(methods.items()):
        rows = table[table["model"] == name]
        face = HOLLOW | {"linestyle": ":"} if name.endswith("listed") else {}
        rows = rows.assign(epoch=100 * rows["missed"] + 0.25 * (number - 1.5))
        curve(axes, rows, method, label=name, **face)
    dress(axes, "share of the terms that the blacklist misses (%)", "of these terms, regurgitated in place")
    at = table[table["missed"] == table["missed"].min()].set_index("model")["value"]
    title = (
        f"Of terms missed by the blacklist, SANI's model says {at['SANI, terms missed']:.1%}; "
        f"had they been listed, {at['SANI, terms listed']:.1%}"
    )
    return finish(figure, title, table, [axes])


def contexts(table: pd.DataFrame) -> Figure:
    """The same models asked in other contexts than those they were repaired on."""
    names = list(dict.fromkeys(table["context"]))[::-1]
    models = {
        "base": "base", "counterfactual": "counterfactual", "unprotected": "unprotected", "SANI": "sani",
        "SANI, half repaired on": "sani",
    }  # fmt: skip
    figure, axes = panels((9.5, 4.8))
    for number, (model, method) in enumerate(models.items()):
        rows = table[(table["model"] == model) & (table["reading"] == "visible")]
        y = [names.index(context) + 0.3 - 0.15 * number for context in rows["context"]]
        face = HOLLOW if "half" in model else {}
        points(axes, rows["value"], y, xerr=errors(rows), label=model, **style_of(method), **face)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    dress(axes, "share said (identifiers: visible)")
    at = table[table["reading"] == "visible"].set_index(["context", "model"])["value"]
    where, clean = CONTEXTS["again"], "SANI"
    if where not in names:
        where, clean = CONTEXTS["kept out"], "SANI, half repaired on"
    said = ", ".join(f"{at[where, model]:.1%} {model}" for model in ("unprotected", clean, "base"))
    return finish(figure, f"In {where}: {said}", table, [axes])


def memory(table: pd.DataFrame) -> Figure:
    """Memory apart from context and guessing: regurgitation visible, isolated, and beyond the base model."""
    ends = endpoints(table)
    raw, pseudonymized, _ = objectives(table)
    ends = ends[(ends["start"] != pseudonymized) & ends["target"].isin(["", "lm-head"])]
    methods = [m for m in STYLE if m in set(ends["method"])][::-1]
    figure, both = panels((10.5, 0.42 * len(methods) + 2), 1, 2, sharey=True)
    shown = (
        ("in_place", "visible", {}, 0.2),
        ("in_place", "isolated", HOLLOW, 0.0),
        ("excess", "visible", {"marker": "|", "markersize": 11, "markeredgewidth": 2}, -0.2),
    )
    for axes, kind in zip(both, ("direct", "indirect")):
        for number, method in enumerate(methods):
            for metric, context, face, shift in shown:
                (row,) = pick(ends, metric, kind, context, method=method).itertuples()
                style = style_of(method) | {"markersize": 7} | face
                points(axes, row.value, number + shift, xerr=errors(row), **style)
        # The counterfactual replaces annotated identifiers only, so for rare words the base model is the chance level.
        by = "counterfactual" if kind == "direct" else "base"
        axes.axvline(value_of(ends, "in_place", kind, method=by), color=STYLE[by][0], linestyle=":", linewidth=1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        dress(axes, f"{kind} identifiers")
    both[0].set_yticks(range(len(methods)), [label_of(m) for m in methods])
    names = (
        ("filled: visible", {"marker": "o"}),
        ("hollow: isolated", {"marker": "o"} | HOLLOW),
        ("bar: visible, beyond the base model (excess)", {"marker": "|"}),
        ("chance level (left: counterfactual, right: base)", {"linestyle": ":"}),
    )
    handles = [Line2D([], [], **{"color": "0.3", "linestyle": "none"} | style, label=name) for name, style in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    unprotected, direct, indirect = (
        f"{value_of(ends, 'excess', kind, method=method):+.1%}"
        for method, kind in ((raw, "direct"), ("sani", "direct"), ("sani", "indirect"))
    )
    title = (
        f"Said beyond what the base model guesses: direct {unprotected} unprotected, {direct} SANI; "
        f"indirect {indirect} SANI"
    )
    return finish(figure, title, table)
