"""The drawings of the ablation, its effects and sweeps, each from one table."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..tables import summary
from .style import errors, label_of, legend_below, light_grid, over_seeds, style_of

LEAK, KNOWS = "regurgitation", "utility"
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")
CONTROLS = ("base", "unprotected", "counterfactual", "logit-filter", "retrain-at-equal-cost", "repair-only")


def _point(axes, of_point: pd.DataFrame, **options) -> None:
    """A model in the plane of regurgitation and utility, with both intervals."""
    at = of_point.set_index("metric")
    x, y = at.loc[LEAK], at.loc[KNOWS]
    options = {"linestyle": "none", "capsize": 2, "elinewidth": 0.8, "markersize": 6} | options
    axes.errorbar(x["value"], y["value"], xerr=errors(x), yerr=errors(y), **options)


def _plane(axes, title: str) -> None:
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(left=-0.001)
    axes.set_xticks([0, 0.01, 0.1, 1], ["0", "1 %", "10 %", "100 %"])
    axes.set_xlabel("listed terms regurgitated")
    axes.set_ylabel("utility")
    axes.set_title(title, fontsize=10)
    light_grid(axes)


def _controls(axes, plain: pd.DataFrame, names=CONTROLS) -> None:
    for name in names:
        rows = plain[(plain["method"] == name) & (plain["repair"] != "ordinary")]
        _point(axes, rows, **style_of(name) | {"color": "0.5"}, markersize=5, label=label_of(name), zorder=1)


def _erasing_and_repairing(axes, half: pd.DataFrame, plain: pd.DataFrame) -> None:
    """Erased or not × repaired with or without listed targets."""
    pairs = (
        (half["target"].eq("lm-head") & half["repair"].eq("spared"), half, "o", "erased, repair spares"),
        (half["target"].eq("lm-head") & half["repair"].eq("ordinary"), half, "s", "erased, ordinary repair"),
        (plain["method"].eq("repair-only") & plain["repair"].eq("spared"), plain, "^", "not erased, repair spares"),
        (plain["method"].eq("repair-only") & plain["repair"].eq("ordinary"), plain, "v", "not erased, ordinary repair"),
        (half["target"].eq("lm-head") & half["method"].eq("erased"), half, "P", "just erased"),
    )  # fmt: skip
    for (chosen, of, marker, label), colour in zip(pairs, COLOURS):
        _point(axes, of[chosen], color=colour, marker=marker, label=label)
    _controls(axes, plain, ("base", "unprotected"))
    _plane(axes, "erase lm-head or not × repair with or without listed targets")
    axes.legend(fontsize=7, loc="lower left")


def _chance(axes, table: pd.DataFrame) -> None:
    """What other draws of the neurons and of the repair do, seed by seed."""
    draws = table[
        (table["target"] == "lm-head") & (table["fraction"] == 0.5) & (table["fill"] == "zero")
        & (table["neurons"] == "random") & (table["repair"] == "spared")
    ]  # fmt: skip
    for number, (seed, of_seed) in enumerate(draws.groupby("seed")):
        wide = of_seed.pivot_table(index=["mask_seed", "repair_seed"], columns="metric", values="value").reset_index()
        for fixed, marker in (("repair_seed", "o"), ("mask_seed", "x")):
            rows = wide[wide[fixed] == 0]
            axes.plot(rows[LEAK], rows[KNOWS], marker=marker, linestyle="none", color=COLOURS[number % len(COLOURS)],
                      markerfacecolor="none", label=f"seed {seed}" if marker == "o" else None)  # fmt: skip
    axes.set_xlabel("listed terms regurgitated")
    axes.set_ylabel("utility")
    axes.set_title("chance: other neurons (o), another order of the repair (x)", fontsize=10)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(fontsize=7)
    light_grid(axes)


def _targets(axes, half: pd.DataFrame, plain: pd.DataFrame, targets: list[str]) -> None:
    """Which tensor is erased."""
    for target, colour, marker in zip(targets, COLOURS, MARKERS):
        of_target = half[(half["target"] == target) & (half["repair"] == "spared")]
        _point(axes, of_target, color=colour, marker=marker, label=target)
    _controls(axes, plain)
    _plane(axes, "what is erased (half of the neurons, to zero)")
    axes.legend(fontsize=7, loc="lower right")


def _choices(axes, plain: pd.DataFrame) -> None:
    """Which neurons are erased, and what they are filled with."""
    of_head = plain[(plain["target"] == "lm-head") & (plain["fraction"] == 0.5) & (plain["repair"] == "spared")]
    for neurons, colour in zip(dict.fromkeys(plain.loc[plain["neurons"] != "", "neurons"]), COLOURS):
        for fill, marker in zip(("zero", "init", "pretrained"), MARKERS):
            rows = of_head[(of_head["neurons"] == neurons) & (of_head["fill"] == fill)]
            if len(rows):
                _point(axes, rows, color=colour, marker=marker, label=f"{neurons}, {fill}")
    _controls(axes, plain, ("repair-only", "counterfactual"))
    _plane(axes, "which neurons of lm-head, filled with what")
    axes.legend(fontsize=7, loc="lower right")


def _fractions(axes, usual: pd.DataFrame, plain: pd.DataFrame, targets: list[str], metric: str, name: str) -> None:
    """A metric over the share of neurons erased, for targets of three shares or more."""
    options = {"capsize": 2, "elinewidth": 0.8, "markersize": 5}
    of_metric = usual[(usual["metric"] == metric) & (usual["method"] == "sani") & (usual["repair"] == "spared")]
    nothing = plain[(plain["metric"] == metric) & (plain["method"] == "repair-only") & (plain["repair"] == "spared")]
    for target, colour, marker in zip(targets, COLOURS, MARKERS):
        rows = of_metric[of_metric["target"] == target]
        if rows["fraction"].nunique() < 3:
            continue
        rows = pd.concat([nothing, rows]).sort_values("fraction")
        axes.errorbar(rows["fraction"], rows["value"], yerr=errors(rows), color=colour, marker=marker, label=target,
                      linewidth=1.3, **options)  # fmt: skip
    untied = plain[(plain["metric"] == metric) & (plain["method"] == "untied")]
    axes.errorbar(
        untied["fraction"] + 0.015, untied["value"], yerr=errors(untied), color=COLOURS[0], marker="D",
        markerfacecolor="white", linestyle="none", label="lm-head untied, not erased", **options,
    )  # fmt: skip
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("neurons erased (0: repair-only)")
    axes.set_ylabel(name)
    axes.set_title(f"how much is erased: {name}", fontsize=10)
    axes.legend(fontsize=7)
    light_grid(axes)


def ablation(table: pd.DataFrame) -> Figure:
    """Trade-offs of targets, choices, fractions, of erasing and repairing; and what chance does. A row per seed."""
    mean = summary(table)
    plain = mean[(mean["mask_seed"] == 0) & (mean["repair_seed"] == 0)]
    usual = plain[(plain["fill"] == "zero") & (plain["neurons"] == "random")]
    half = usual[usual["fraction"] == 0.5]
    figure = Figure(figsize=(11, 13.5), layout="constrained")
    grid = figure.subplots(3, 2)
    targets = list(dict.fromkeys(half.loc[half["method"] == "sani", "target"]))

    _targets(grid[0, 0], half, plain, targets)
    _choices(grid[0, 1], plain)
    _fractions(grid[1, 0], usual, plain, targets, LEAK, "listed terms regurgitated")
    _fractions(grid[1, 1], usual, plain, targets, KNOWS, "utility")
    _erasing_and_repairing(grid[2, 0], half, plain)
    _chance(grid[2, 1], table)

    at = half[half["method"].eq("sani") & half["target"].eq("lm-head") & half["repair"].eq("spared")]
    at = at.set_index("metric")["value"]
    only = plain[plain["method"].eq("repair-only") & plain["repair"].eq("spared")].set_index("metric")["value"]
    figure.suptitle(
        f"SANI on lm-head: {at[LEAK]:.1%} regurgitated, utility {at[KNOWS]:.3f}; without erasing {only[LEAK]:.1%}, "
        f"{only[KNOWS]:.3f}\n({over_seeds(mean)})", fontsize=11,
    )  # fmt: skip
    return figure


def effects(table: pd.DataFrame) -> Figure:
    """Differences paired by seed, with their intervals: a row per comparison, a panel per metric."""
    whats = list(dict.fromkeys(zip(table["question"], table["what"])))
    figure = Figure(figsize=(11, 0.27 * len(whats) + 2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    place, labels, at, before = [], [], 0.0, None
    for question, what in whats:
        at += 1 if question == before else 1.9
        place.append(at)
        labels.append(what)
        if question != before:
            panels[0].text(0, at - 0.95, question, transform=panels[0].get_yaxis_transform(), fontsize=9,
                           fontweight="bold", ha="left", va="center")  # fmt: skip
        before = question
    colours = {"higher": COLOURS[2], "lower": COLOURS[1], "no difference that matters": "0.45"}
    table = table.assign(verdict=table["verdict"].str.split(",").str[0])
    for axes, metric in zip(panels, (LEAK, KNOWS)):
        rows = table[table["metric"] == metric].set_index(["question", "what"]).loc[whats]
        for y, row in zip(place, rows.itertuples()):
            decided = row.verdict in colours
            axes.errorbar(
                row.value, y, xerr=errors(row), marker="o", markersize=5, capsize=2,
                color=colours.get(row.verdict, "black"), markerfacecolor=None if decided else "white",
            )  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=0.02)
        axes.set_xlabel(f"difference in {metric}")
        light_grid(axes, "x")
    panels[0].set_yticks(place, labels, fontsize=8)
    panels[0].invert_yaxis()
    counts = table[table["metric"].isin([LEAK, KNOWS])]["verdict"].value_counts()
    said = ", ".join(f"{number} {name}" for name, number in counts.items())
    figure.suptitle(
        f"{said}\n(paired over {int(table['seeds'].max())} seeds, 95 % intervals; hollow: the data does not decide)",
        fontsize=11,
    )
    return figure


def distillation(table: pd.DataFrame) -> Figure:
    """Teachers, their students on either text, and small models trained themselves; panels per setting and metric."""
    settings = list(dict.fromkeys(table["setting"]))
    mean = summary(table)
    names = {"": "small, trained itself", "private": "student, private text", "public": "student, public text"}
    points = list(dict.fromkeys(zip(mean["size"], mean["text"], mean["method"])))
    figure = Figure(figsize=(11, (0.27 * len(points) + 0.9) * len(settings) + 1), layout="constrained")
    said = []
    for setting, panels in zip(settings, figure.subplots(len(settings), 2, sharey=True, squeeze=False)):
        rows = mean[mean["setting"] == setting].set_index(["metric", "size", "text", "method"]).sort_index()
        for axes, metric in zip(panels, (LEAK, KNOWS)):
            for y, (size, text, method) in enumerate(points):
                row = rows.loc[metric, size, text, method]
                axes.errorbar(
                    row["value"], y, xerr=errors(row), markersize=6, capsize=2, linestyle="none", **style_of(method)
                )
            groups = [(size, text) for size, text, _ in points]
            for y in (i - 0.5 for i in range(1, len(points)) if groups[i] != groups[i - 1]):
                axes.axhline(y, color="0.7", linewidth=0.8)
            axes.set_xlabel("listed terms regurgitated" if metric == LEAK else metric)
            axes.set_title(f"{setting}: {metric}", fontsize=10)
            light_grid(axes, "x")
        panels[0].xaxis.set_major_formatter(PercentFormatter(1.0))
        labels = ["teacher" if size == "teacher" else names[text] for size, text, _ in points]
        panels[0].set_yticks(
            range(len(points)), [f"{label}: {label_of(m)}" for label, (*_, m) in zip(labels, points)], fontsize=8
        )
        panels[0].set_ylim(len(points) - 0.5, -0.5)
        leak = rows.loc[LEAK, "value"]
        said += [
            f"{setting}: {name} teacher {leak['teacher', '', method]:.1%}, its students "
            f"{leak['student', 'private', method]:.1%} and {leak['student', 'public', method]:.1%}"
            for method, name in (("unprotected", "unprotected"), ("sani", "sanitised"))
        ]
    title = "Regurgitated by teachers and by students distilled on private and on public text"
    figure.suptitle("\n".join([title, *said, f"({over_seeds(mean)})"]), fontsize=10)
    return figure


def sweep(table: pd.DataFrame) -> Figure:
    """Methods against the swept parameters other than the seed, a panel for each of two metrics; a row per run."""
    mean = summary(table if "seed" in table else table.assign(seed=0))
    swept = [
        c for c in table.columns if c not in ("seed", "method", "metric", "context", "value", "low", "high", "table")
    ]
    mean["run"] = mean[swept].astype(str).agg(", ".join, axis=1)
    values = list(dict.fromkeys(mean["run"]))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, metric in zip(panels, ("regurgitation of direct identifiers", KNOWS)):
        rows = mean[(mean["metric"] == metric) & (mean["context"] == "visible")]
        for number, (method, of_method) in enumerate(rows.groupby("method", sort=False)):
            x = [values.index(v) + 0.04 * (number - 3) for v in of_method["run"]]
            axes.errorbar(x, of_method["value"], yerr=errors(of_method), capsize=2, linewidth=1.2,
                          label=label_of(method), **style_of(method))  # fmt: skip
        axes.set_xticks(range(len(values)), values)
        axes.set_xlabel(", ".join(swept))
        axes.set_ylabel(metric)
        light_grid(axes)
    figure.suptitle(f"{len(values)} values of {', '.join(swept)} ({over_seeds(mean)})", fontsize=11)
    legend_below(figure, [panels[0]])
    return figure
