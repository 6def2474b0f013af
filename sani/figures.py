"""Figures, each drawn from its CSV alone: `python -m sani.figures` redraws them all."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from .evaluation import Report
from .paths import figures

# One colour (Okabe–Ito) and one marker per method in every figure.
STYLE = {
    "unprotected": ("#D55E00", "X"),
    "sani": ("#009E73", "o"),
    "repair-only": ("#56B4E9", "^"),
    "pruning": ("#CC79A7", "s"),
    "base": ("#000000", "D"),
    "retrain-at-equal-cost": ("#0072B2", "P"),
    "counterfactual": ("#E69F00", "v"),
    "logit-filter": ("#999999", "*"),
}
LABELS = {"sani": "SANI", "retrain-at-equal-cost": "retrain at equal cost", "logit-filter": "logit filter"}
SETTINGS = {"svg.hashsalt": "sani", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """`study.results` without its seeds: mean and 95 % interval of each value, a row each.

    Over two or more seeds the interval is Student's t; for one it is the bootstrap over records, where computed.
    """
    keys = [c for c in results.columns if c not in ("seed", "value", "low", "high")]
    table = (
        results.groupby(keys, sort=False, dropna=False)
        .agg(
            value=("value", "mean"),
            sd=("value", "std"),
            low=("low", "mean"),
            high=("high", "mean"),
            seeds=("seed", "nunique"),
        )
        .reset_index()
    )
    several = table["seeds"] > 1
    half = stats.t.ppf(0.975, table["seeds"].clip(lower=2) - 1) * table["sd"] / table["seeds"] ** 0.5
    table["low"] = table["low"].where(~several, table["value"] - half)
    table["high"] = table["high"].where(~several, table["value"] + half)
    return table.drop(columns="sd")


def quickstart_table(reports: Mapping[str, Report]) -> pd.DataFrame:
    """A row per method and metric, with 95 % bootstrap intervals over records (NaN where none is computed)."""
    rows = []
    for method, report in reports.items():
        for metric, context, column in (
            ("regurgitation of direct identifiers", "visible", "in_place"),
            ("regurgitation of direct identifiers", "isolated", "in_place_isolated"),
        ):
            value = report.value("in_place", kind="direct", context=context)
            rows.append((method, metric, context, value, *report.interval(column, kind="direct")))
        value = report.value("in_place", kind="indirect")
        rows.append((method, "regurgitation of indirect identifiers", "visible", value,
                     *report.interval("in_place", kind="indirect")))  # fmt: skip
        rows.append((method, "utility", "visible", report.utility, *report.interval("utility")))
        heldout = report.counts.loc[report.counts["metric"] == "utility_heldout", "value"]
        rows += [(method, "utility on other persons", "visible", value, None, None) for value in heldout]
    return pd.DataFrame(rows, columns=["method", "metric", "context", "value", "low", "high"])


def quickstart(table: pd.DataFrame) -> Figure:
    """Regurgitation of direct identifiers and utility of each method, with intervals."""
    at = table.set_index(["method", "metric", "context"])["value"]
    leak = "regurgitation of direct identifiers"
    before, after, chance = (at[m, leak, "visible"] for m in ("unprotected", "sani", "counterfactual"))
    title = (
        f"SANI: identifiers regurgitated {before:.1%} → {after:.1%} (chance level {chance:.1%}); "
        f"utility {at['unprotected', 'utility', 'visible']:.3f} → {at['sani', 'utility', 'visible']:.3f}"
    )
    methods = [m for m in STYLE if m in set(table["method"])][::-1]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9, 0.42 * len(methods) + 1.7), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, metric in ((left, leak), (right, "utility")):
            rows = table[table["metric"] == metric]
            for row in rows.itertuples():
                colour, marker = STYLE[row.method]
                shift = {"visible": 0.12, "isolated": -0.16}[row.context] if metric == leak else 0
                filled = row.context == "visible"
                axes.errorbar(
                    row.value, methods.index(row.method) + shift, xerr=[[row.value - row.low], [row.high - row.value]],
                    color=colour, marker=marker, markersize=7, markerfacecolor=colour if filled else "white",
                    capsize=2, linewidth=1.2,
                )  # fmt: skip
            axes.grid(axis="x", linewidth=0.4, alpha=0.6)
            axes.set_axisbelow(True)
        left.set_yticks(range(len(methods)), [LABELS.get(m, m) for m in methods])
        left.set_xlim(left=min(0, left.get_xlim()[0]))
        left.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        left.set_xlabel("direct identifiers predicted whole, in place\n(filled: visible; hollow: isolated)")
        right.set_xlabel("utility: token accuracy outside the blacklist")
        figure.suptitle(title, fontsize=11)
    return figure


DRAW = {"00_quickstart": quickstart}


def save(name: str, table: pd.DataFrame, folder: Path | None = None) -> Figure:
    """Write figures/<name>.csv, then .svg and .png drawn from that file as read back; returns the figure."""
    folder = figures() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")
    return redraw(name, folder)


def redraw(name: str, folder: Path | None = None) -> Figure:
    """Draw figures/<name>.svg and .png from figures/<name>.csv; the same bytes for the same table and libraries."""
    folder = figures() if folder is None else folder
    figure = DRAW[name](pd.read_csv(folder / f"{name}.csv"))
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})
    return figure


if __name__ == "__main__":
    for figure_name in DRAW:
        redraw(figure_name)
        print(f"{figure_name} redrawn")
