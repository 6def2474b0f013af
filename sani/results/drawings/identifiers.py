"""The drawings of identifiers, each from one table: the trade-off, SANI by epoch, memory, recall, contexts."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..statistics import MEASURES
from ..tables import CONTEXTS, endpoints, has, objectives, pick, value_of
from .style import STYLE, curve, dress, errors, finish, label_of, panels, points, style_of

HOLLOW = {"markerfacecolor": "none"}


def tradeoff(table: pd.DataFrame) -> Figure:
    """Where each method ends: privacy, by each measure, against utility; those that no other beats in both are ringed.

    A row for direct identifiers (all terms of use case B), with utility on the method's own text, one with utility on
    other persons' text, and one for indirect identifiers.
    """
    names = objectives(table)
    rows = endpoints(table)
    rows = rows[(rows["start"] != names[1]) & rows["target"].isin(["", "lm-head"])]
    kinds = [kind for kind in ("direct", "indirect") if has(rows, "in_place", kind)] or ["all"]
    measures = [measure for measure in MEASURES if has(rows, measure, kinds[0])]
    others = "persons" if names[1] in set(table["method"]) else "books"
    on = {"utility": "on the training text", "utility_heldout": f"on {others} never trained on"}
    lines = [(kinds[0], metric) for metric in on] + [(kind, "utility") for kind in kinds[1:]]
    size = (0.5 + 5 * len(measures), 1.9 + 3 * len(lines))
    figure, grid = panels(size, len(lines), len(measures), sharey="row", squeeze=False)
    front = {}
    for row, (kind, metric) in zip(grid, lines):
        what = "listed terms" if kind == "all" else f"{kind} identifiers"
        for axes, measure in zip(row, measures):
            front[measure, kind, metric] = _plane(axes, rows, measure, kind, metric)
            hollow = " (hollow: isolated)" if measure == "in_place" else ""
            dress(axes, f"privacy of {what}: 1 − {measure}{hollow}", f"utility {on[metric]}" if axes is row[0] else "")
    said, sani = [], label_of("sani", "lm-head")
    for measure in measures:
        named = front[measure, kinds[0], "utility"]
        is_on = "" if "sani" in named else f" ({sani} is not)"
        said.append(f"by 1 − {measure}: {' · '.join(sorted(label_of(m, 'lm-head') for m in named))}{is_on}")
    title = "\n".join(["On the front of means (ringed; first row):", *said])
    return finish(figure, title, table, [grid[0, 0]], 5 if len(measures) > 1 else 3)


def _plane(axes: Axes, rows: pd.DataFrame, measure: str, kind: str, metric: str) -> list[str]:
    """Methods in the plane of privacy and utility, and which of them no other beats in both means."""
    ends = {}
    for method in rows["method"].unique():
        x, y = (pick(rows, *of, method=method) for of in ((measure, kind), (metric,)))
        if x["value"].notna().any() and y["value"].notna().any():
            (x,), (y,) = x.itertuples(), y.itertuples()
            ends[method] = (1 - x.value, y.value)
            style = style_of(method) | {"markersize": 8}
            label = label_of(method, "lm-head")
            points(axes, *ends[method], xerr=errors(x)[::-1], yerr=errors(y), label=label, **style)
            for isolated in pick(rows, measure, kind, "isolated", method=method)["value"].dropna():
                axes.plot(1 - isolated, y.value, **style | HOLLOW, zorder=-1)
    front = [m for m, (p, u) in ends.items() if not any(
        q >= p and w >= u and (q, w) != (p, u) for q, w in ends.values())]  # fmt: skip
    ring = {"marker": "o", "markersize": 17, "markerfacecolor": "none", "markeredgewidth": 1.2}
    axes.plot(*zip(*sorted(ends[m] for m in front)), color="0.45", linewidth=1, linestyle=":", zorder=-2, **ring)
    return front


def sani(table: pd.DataFrame) -> Figure:
    """SANI over its epochs, from MLM and from MLMA: regurgitation visible and isolated, utility."""
    raw, pseudonymized, _ = objectives(table)
    starts = ((raw, "direct"), (pseudonymized, "indirect"))
    end, ends = pick(table, "utility", method=raw, start="")["epoch"].max(), endpoints(table)
    table = table[table["method"].isin([raw, pseudonymized, "sani"])].assign(epoch=table["epoch"] - end)
    targets = [t for t in table["target"].unique() if t]
    epochs = sorted(pick(table, "utility", method="sani", start=raw, target=targets[0])["epoch"])
    ways = (
        ("in_place", "visible", "in place, visible", {}),
        ("in_place", "isolated", "in place, isolated", HOLLOW | {"linestyle": ":"}),
        ("paper", "visible", "by paper, visible", {"marker": "x", "linestyle": "--"}),
    )
    figure, axes = panels((10.5, 5.2), 1, 3)
    axes[1].sharey(axes[0])

    def drawn(column, method, name, *wanted, **style):
        where = {key: style.pop(key) for key in ("start", "target")}
        rows = pick(table, *wanted, method=method, **where)
        if rows["value"].notna().any():
            rows = rows.assign(epoch=rows["epoch"].map(epochs.index))  # evenly spaced
            curve(column, rows, method, label=name, **style)

    def before(column, start, metric, kind="none"):
        value = value_of(table, metric, kind, method=start, start="", epoch=0)
        column.axhline(value, color=STYLE[start][0], linewidth=1.2, label=f"{label_of(start)}, before", linestyle="-.")

    for column, (start, kind) in zip(axes, starts):
        before(column, start, "in_place", kind)
        # The counterfactual replaces annotated identifiers only, so it is no chance level for rare words.
        for method, style in (("base", "-"), ("counterfactual", ":"))[: 2 if kind == "direct" else 1]:
            guessed = value_of(ends, "in_place", kind, method=method)
            column.axhline(guessed, color=STYLE[method][0], linewidth=1, linestyle=style, label=f"{method}, visible")
        for target in targets:
            for metric, context, name, face in ways:
                name = f"{label_of('sani', target)}, {name}"
                drawn(column, "sani", name, metric, kind, context, start=start, target=target, **face)
        dress(column, title=f"{kind} identifiers predicted,\nfrom {label_of(start)}")
    for (start, _), line in zip(starts, ("-", "--")):
        for target in targets:
            name = f"{label_of('sani', target)}, from {start.upper()}"
            drawn(axes[2], "sani", name, "utility", start=start, target=target, linestyle=line)
        before(axes[2], start, "utility")
    dress(axes[2], title="utility: accuracy on other words")
    for column in axes:
        column.set_xticks(range(len(epochs)), [f"{epoch:g}" for epoch in epochs])
        column.set_xlabel("epochs of repair (0: just erased)")
    runs = ({"method": raw}, {"method": "sani", "start": raw, "target": targets[0]})
    leak = " → ".join(f"{value_of(ends, 'in_place', 'direct', **run):.1%}" for run in runs)
    utility = " → ".join(f"{value_of(ends, 'utility', **run):.3f}" for run in runs)
    title = f"{label_of('sani', targets[0])}: direct identifiers predicted in place {leak}, utility {utility}"
    return finish(figure, title, table, axes, 3)


def recall(table: pd.DataFrame) -> Figure:
    """What a missed term costs: regurgitation of the terms that the repair's blacklist lacked."""
    figure, axes = panels((7, 4.2))
    methods = {"unprotected": "unprotected", "SANI, terms missed": "sani", "SANI, terms listed": "sani", "base": "base"}
    shown = {"unprotected": "before (unprotected)", "SANI, terms missed": "after SANI (lm-head), terms missed",
             "SANI, terms listed": "after SANI (lm-head), terms listed"}  # fmt: skip
    for number, (name, method) in enumerate(methods.items()):
        rows = table[table["model"] == name]
        face = HOLLOW | {"linestyle": ":"} if name.endswith("listed") else {}
        rows = rows.assign(epoch=100 * rows["missed"] + 0.25 * (number - 1.5))
        curve(axes, rows, method, label=shown.get(name, name), **face)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    dress(axes, "share of the terms that the blacklist misses (%)", "of these terms, predicted in place")
    least, most = table.groupby("model")["value"].min(), table.groupby("model")["value"].max()
    among = {name: f"{100 * least[name]:.1f} to {most[name]:.1%}" for name in shown}
    title = (
        f"Of terms that the blacklist misses, {among['unprotected']} are predicted before SANI,\n"
        f"{among['SANI, terms missed']} after; had they been listed, {among['SANI, terms listed']}"
    )
    return finish(figure, title, table, [axes], 2)


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
        points(axes, rows["value"], y, xerr=errors(rows), label=model.replace("SANI", label_of("sani", "lm-head")),
               **style_of(method), **face)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    dress(axes, "share predicted (direct identifiers: in place, visible)")
    at = table[table["reading"] == "visible"].set_index(["context", "model"])["value"]
    where, clean = CONTEXTS["again"], "SANI"
    if where not in names:
        where, clean = CONTEXTS["kept out"], "SANI, half repaired on"
    said = ", ".join(f"{at[where, model]:.1%} {model}" for model in ("unprotected", clean, "base"))
    return finish(figure, f"Direct identifiers predicted in {where}: {said}", table, [axes])


