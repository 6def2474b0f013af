"""Figures, each drawn from its CSV alone: `python -m sani.results.figures` redraws them all."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import PIL.Image
from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from ..runs import figure_file, figures_folder, runs_folder
from .drawings.ablation import ablation, distillation, effects, sweep
from .drawings.audit import audit
from .drawings.claims import claims
from .drawings.demo import demo
from .drawings.erasure import erasure
from .drawings.exposure import exposure
from .drawings.frames import fine_tune, frame
from .drawings.identifiers import contexts, memory, recall, sani, tradeoff
from .drawings.methods import methods
from .drawings.pretrained import cost, frequency, generation, unlearning
from .drawings.rates import rates
from .drawings.requests import requests
from .drawings.style import LONG, STYLE, dress, errors, label_of, panels, points, style_of

SETTINGS = {"svg.hashsalt": "sani", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def quickstart_table(reports: Mapping[str, Any]) -> pd.DataFrame:
    """A row per method and metric, with 95 % bootstrap intervals over records (NaN where none is computed).

    `reports`: a `sani.Report` by method. Columns: method, metric, context, value, low, high.
    """
    rows = []
    for method, report in reports.items():
        for kind, context in (("direct", "visible"), ("direct", "isolated"), ("indirect", "visible")):
            value = report.value("in_place", kind=kind, context=context)
            interval = report.interval("in_place", kind=kind, context=context)
            rows.append((method, f"regurgitation of {kind} identifiers", context, value, *interval))
        rows.append((method, "paper of direct identifiers", "visible", report.value("paper", "direct"), None, None))
        of_names = report.counts["kind"].eq("names") & report.counts["value"].notna()
        for metric, name in (("exposure", "exposure of names"), ("exposure_rare", "exposure of rare names")):
            if (of_names & report.counts["metric"].eq(metric)).any():
                asked = {"kind": "names", "context": "isolated"}
                value, interval = report.value(metric, **asked), report.interval(metric, **asked)
                rows.append((method, name, "isolated", value, *interval))
        rows.append((method, "utility", "visible", report.utility, *report.interval("utility")))
        heldout = report.counts.loc[report.counts["metric"] == "utility_heldout", "value"]
        rows += [(method, "utility on other persons", "visible", value, None, None) for value in heldout]
    return pd.DataFrame(rows, columns=["method", "metric", "context", "value", "low", "high"])


def quickstart(table: pd.DataFrame) -> Figure:
    """Regurgitation of direct identifiers, exposure of names and utility of each method, with intervals."""
    at = table.set_index(["method", "metric", "context"])["value"]
    paper, leak, rank, knows = LONG
    before, after, chance = (at[m, leak, "visible"] for m in ("unprotected", "sani", "counterfactual"))
    methods = [m for m in STYLE if m in set(table["method"])][::-1]
    shown = [metric for metric in (leak, rank, knows) if metric in set(table["metric"])]
    marks = {  # which panel, how far from the middle of the row, and what the marker is like
        (leak, "visible"): (leak, 0.14, {}), (leak, "isolated"): (leak, -0.16, {"markerfacecolor": "white"}),
        (paper, "visible"): (leak, 0.38, {"marker": "x"}), (rank, "isolated"): (rank, 0, {}),
        (knows, "visible"): (knows, 0, {}),
    }  # fmt: skip
    with matplotlib.rc_context(SETTINGS):
        figure, row = panels((9 if len(shown) == 2 else 11, 0.42 * len(methods) + 1.7), 1, len(shown), sharey=True)
        on = dict(zip(shown, row))
        for found in table.itertuples():
            if (found.metric, found.context) in marks:
                metric, shift, face = marks[found.metric, found.context]
                style = style_of(found.method) | {"markersize": 7, "elinewidth": 1.2} | face
                points(on[metric], found.value, methods.index(found.method) + shift, xerr=errors(found), **style)
        row[0].set_yticks(range(len(methods)), [label_of(m, "lm-head") for m in methods])
        on[leak].set_xlim(left=min(0, on[leak].get_xlim()[0]))
        on[leak].xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        also = "; ×: or elsewhere" if paper in set(table["metric"]) else ""
        dress(on[leak], f"{LONG[leak]}\n(filled: visible; hollow: isolated{also})", grid="x")
        for metric in shown[1:]:
            dress(on[metric], LONG[metric], grid="x")
        figure.suptitle(
            f"SANI (lm-head): direct identifiers predicted {before:.1%} → {after:.1%} (chance level {chance:.1%}); "
            f"utility {at['unprotected', knows, 'visible']:.3f} → {at['sani', knows, 'visible']:.3f}",
            fontsize=11,
        )
    return figure


def show(name: str, alt: str, setting: str = "tiny", command: str = "") -> Image | Markdown:
    """A picture of figures/ for a notebook, or the command that makes it: by default the ledger of its setting."""
    path = figure_file(f"{name}.png")
    if path.exists():
        return Image(str(path), alt=alt)
    command = command or f"python -m sani.study ledger --setting {setting}"
    return Markdown(f"*`figures/{name}.png` is not there yet; `{command}` makes it.*")


def present(name: str, table: pd.DataFrame, alt: str) -> Image:
    """A notebook's own figure: its table, .svg and .png written to SANI_FIGURES or beside the runs, and the picture."""
    folder = figures_folder() if os.environ.get("SANI_FIGURES") else runs_folder() / "figures"
    save(name, table, folder)
    return Image(str(folder / f"{name}.png"), alt=alt)


