"""What all drawings share: a colour and a marker per method, intervals, curves, grid and legend."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# One colour (Okabe–Ito) and one marker per method in every figure.
STYLE = {
    "unprotected": ("#D55E00", "X"),
    "mlm": ("#D55E00", "X"),
    "mlma": ("#882255", "<"),  # wine and indigo (Tol): the eight of Okabe and Ito do not reach
    "ppmlm": ("#332288", ">"),
    "sani": ("#009E73", "o"),
    "repair-only": ("#56B4E9", "^"),
    "pruning": ("#CC79A7", "s"),
    "base": ("#000000", "D"),
    "retrain-at-equal-cost": ("#0072B2", "P"),
    "counterfactual": ("#E69F00", "v"),
    "logit-filter": ("#999999", "*"),
    "untied-repair-only": ("#88CCEE", "p"),  # as the method without "untied", lighter or darker (Tol)
    "untied-pruning": ("#AA4499", "d"),
    "sani-tied": ("#117733", "h"),
}
STYLE |= {"clm": STYLE["mlm"], "clma": STYLE["mlma"], "ppclm": STYLE["ppmlm"]}
LABELS = {
    "mlm": "MLM (unprotected)",
    "mlma": "MLMA",
    "ppmlm": "PPMLM",
    "clm": "CLM (unprotected)",
    "clma": "CLMA",
    "ppclm": "PPCLM",
    "sani": "SANI",
    "retrain-at-equal-cost": "retrain at equal cost",
    "logit-filter": "logit filter",
    "untied-repair-only": "repair-only, untied",
    "untied-pruning": "pruning, untied",
    "sani-tied": "SANI, re-tied",
}

UNTIED = ("untied-repair-only", "untied-pruning", "sani-tied")  # of the reading lm-head, whose erasure unties it
CONTROLS = ("base", "counterfactual", "retrain-at-equal-cost", "logit-filter", *UNTIED)
BY = {"paper": "in place or elsewhere (paper)", "in_place": "in place (in_place)"}  # what a regurgitation is
LONG = {  # what is compared of models, as `study.grid` names it
    "paper of direct identifiers": "direct identifiers predicted\nin place or elsewhere (paper)",
    "regurgitation of direct identifiers": "direct identifiers predicted\nin place (in_place)",
    "exposure of names": "exposure of names, isolated",
    "utility": "utility: accuracy on other words",
}


def style_of(method: str) -> dict[str, Any]:
    """The colour and the marker of a method, as options of a plot."""
    colour, marker = STYLE[method]
    return {"color": colour, "marker": marker}


def label_of(method: str, target: str = "") -> str:
    """What a method is called in the figures; SANI with the target of its erasure."""
    name = LABELS.get(method, method)
    return f"{name} ({target})" if target and method == "sani" else name


def panels(size: tuple[float, float], rows: int = 1, columns: int = 1, **shared) -> tuple[Figure, Any]:
    """A figure and its panels, as `Figure.subplots` gives them."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **shared)


def errors(rows: Any, within: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """How far intervals reach below and above their values, (2, n), as `xerr` or `yerr`; 0 where there is none.

    `rows` have `value`, `low` and `high`: a table, or one of its rows. `within` is where such a value can lie, by
    default a share; an interval is cut there.
    """
    low, high = (np.clip(np.atleast_1d(end), *within) for end in (rows.low, rows.high))
    return np.nan_to_num(np.clip([rows.value - low, high - rows.value], 0, None))


def _face(colour: str, marker: str, _: str, ink: str) -> dict[str, Any]:
    """A verdict's mark, as options of a plot: full where its sign is written in white, hollow where in black."""
    return {"color": colour, "marker": marker, "markerfacecolor": colour if ink == "white" else "white"}


def mark(
    axes: Axes, x: float, y: float, look: tuple[str, str, str, str], size: float = 15, weight: str = "normal"
) -> None:
    """A verdict: a mark with a sign on it, told in grey too. look: colour, marker, sign and the sign's ink."""
    axes.plot(x, y, markersize=size, linestyle="none", **_face(*look))
    axes.text(x, y, look[2], ha="center", va="center_baseline", fontsize=11, color=look[3], fontweight=weight)


def legend_of_marks(figure: Figure, looks: Mapping[str, tuple[str, str, str, str]]) -> None:
    """One legend below a figure: what each mark means, by label."""
    handles = [
        Line2D([], [], linestyle="none", markersize=9, label=label, **_face(*look)) for label, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def points(axes: Axes, x, y, **options) -> None:
    """Points with intervals, which `xerr` and `yerr` among the options of a plot give."""
    axes.errorbar(x, y, **{"linestyle": "none", "capsize": 2, "elinewidth": 0.8} | options)


def curve(axes: Axes, rows: pd.DataFrame, method: str, sign: int = 1, **options) -> None:
    """A curve over epochs with its intervals; `sign` −1 draws 1 − value."""
    rows = rows.sort_values("epoch")
    if sign < 0:
        rows = rows.assign(value=1 - rows["value"], low=1 - rows["high"], high=1 - rows["low"])
    options = style_of(method) | {"linestyle": "-", "linewidth": 1.4, "markersize": 5} | options
    points(axes, rows["epoch"], rows["value"], yerr=errors(rows), **options)


def dress(axes: Axes, x: str = "", y: str = "", title: str = "", grid: str = "both") -> None:
    """The labels of a panel, and a thin grid behind what is drawn."""
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=10)
    axes.grid(axis=grid, linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, shown: Iterable[Axes], columns: int = 5) -> None:
    """One legend below a figure, each label of some of its panels once."""
    found = {}
    for axes in shown:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    where = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(found.values(), found.keys(), **where)


def finish(figure: Figure, title: str, table: pd.DataFrame, shown: Sequence[Axes] = (), columns: int = 5) -> Figure:
    """The figure with its title, with what the intervals of its table are over, and with a legend of some panels."""
    figure.suptitle(f"{title}\n({over_seeds(table)})", fontsize=11)
    if len(shown):
        legend_below(figure, shown, columns)
    return figure


def over_seeds(table: pd.DataFrame) -> str:
    """What the intervals of a table are over, for a title."""
    seeds, some = int(table["seeds"].max()), table.get("low", table["value"]).notna().any()
    if seeds > 1:
        return f"{seeds} seeds, 95 % intervals over seeds"
    return "one seed, 95 % bootstrap intervals over records" if some else "one seed"