def memory(table: pd.DataFrame) -> Figure:
    """Memory apart from context and guessing: regurgitation by both measures, isolated, and beyond the base model."""
    ends = endpoints(table)
    raw, pseudonymized, _ = objectives(table)
    ends = ends[(ends["start"] != pseudonymized) & ends["target"].isin(["", "lm-head"])]
    methods = [m for m in STYLE if m in set(ends["method"])][::-1]
    figure, both = panels((10.5, 0.52 * len(methods) + 2.2), 1, 2, sharey=True)
    shown = (
        ("paper", "visible", {"marker": "x"}, 0.3),
        ("in_place", "visible", {}, 0.1),
        ("in_place", "isolated", HOLLOW, -0.1),
        ("excess", "visible", {"marker": "|", "markersize": 11, "markeredgewidth": 2}, -0.3),
    )
    for axes, kind in zip(both, ("direct", "indirect")):
        for number, method in enumerate(methods):
            for metric, context, face, shift in shown:
                within = (-1, 1) if metric == "excess" else (0, 1)
                for row in pick(ends, metric, kind, context, method=method).dropna(subset="value").itertuples():
                    style = style_of(method) | {"markersize": 7} | face
                    points(axes, row.value, number + shift, xerr=errors(row, within), **style)
        # The counterfactual replaces annotated identifiers only, so for rare words the base model is the chance level.
        by = "counterfactual" if kind == "direct" else "base"
        axes.axvline(value_of(ends, "in_place", kind, method=by), color=STYLE[by][0], linestyle=":", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.hlines([n + 0.5 for n in range(len(methods) - 1)], 0, 1, transform=axes.get_yaxis_transform(),
                    color="0.85", linewidth=0.6, zorder=-2)  # fmt: skip
        dress(axes, f"{kind} identifiers predicted", grid="x")
    both[0].set_yticks(range(len(methods)), [label_of(m, "lm-head") for m in methods])
    names = (
        *([("×: in place or elsewhere (paper)", {"marker": "x"})] if has(ends, "paper", "direct") else []),
        ("filled: in place, visible", {"marker": "o"}),
        ("hollow: in place, isolated", {"marker": "o"} | HOLLOW),
        ("bar: in place, beyond the base model (excess)", {"marker": "|"}),
        ("chance level (left: counterfactual, right: base)", {"linestyle": ":"}),
    )
    handles = [Line2D([], [], **{"color": "0.3", "linestyle": "none"} | style, label=name) for name, style in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    unprotected, direct, indirect = (
        f"{value_of(ends, 'excess', kind, method=method):+.1%}"
        for method, kind in ((raw, "direct"), ("sani", "direct"), ("sani", "indirect"))
    )
    title = (
        f"Predicted in place beyond what the base model guesses: direct {unprotected} unprotected, {direct} "
        f"{label_of('sani', 'lm-head')}; indirect {indirect}"
    )
    return finish(figure, title, table)
