"""The drawings over epochs, each from one table: fine-tuning, and PAPER Figures 2 and 5."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics import MEASURES
from ..tables import EXPOSURES, endpoints, has, objectives, pick, value_of
from .style import CONTROLS, STYLE, curve, dress, finish, label_of, panels

# Where the parts of an axis of epochs begin and end, by its width. What is measured is evenly spaced within them: on a
# scale of epochs the unlearning, which is what there is to see, would be a sixth of it.
TRAINED, UNLEARNED, CONTROLLED = (0.0, 0.22), (0.29, 0.77), (0.84, 1.0)
GREY = (0.255, 0.805)


class Panel(NamedTuple):
    """What a panel shows, from which start."""

    start: str
    metric: str
    kind: str = "none"
    context: str = "visible"

    def title(self) -> str:
        if self.metric in MEASURES:
            return f"1 − {self.metric}, {self.kind} identifiers"
        if self.metric in EXPOSURES:
            return f"{EXPOSURES[self.metric]}, isolated"
        return {"utility": "accuracy on other words", "utility_all": "accuracy on all words"}[self.metric]

    def name(self) -> str:
        """What the vertical axis is of."""
        return "(a) privacy" if self.metric in MEASURES else "exposure" if self.metric in EXPOSURES else "(b) utility"


def _layout(table: pd.DataFrame, starts: Sequence[str]) -> list[list[Panel]]:
    """The panels in pairs, of which a row shares its range: privacy by kind of identifier, exposure, utility."""
    raw, *others = starts
    measures = [m for m in MEASURES if has(table, m, "direct")]
    shown = [(raw, "direct"), (raw, "indirect"), *((other, "indirect") for other in others)]
    privacy = [Panel(start, m, kind) for start, kind in shown for m in measures]
    exposure = [Panel(raw, m, "names", "isolated") for m in EXPOSURES if has(table, m, "names", "isolated")]
    utility = [Panel(start, "utility") for start in starts]
    if not others and has(table, "utility_all"):
        utility.append(Panel(raw, "utility_all"))
    return [part[i : i + 2] for part in (privacy, exposure, utility) for i in range(0, len(part), 2)]


def _grid(layout: list[list[Panel]]) -> tuple[Figure, list[tuple[Axes, Panel]]]:
    """A figure of rows of two, each row of one range, and its panels with what they show."""
    figure, grid = panels((10.5, 1.9 + 2.45 * len(layout)), len(layout), 2, sharey="row", squeeze=False)
    for row, shown in zip(grid, layout):
        for axes in row[len(shown) :]:
            axes.set_axis_off()
    return figure, [(axes, panel) for row, shown in zip(grid, layout) for axes, panel in zip(row, shown)]


def _draw(axes: Axes, rows: pd.DataFrame, panel: Panel, method: str, label: str = "", **options) -> None:
    """A method's curve, over rows whose epochs are places on the axis."""
    rows = pick(rows, panel.metric, panel.kind, panel.context, method=method)
    if rows["value"].notna().any():
        sign = -1 if panel.metric in MEASURES else 1
        curve(axes, rows.dropna(subset="epoch"), method, sign, label=label or label_of(method), **options)


def _level(axes: Axes, ends: pd.DataFrame, panel: Panel) -> None:
    """The base model's level of a privacy, and the exposure of what is not remembered."""
    style = {"linewidth": 1, "linestyle": ":", "zorder": -1}
    if panel.metric in MEASURES:
        guessed = value_of(ends, panel.metric, panel.kind, panel.context, method="base")
        axes.axhline(1 - guessed, color=STYLE["base"][0], **style)
    elif panel.metric in EXPOSURES:
        axes.axhline(0.5, color="0.4", **style)


def _spread(epochs: Sequence[float], part: tuple[float, float]) -> dict[float, float]:
    """Places of epochs, evenly over a part of an axis."""
    first, last = part
    return {epoch: first + (last - first) * n / max(1, len(epochs) - 1) for n, epoch in enumerate(sorted(set(epochs)))}


def _found(ends: pd.DataFrame, metric: str, kind: str, context: str, runs: dict[str, dict], sign: int) -> str:
    """The values of some runs at their end, for a title; of privacy (sign −1), 1 − them."""
    values = {name: value_of(ends, metric, kind, context, **run) for name, run in runs.items()}
    return ", ".join(f"{1 - value if sign < 0 else value:.3f} {name}" for name, value in values.items())


