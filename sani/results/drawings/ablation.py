"""The drawings of the ablation, its effects and sweeps, each from one table."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..tables import summary
from .style import dress, errors, finish, label_of, legend_below, over_seeds, panels, points, style_of

LEAK, KNOWS = "regurgitation", "utility"
LEAKED = "listed terms regurgitated"
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")
STYLES = [{"color": colour, "marker": marker} for colour, marker in zip(COLOURS, MARKERS)]
CONTROLS = ("base", "unprotected", "counterfactual", "logit-filter", "retrain-at-equal-cost", "repair-only")


def _plane(axes, title: str, shown: list, plain: pd.DataFrame, controls=CONTROLS, legend="lower right") -> None:
    """Models in the plane of regurgitation and utility, with both intervals; `shown`: rows, label and style of each."""
    for name in controls:
        rows = plain[(plain["method"] == name) & (plain["repair"] != "ordinary")]
        grey = style_of(name) | {"color": "0.5", "markersize": 5, "zorder": 1}
        shown = [*shown, (rows, label_of(name), grey)]
    for rows, label, style in shown:
        x, y = (rows.set_index("metric").loc[metric] for metric in (LEAK, KNOWS))
        style = {"markersize": 6} | style
        points(axes, x["value"], y["value"], xerr=errors(x), yerr=errors(y), label=label, **style)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(left=-0.001)
    axes.set_xticks([0, 0.01, 0.1, 1], ["0", "1 %", "10 %", "100 %"])
    dress(axes, LEAKED, "utility", title)
    axes.legend(fontsize=7, loc=legend)


def _erasing_and_repairing(axes, half: pd.DataFrame, plain: pd.DataFrame) -> None:
    """Erased or not × repaired with or without listed targets."""
    head, only = half[half["target"] == "lm-head"], plain[plain["method"] == "repair-only"]
    chosen = (
        (head[head["repair"] == "spared"], "erased, repair spares"),
        (head[head["repair"] == "ordinary"], "erased, ordinary repair"),
        (only[only["repair"] == "spared"], "not erased, repair spares"),
        (only[only["repair"] == "ordinary"], "not erased, ordinary repair"),
        (head[head["method"] == "erased"], "just erased"),
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
    axes.legend(fontsize=7)


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
    style = {"color": COLOURS[0], "marker": "D", "markerfacecolor": "white", "markersize": 5}
    x, label = untied["fraction"] + 0.015, "lm-head untied, not erased"
    points(axes, x, untied["value"], yerr=errors(untied), label=label, **style)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    dress(axes, "neurons erased (0: repair-only)", name, f"how much is erased: {name}")
    axes.legend(fontsize=7)


def ablation(table: pd.DataFrame) -> Figure:
    """Trade-offs of targets, choices, fractions, of erasing and repairing; and what chance does. A row per seed."""
    mean = summary(table)
    plain = mean[(mean["mask_seed"] == 0) & (mean["repair_seed"] == 0)]
    usual = plain[(plain["fill"] == "zero") & (plain["neurons"] == "random")]
    half = usual[usual["fraction"] == 0.5]
    figure, grid = panels((11, 13.5), 3, 2)
    targets = list(dict.fromkeys(half.loc[half["method"] == "sani", "target"]))
    spared = half[half["repair"] == "spared"]

    shown = [(spared[spared["target"] == target], target, style) for target, style in zip(targets, STYLES)]
    _plane(grid[0, 0], "what is erased (half of the neurons, to zero)", shown, plain)
    _choices(grid[0, 1], plain)
    _fractions(grid[1, 0], usual, plain, targets, LEAK, LEAKED)
    _fractions(grid[1, 1], usual, plain, targets, KNOWS, "utility")
    _erasing_and_repairing(grid[2, 0], half, plain)
    _chance(grid[2, 1], table)

    at = spared[(spared["method"] == "sani") & (spared["target"] == "lm-head")].set_index("metric")["value"]
    only = plain[(plain["method"] == "repair-only") & (plain["repair"] == "spared")].set_index("metric")["value"]
    title = (
        f"SANI on lm-head: {at[LEAK]:.1%} regurgitated, utility {at[KNOWS]:.3f}; without erasing {only[LEAK]:.1%}, "
        f"{only[KNOWS]:.3f}"
    )
    return finish(figure, title, mean)


def effects(table: pd.DataFrame) -> Figure:
    """Differences paired by seed, with their intervals: a row per comparison, a panel per metric."""
    whats = list(dict.fromkeys(zip(table["question"], table["what"])))
    figure, pair = panels((11, 0.27 * len(whats) + 2), 1, 2, sharey=True)
    place, at, before = [], 0.0, None
    for question, _ in whats:
        at += 1 if question == before else 1.9
        place.append(at)
        if question != before:
            pair[0].text(0, at - 0.95, question, transform=pair[0].get_yaxis_transform(), fontsize=9,
                         fontweight="bold", ha="left", va="center")  # fmt: skip
        before = question
    colours = {"higher": COLOURS[2], "lower": COLOURS[1], "no difference that matters": "0.45"}
    table = table.assign(verdict=table["verdict"].str.split(",").str[0])
    for axes, metric in zip(pair, (LEAK, KNOWS)):
        rows = table[table["metric"] == metric].set_index(["question", "what"]).loc[whats]
        for y, row in zip(place, rows.itertuples()):
            colour = colours.get(row.verdict, "black")
            face = "white" if colour == "black" else None
            axes.errorbar(row.value, y, xerr=errors(row), marker="o", markersize=5, capsize=2,
                          color=colour, markerfacecolor=face)  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=0.02)
        dress(axes, f"difference in {metric}", grid="x")
    pair[0].set_yticks(place, [what for _, what in whats], fontsize=8)
    pair[0].invert_yaxis()
    counts = table[table["metric"].isin([LEAK, KNOWS])]["verdict"].value_counts()
    said = ", ".join(f"{number} {name}" for name, number in counts.items())
    over = f"(paired over {int(table['seeds'].max())} seeds, 95 % intervals; hollow: the data does not decide)"
    figure.suptitle(f"{said}\n{over}", fontsize=11)
    return figure


def distillation(table: pd.DataFrame) -> Figure:
    """Teachers, their students on either text, and small models trained themselves; panels per setting and metric."""
    settings = list(dict.fromkeys(table["setting"]))
    mean = summary(table)
    names = {"": "small, trained itself", "private": "student, private text", "public": "student, public text"}
    models = list(dict.fromkeys(zip(mean["size"], mean["text"], mean["method"])))
    groups = [model[:2] for model in models]
    height = (0.27 * len(models) + 0.9) * len(settings) + 1
    figure, grid = panels((11, height), len(settings), 2, sharey=True, squeeze=False)
    title = ["Regurgitated by teachers and by students distilled on private and on public text"]
    for setting, pair in zip(settings, grid):
        rows = mean[mean["setting"] == setting].set_index(["metric", "size", "text", "method"]).sort_index()
        for axes, metric in zip(pair, (LEAK, KNOWS)):
            for y, model in enumerate(models):
                row = rows.loc[(metric, *model)]
                points(axes, row["value"], y, xerr=errors(row), markersize=6, elinewidth=None, **style_of(model[2]))
            for y in (i - 0.5 for i in range(1, len(models)) if groups[i] != groups[i - 1]):
                axes.axhline(y, color="0.7", linewidth=0.8)
            dress(axes, LEAKED if metric == LEAK else metric, title=f"{setting}: {metric}", grid="x")
        pair[0].xaxis.set_major_formatter(PercentFormatter(1.0))
        labels = [
            f"{'teacher' if size == 'teacher' else names[text]}: {label_of(method)}" for size, text, method in models
        ]
        pair[0].set_yticks(range(len(models)), labels, fontsize=8)
        pair[0].set_ylim(len(models) - 0.5, -0.5)
        leak = rows.loc[LEAK, "value"]
        title += [
            f"{setting}: {name} teacher {leak['teacher', '', method]:.1%}, its students "
            f"{leak['student', 'private', method]:.1%} and {leak['student', 'public', method]:.1%}"
            for method, name in (("unprotected", "unprotected"), ("sani", "sanitised"))
        ]
    figure.suptitle("\n".join([*title, f"({over_seeds(mean)})"]), fontsize=10)
    return figure


def sweep(table: pd.DataFrame) -> Figure:
    """Methods against the swept parameters other than the seed, a panel for each of two metrics; a row per run."""
    mean = summary(table if "seed" in table else table.assign(seed=0))
    known = ("seed", "method", "metric", "context", "value", "low", "high", "table")
    swept = [c for c in table.columns if c not in known]
    mean["run"] = mean[swept].astype(str).agg(", ".join, axis=1)
    values = list(dict.fromkeys(mean["run"]))
    figure, pair = panels((10, 4.2), 1, 2)
    for axes, metric in zip(pair, ("regurgitation of direct identifiers", KNOWS)):
        rows = mean[(mean["metric"] == metric) & (mean["context"] == "visible")]
        for number, (method, of_method) in enumerate(rows.groupby("method", sort=False)):
            x = [values.index(v) + 0.04 * (number - 3) for v in of_method["run"]]
            axes.errorbar(x, of_method["value"], yerr=errors(of_method), capsize=2, linewidth=1.2,
                          label=label_of(method), **style_of(method))  # fmt: skip
        axes.set_xticks(range(len(values)), values)
        dress(axes, ", ".join(swept), metric)
    figure.suptitle(f"{len(values)} values of {', '.join(swept)} ({over_seeds(mean)})", fontsize=11)
    legend_below(figure, pair[:1])
    return figure
