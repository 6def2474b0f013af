"""The drawings of the ablation, its effects and sweeps, each from one table."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..tables import summary
from .style import LONG, dress, errors, finish, label_of, legend_below, over_seeds, panels, points, style_of

LEAK, PAPER, KNOWS, RANK = (
    "regurgitation of direct identifiers", "paper of direct identifiers", "utility", "exposure of names",
)  # fmt: skip
LEAKED = "direct identifiers predicted in place"
NOT_ERASED = {"color": "#332288", "marker": "D", "markerfacecolor": "white"}
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")
STYLES = [{"color": colour, "marker": marker} for colour, marker in zip(COLOURS, MARKERS)]
CONTROLS = ("base", "unprotected", "counterfactual", "logit-filter", "retrain-at-equal-cost", "repair-only")


def _plane(axes, title: str, shown: list, plain: pd.DataFrame, controls=CONTROLS, legend="lower right", leak=LEAK):
    """Models in the plane of a leak and utility, with both intervals; `shown`: rows, label and style of each."""
    for name in controls:
        rows = plain[(plain["method"] == name) & (plain["repair"] != "ordinary")]
        grey = style_of(name) | {"color": "0.5", "markersize": 5, "zorder": 1}
        shown = [*shown, (rows, label_of(name), grey)]
    for rows, label, style in shown:
        at, style = rows.set_index("metric"), {"markersize": 6} | style
        x, y = at.loc[leak], at.loc[KNOWS]
        points(axes, x["value"], y["value"], xerr=errors(x), yerr=errors(y), label=label, **style)
        if leak == LEAK and PAPER in at.index:
            options = style | {"markerfacecolor": "none", "linestyle": "none", "zorder": 0}
            axes.plot(at.loc[PAPER, "value"], y["value"], **options)
    if leak == LEAK:
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set_xlim(left=-0.001)
        axes.set_xticks([0, 0.01, 0.1, 1], ["0", "1 %", "10 %", "100 %"])
    dress(axes, LEAKED if leak == LEAK else LONG[leak], "utility", title)
    axes.legend(fontsize=8, loc=legend, labelspacing=0.3)


def _erasing_and_repairing(axes, half: pd.DataFrame, plain: pd.DataFrame) -> None:
    """Erased or not × repaired with or without listed targets."""
    head, only = half[half["target"] == "lm-head"], plain[plain["method"] == "repair-only"]
    chosen = (
        (head[head["repair"] == "spared"], "erased, repair spares"),
        (head[head["repair"] == "ordinary"], "erased, ordinary repair"),
        (only[only["repair"] == "spared"], "not erased, repair spares"),
        (only[only["repair"] == "ordinary"], "not erased, ordinary repair"),
        (head[head["method"] == "erased"], "just erased"),
        (plain[plain["method"] == "untied"], "untied, not erased, repair spares"),
    )
    shown = [(*found, style) for found, style in zip(chosen, STYLES)]
    title = "erase lm-head or not × repair with or without listed targets"
    _plane(axes, title, shown, plain, ("base", "unprotected"), "lower left")


def _chance(axes, table: pd.DataFrame) -> None:
    """What other draws of the neurons and of the repair do, seed by seed."""
    draws = table.query(
        "target == 'lm-head' and fraction == 0.5 and fill == 'zero' and neurons == 'random' and repair == 'spared'"
    )
    for number, (seed, of_seed) in enumerate(draws.groupby("seed")):
        wide = of_seed.pivot_table(index=["mask_seed", "repair_seed"], columns="metric", values="value").reset_index()
        for fixed, marker in (("repair_seed", "o"), ("mask_seed", "x")):
            rows = wide[wide[fixed] == 0]
            axes.plot(rows[LEAK], rows[KNOWS], marker=marker, linestyle="none", color=COLOURS[number % len(COLOURS)],
                      markerfacecolor="none", label=f"seed {seed}" if marker == "o" else None)  # fmt: skip
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    dress(axes, LEAKED, "utility", "chance: other neurons (o), another order of the repair (x)")
    axes.legend(fontsize=8)


def _choices(axes, plain: pd.DataFrame) -> None:
    """Which neurons are erased, and what they are filled with."""
    of_head = plain.query("target == 'lm-head' and fraction == 0.5 and repair == 'spared'")
    shown = []
    for neurons, colour in zip(dict.fromkeys(plain.loc[plain["neurons"] != "", "neurons"]), COLOURS):
        for fill, marker in zip(("zero", "init", "pretrained"), MARKERS):
            rows = of_head[(of_head["neurons"] == neurons) & (of_head["fill"] == fill)]
            if len(rows):
                shown.append((rows, f"{neurons}, {fill}", {"color": colour, "marker": marker}))
    _plane(axes, "which neurons of lm-head, filled with what", shown, plain, ("repair-only", "counterfactual"))


def _fractions(axes, usual: pd.DataFrame, plain: pd.DataFrame, targets: list[str], metric: str, name: str) -> None:
    """A metric over the share of neurons erased, for targets of three shares or more."""
    plain = plain[plain["metric"] == metric]
    nothing = plain[(plain["method"] == "repair-only") & (plain["repair"] == "spared")]
    of_metric = usual[(usual["metric"] == metric) & (usual["method"] == "sani") & (usual["repair"] == "spared")]
    for target, style in zip(targets, STYLES):
        rows = of_metric[of_metric["target"] == target]
        if rows["fraction"].nunique() >= 3:
            rows = pd.concat([nothing, rows]).sort_values("fraction")
            style = style | {"linestyle": "-", "linewidth": 1.3, "markersize": 5}
            points(axes, rows["fraction"], rows["value"], yerr=errors(rows), label=target, **style)
    untied = plain[plain["method"] == "untied"]
    x, label = untied["fraction"] + 0.015, "lm-head untied, not erased"
    points(axes, x, untied["value"], yerr=errors(untied), label=label, markersize=5, **NOT_ERASED)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    dress(axes, "neurons erased (0: repair-only)", name, f"how much is erased: {name}")
    axes.legend(fontsize=8)


def ablation(table: pd.DataFrame) -> Figure:
    """Trade-offs of targets, choices, fractions, of erasing and repairing; and what chance does. A row per seed."""
    mean = summary(table)
    plain = mean[(mean["mask_seed"] == 0) & (mean["repair_seed"] == 0)]
    usual = plain[(plain["fill"] == "zero") & (plain["neurons"] == "random")]
    half = usual[usual["fraction"] == 0.5]
    ranked = RANK in set(mean["metric"])
    figure, grid = panels((10.5, 4.4 * (3 + ranked)), 3 + ranked, 2)
    targets = list(dict.fromkeys(half.loc[half["method"] == "sani", "target"]))
    spared = half[half["repair"] == "spared"]

    shown = [(spared[spared["target"] == target], target, style) for target, style in zip(targets, STYLES)]
    shown.append((plain[plain["method"] == "untied"], "lm-head untied, not erased", NOT_ERASED))
    _plane(grid[0, 0], "what is erased (half of the neurons, to zero)", shown, plain)
    _choices(grid[0, 1], plain)
    _fractions(grid[1, 0], usual, plain, targets, LEAK, LEAKED)
    _fractions(grid[1, 1], usual, plain, targets, KNOWS, "utility")
    _erasing_and_repairing(grid[2, 0], half, plain)
    _chance(grid[2, 1], table)
    if ranked:
        _plane(grid[3, 0], "what is erased: exposure and utility", shown, plain, leak=RANK)
        _fractions(grid[3, 1], usual, plain, targets, RANK, LONG[RANK])

    at = spared[(spared["method"] == "sani") & (spared["target"] == "lm-head")].set_index("metric")["value"]
    only = plain[(plain["method"] == "repair-only") & (plain["repair"] == "spared")].set_index("metric")["value"]
    title = (
        f"SANI on lm-head: {at[LEAK]:.1%} of the direct identifiers predicted in place, utility {at[KNOWS]:.3f}; "
        f"without erasing {only[LEAK]:.1%}, {only[KNOWS]:.3f}" + (", hollow: by paper" if PAPER in at else "")
    )
    return finish(figure, title, mean)


def _better(row) -> str:
    """Whether a difference is for the better: less regurgitation or exposure, more utility."""
    word = row.verdict.split(",")[0]
    return {"higher": "better", "lower": "worse"}.get(word, word) if row.metric == KNOWS else (
        {"higher": "worse", "lower": "better"}.get(word, word)
    )  # fmt: skip


# By what a difference is: colour, marker, and its face. Better or worse can be told without the colour.
EFFECTS = {
    "better": ("#0072B2", "o", "#0072B2"),
    "worse": ("#D55E00", "X", "#D55E00"),
    "no difference that matters": ("0.45", "|", "0.45"),
    "the data does not decide": ("black", "o", "white"),
}


def effects(table: pd.DataFrame) -> Figure:
    """Differences paired by seed, with their intervals: a row per comparison, a panel per metric."""
    whats = list(dict.fromkeys(zip(table["question"], table["what"])))
    metrics = [metric for metric in LONG if metric in set(table["metric"])]
    size = (4.4 + 1.9 * max(3, len(metrics)), 0.27 * len(whats) + 2.4)
    figure, (row,) = panels(size, 1, len(metrics), sharey=True, squeeze=False)
    place, at, before = [], 0.0, None
    for question, _ in whats:
        at += 1 if question == before else 1.9
        place.append(at)
        if question != before:
            row[0].text(-0.03, at - 0.95, question, transform=row[0].get_yaxis_transform(), fontsize=9,
                        fontweight="bold", ha="right", va="center")  # fmt: skip
        before = question
    table = table[table["metric"].isin(metrics)]
    table = table.assign(effect=[_better(found) for found in table.itertuples()])
    for axes, metric in zip(row, metrics):
        rows = table[table["metric"] == metric].set_index(["question", "what"]).loc[whats]
        for y, found in zip(place, rows.itertuples()):
            colour, marker, face = EFFECTS[found.effect]
            style = {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 6}
            axes.errorbar(found.value, y, xerr=errors(found, (-1, 1)), capsize=2, linestyle="none", **style)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=0.02)
        reach = 1.15 * max(abs(limit) for limit in axes.get_xlim())
        axes.set_xlim(-reach, reach)
        ticks = (-0.1, 0, 0.1) if reach > 0.1 else (-0.01, 0, 0.01)
        axes.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
        axes.minorticks_off()
        dress(axes, grid="x")
        axes.set_xlabel(f"difference in\n{textwrap.fill(LONG[metric], 28)}", fontsize=9)
    row[0].set_yticks(place, [what for _, what in whats], fontsize=8)
    row[0].set_ylim(place[-1] + 0.8, 0.4)
    counts = table["effect"].value_counts()
    said = ", ".join(f"{counts.get(name, 0)} {name}" for name in EFFECTS)
    over = f"(paired over {int(table['seeds'].max())} seeds, 95 % intervals)"
    figure.suptitle(f"Of {len(table)} differences: {said}\n{over}", fontsize=11)
    handles = [Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle="none", label=name)
               for name, (colour, marker, face) in EFFECTS.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(EFFECTS), frameon=False, fontsize=9)
    return figure


def distillation(table: pd.DataFrame) -> Figure:
    """Teachers, their students on either text, and small models trained themselves; panels per setting and metric."""
    settings = list(dict.fromkeys(table["setting"]))
    mean = summary(table)
    names = {"": "small, trained itself", "private": "student, private text", "public": "student, public text"}
    models = list(dict.fromkeys(zip(mean["size"], mean["text"], mean["method"])))
    groups = [model[:2] for model in models]
    metrics = [metric for metric in (LEAK, RANK, KNOWS) if metric in set(mean["metric"])]
    size = (3.2 + 2.9 * len(metrics), (0.27 * len(models) + 1.1) * len(settings) + 1)
    figure, grid = panels(size, len(settings), len(metrics), sharey=True, squeeze=False)
    title = ["Direct identifiers predicted by teachers and by students distilled on private and on public text"]
    for setting, row in zip(settings, grid):
        rows = mean[mean["setting"] == setting].set_index(["metric", "size", "text", "method"]).sort_index()
        for axes, metric in zip(row, metrics):
            for y, model in enumerate(models):
                found, style = rows.loc[(metric, *model)], style_of(model[2]) | {"markersize": 6}
                points(axes, found["value"], y, xerr=errors(found), elinewidth=None, **style)
                if metric == LEAK and (PAPER, *model) in rows.index:
                    axes.plot(rows.loc[(PAPER, *model), "value"], y, markerfacecolor="none", **style)
            for y in (i - 0.5 for i in range(1, len(models)) if groups[i] != groups[i - 1]):
                axes.axhline(y, color="0.7", linewidth=0.8)
            dress(axes, textwrap.fill(LONG[metric], 34), title=setting, grid="x")
            axes.xaxis.set_major_locator(MaxNLocator(5))
        row[0].xaxis.set_major_formatter(PercentFormatter(1.0))
        if PAPER in rows.index:
            row[0].set_xlabel(f"{LEAKED}\n(hollow: in place or elsewhere, paper)")
        labels = [
            f"{'teacher' if size == 'teacher' else names[text]}: {label_of(method)}" for size, text, method in models
        ]
        row[0].set_yticks(range(len(models)), labels, fontsize=8)
        row[0].set_ylim(len(models) - 0.5, -0.5)
        leak = rows.loc[LEAK, "value"]
        title += [
            f"{setting}: {name} teacher {leak['teacher', '', method]:.1%}, its students "
            f"{leak['student', 'private', method]:.1%} and {leak['student', 'public', method]:.1%}"
            for method, name in (("unprotected", "unprotected"), ("sani", "sanitised"))
        ]
    figure.suptitle("\n".join([*title, f"({over_seeds(mean)})"]), fontsize=10)
    return figure


def sweep(table: pd.DataFrame) -> Figure:
    """Methods against the swept parameters other than the seed, a panel per metric; a row per run."""
    mean = summary(table if "seed" in table else table.assign(seed=0))
    known = ("seed", "method", "metric", "context", "value", "low", "high", "table")
    swept = [c for c in table.columns if c not in known]
    mean["run"] = mean[swept].astype(str).agg(", ".join, axis=1)
    values = list(dict.fromkeys(mean["run"]))
    metrics = [metric for metric in LONG if metric in set(mean["metric"])]
    figure, (row,) = panels((2 + 4 * len(metrics), 4.4), 1, len(metrics), squeeze=False)
    for axes, metric in zip(row, metrics):
        context = "isolated" if metric == RANK else "visible"
        rows = mean[(mean["metric"] == metric) & (mean["context"] == context)]
        for number, (method, of_method) in enumerate(rows.groupby("method", sort=False)):
            x = [values.index(v) + 0.04 * (number - 3) for v in of_method["run"]]
            axes.errorbar(x, of_method["value"], yerr=errors(of_method), capsize=2, linewidth=1.2,
                          label=label_of(method), **style_of(method))  # fmt: skip
        axes.set_xticks(range(len(values)), values)
        dress(axes, ", ".join(swept), LONG[metric])
    figure.suptitle(f"{len(values)} values of {', '.join(swept)} ({over_seeds(mean)})", fontsize=11)
    legend_below(figure, row[:1])
    return figure