def _said(ends: pd.DataFrame, runs: dict[str, dict]) -> str:
    """What a title says of direct identifiers, by each measure, and of rare names."""
    lines = [
        f"Privacy of direct identifiers, 1 − {m}: {_found(ends, m, 'direct', 'visible', runs, -1)}"
        for m in MEASURES if has(ends, m, "direct")
    ]  # fmt: skip
    if has(ends, "exposure_rare", "names", "isolated"):
        lines.append(f"Exposure of rare names: {_found(ends, 'exposure_rare', 'names', 'isolated', runs, 1)}")
    return "\n".join(lines)


def fine_tune(table: pd.DataFrame) -> Figure:
    """Privacy and utility while MLM, MLMA and PPMLM are fine-tuned (PAPER Figure 2, its left part)."""
    trained, ends = objectives(table), endpoints(table)
    figure, shown = _grid(_layout(table, trained[:1]))
    for axes, panel in shown:
        for method in trained:
            _draw(axes, table, panel, method)
        _level(axes, ends, panel)
        dress(axes, "epochs of fine-tuning (0: the base model)", panel.name(), panel.title())
        axes.label_outer()
    runs = {"base": {"method": "base"}} | {label_of(method): {"method": method} for method in trained}
    return finish(figure, _said(ends, runs), table, [shown[0][0]])


def frame(table: pd.DataFrame) -> Figure:
    """PAPER Figures 2 and 5: privacy (a) and utility (b) over fine-tuning and unlearning, and the controls' ends."""
    raw, pseudonymized, spared = objectives(table)
    starts = [raw, pseudonymized][: 1 + (pseudonymized in set(table["start"]))]
    trained = pick(table, "utility", method=raw, start="")["epoch"]
    end, ends = trained.max(), endpoints(table)
    repaired = pick(table, "utility", method="repair-only", start=raw)["epoch"]
    ticks, after = _spread(trained, TRAINED), _spread(repaired, UNLEARNED)
    figure, shown = _grid(_layout(table, starts))
    fine_tuned = table[table["start"] == ""].assign(epoch=lambda rows: rows["epoch"].map(ticks))
    unlearned = table[table["start"] != ""].assign(epoch=lambda rows: rows["epoch"].map(after))
    for axes, panel in shown:
        for method in (panel.start, *([pseudonymized] if len(starts) == 1 else []), spared):
            _draw(axes, fine_tuned, panel, method)
        of_start = unlearned[unlearned["start"] == panel.start]
        for method, target in (("repair-only", ""), ("pruning", ""), ("sani", "lm-head")):
            rows = of_start[of_start["target"] == target]
            _draw(axes, rows, panel, method, label_of(method, target), linestyle="--")
        for method, place in zip(CONTROLS, _spread(range(len(CONTROLS)), CONTROLLED).values()):
            rows = ends[ends["start"].isin(["", panel.start])]
            _draw(axes, rows.assign(epoch=place), panel, method, linestyle="none")
        _level(axes, ends, panel)
        axes.axvspan(*GREY, color="0.93", zorder=-2)
        axes.set_xlim(-0.02, 1.02)
        told = [f"{e:g}" if e == 0 or n % 2 else "" for n, e in zip(range(len(ticks), 0, -1), ticks)]
        names = [*told, *(f"{e - end:g}" for e in after), "controls"]
        axes.set_xticks([*ticks.values(), *after.values(), sum(CONTROLLED) / 2], names, fontsize=8.5)
        dress(axes, y=panel.name(), title=f"{panel.title()}, from {panel.start.upper()}")
        axes.label_outer(remove_inner_ticks=False)
        axes.tick_params(labelbottom=True)
    for axes, _ in shown[-2:]:
        axes.set_xlabel("epochs of fine-tuning, then (grey) of unlearning, evenly spaced")
    runs = {
        "unprotected": {"method": raw},
        "repair-only": {"method": "repair-only", "start": raw},
        label_of("sani", "lm-head"): {"method": "sani", "start": raw, "target": "lm-head"},
        label_of(spared): {"method": spared},
    }
    return finish(figure, _said(ends, runs), table, [axes for axes, _ in shown])