def bars(table: pd.DataFrame) -> Figure:
    """Horizontal bars: a row per `name`, a panel per numeric column."""
    columns = [c for c in table.columns if c not in ("name", "title")]
    figure, (row,) = panels((9, 0.34 * len(table) + 1.6), 1, len(columns), sharey=True, squeeze=False)
    for axes, column in zip(row, columns):
        drawn = axes.barh(table["name"], table[column], color="#0072B2")
        axes.bar_label(drawn, fmt="{:,.4g}", padding=2, fontsize=8)
        axes.set_xlabel(column)
        axes.margins(x=0.2)
    axes.invert_yaxis()
    figure.suptitle(table["title"].iloc[0], fontsize=11)
    return figure


DRAWINGS = (
    quickstart, fine_tune, sani, recall, contexts, frame, tradeoff, memory, exposure, unlearning, frequency, generation,
    cost, ablation, effects, sweep, distillation, demo, erasure, claims, rates, audit, methods, requests,
)  # fmt: skip
# What draws a table, by how its name ends.
DRAW = {drawing.__name__: drawing for drawing in DRAWINGS} | {
    "data_prep": bars,
    "blacklist": bars,
    "your_own_model": bars,
}


def save(name: str, table: pd.DataFrame, folder: Path | None = None) -> Figure:
    """Write figures/<name>.csv, then .svg and .png drawn from that file as read back; returns the figure."""
    folder = figures_folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")
    return redraw(name, folder)


def read(name: str, folder: Path | None = None) -> pd.DataFrame:
    """The table figures/<name>.csv; an empty cell in a column of names is an empty name."""
    table = pd.read_csv(
        figure_file(f"{name}.csv") if folder is None else folder / f"{name}.csv", converters={"prediction": str}
    )
    empty = [
        c for c in ("start", "target", "subset", "scope", "fill", "neurons", "repair", "text", "listed") if c in table
    ]
    return table.astype(dict.fromkeys(empty, object)).fillna(dict.fromkeys(empty, ""))


def redraw(name: str, folder: Path | None = None) -> Figure:
    """Draw figures/<name>.svg and .png from figures/<name>.csv; the same bytes for the same table and libraries."""
    folder = figures_folder() if folder is None else folder
    draw = next(draw for ending, draw in DRAW.items() if name.endswith(ending))
    figure = draw(read(name, folder))
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(picture := io.BytesIO(), format="png", dpi=120, metadata={"Software": None})
    # A palette makes the picture, and the notebook that shows it, a quarter of the size.
    PIL.Image.open(picture).convert("RGB").quantize(
        96, PIL.Image.Quantize.FASTOCTREE, dither=PIL.Image.Dither.NONE
    ).save(folder / f"{name}.png", optimize=True)
    return figure


if __name__ == "__main__":
    for path in sorted(figures_folder().glob("*.csv")):
        if path.stem.endswith(tuple(DRAW)):
            redraw(path.stem)
            print(f"{path.stem} redrawn")
