"""The numbers of a report: what a model says of a text, a row per measure, with an interval where it has one."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import PreTrainedModel

from ..evaluation import Report, evaluate
from ..exposure import NAMES
from ..models import family
from ..predictions import layout, passes, portions
from ..resampling import draws, interval

# metric and context of `evaluation.Report.counts`, in the order of a report.
TAKEN = (
    ("paper", "visible"),
    ("in_place", "visible"),
    ("in_place", "isolated"),
    ("elsewhere_sensitive", "visible"),
    ("elsewhere_ordinary", "visible"),
    ("exposure", "isolated"),
    ("exposure_rare", "isolated"),
    ("utility", "visible"),
)
BOUNDED = ("in_place", "exposure", "exposure_rare", "utility")  # have a bootstrap interval over records


@torch.inference_mode()
def negative_log_likelihood(
    model: PreTrainedModel, blocks: Dataset, seed: int = 0, progress: bool = True
) -> tuple[float, float, float, int]:
    """Mean −log p in nats of the tokens outside the blacklist, its 95 % interval over records, and their number.

    Of masked models each where its word is masked, as `evaluate` masks it (a pseudo-likelihood); of causal ones given
    the true tokens before it. A logit filter is not looked at. NaN where no such token stands.
    """
    units, causal = layout(blocks, seed), family(model).causal
    listed = units.columns["sensitive"] > 0
    work = [one._replace(chosen=one.chosen & ~listed) for one in passes(units, causal, ("visible",))]
    found = torch.zeros(listed.shape, dtype=torch.float64)
    for part in portions(model, blocks, work, 32, "likelihood", progress):
        truth = units.columns["input_ids"][part.rows][part.chosen].to(part.output.device)
        loss = F.cross_entropy(part.output.float(), truth, reduction="none").double().cpu()
        found[part.rows] = found[part.rows].masked_scatter(part.chosen, loss)
    ordinary = ~listed.view(-1).numpy()[units.tokens["position"]]
    loss = found.view(-1).numpy()[units.tokens["position"]][ordinary]
    record = units.table["record_id"].to_numpy()[units.tokens["unit"]][ordinary]
    if not len(loss):
        return math.nan, math.nan, math.nan, 0
    _, of = np.unique(record, return_inverse=True)
    sums = np.column_stack((np.bincount(of, loss), np.bincount(of)))
    return float(loss.mean()), *interval(draws(sums)), len(loss)


def measured(model: PreTrainedModel, blocks: Dataset, seed: int = 0, progress: bool = True) -> list[dict]:
    """What a report tells of a model on some blocks: rows of kind, metric, context, units, value, low, high.

    Metrics as in `evaluation.Report.counts` (of the spans that are scored), and `nll`. Where no annotated type is a
    name's, exposure is that of all listed terms. `units`: how many were measured; None for what has no value.
    """
    report = evaluate(model, blocks, seed=seed, progress=progress)
    counts = report.counts[(report.counts["spans"] == "scored") | (report.counts["kind"] == "none")]
    named = "names" if report.units["type"].isin(NAMES).any() else "all"
    rows = []
    for metric, context in TAKEN:
        of = counts[(counts["metric"] == metric) & (counts["context"] == context)]
        if metric.startswith("exposure"):
            of = of[of["kind"] == named]
        for row in of.itertuples():
            units = row.count if metric.startswith("exposure") else row.total
            interval = _interval(report, row) if units and metric in BOUNDED else (math.nan, math.nan)
            rows.append(_row(row.kind, metric, context, units, row.value, *interval))
    value, low, high, tokens = negative_log_likelihood(model, blocks, seed, progress)
    return [*rows, _row("none", "nll", "visible", tokens, value, low, high)]


def _interval(report: Report, row) -> tuple[float, float]:
    return report.interval(row.metric, "all" if row.kind == "none" else row.kind, context=row.context)


def _row(kind: str, metric: str, context: str, units: int, value: float, low: float, high: float) -> dict:
    numbers = {"value": value, "low": low, "high": high}
    told = {name: float(number) if math.isfinite(number) else None for name, number in numbers.items()}
    return {"kind": kind, "metric": metric, "context": context, "units": int(units), **told}


def found(rows: list[dict], metric: str, kind: str, context: str = "visible") -> dict | None:
    """The row of a measure, if it has a value."""
    rows = [row for row in rows if (row["metric"], row["kind"], row["context"]) == (metric, kind, context)]
    return rows[0] if rows and rows[0]["value"] is not None else None
