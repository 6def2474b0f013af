"""What is measured of each model of a study, a row per value: regurgitation, utility, other contexts (PAPER §5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel

from ..attacks.generation import free_generation
from ..attacks.prompts import bare_prompts
from ..evaluation import Report, evaluate
from ..predictions import layout, predict
from .downstream import emotion_f1
from .prepare import Data
from .setting import Setting

MISSED = (0.05, 0.1, 0.2, 0.5)
INTERVALS = (
    ("in_place", "all", "visible"), ("in_place", "direct", "visible"), ("in_place", "indirect", "visible"),
    ("in_place", "all", "isolated"), ("utility", "none", "visible"), ("exposure", "names", "visible"),
    ("exposure", "names", "isolated"), ("exposure_rare", "names", "isolated"), ("exposure", "indirect", "isolated"),
)  # fmt: skip
CLASSIFIERS = 5  # trained on each encoder, since one training varies more than the claim B3 allows
SAMPLES = {"samples": 100, "length": 48}  # of free generation


def measure(setting: Setting, data: Data, thorough: Sequence[int], model: PreTrainedModel, epoch: int) -> list[dict]:
    """A row per measured value of a model, for `fine_tune`; more of them at `thorough` epochs.

    Keys of a row: subset, metric, kind, context, value, and low and high where the 95 % bootstrap interval over
    records is computed. Subsets: "" for everything; "kept out" records, "kept out only" terms that stand in no other;
    "missed 0.05" for the terms that a blacklist with that share missing lacks; "again" for new records of the same
    persons; "pseudonymized" for the text without direct identifiers; "prompts" for bare ones; "generated" for free
    generation by causal models; "term 7" (by number) and "emotions" in use case B.
    """
    full = epoch in thorough
    report = evaluate(model, data.raw, heldout=data.heldout if full else None, progress=False)
    rows = _whole(report) + (_contexts(setting, data, model, report) if full else [])
    if setting.use_case == "B":
        for term in report.terms.to_dict("records"):
            of_term = f"term {term['term_id']}"
            rows += [_row(of_term, "iterations", term["iterations"]), _row(of_term, "predicted", term["in_place"])]
    if setting.use_case == "B" and data.emotions is not None:
        options = {"learning_rate": setting.classifier_learning_rate, "progress": False}
        seeds = [CLASSIFIERS * data.seed + i for i in range(CLASSIFIERS)]
        scores = pd.DataFrame([emotion_f1(model, data.tokenizer, *data.emotions, seed=s, **options) for s in seeds])
        for average in scores:
            rows.append(_row("emotions", f"f1_{average}", scores[average].mean(), "none"))
            rows.append(_row("emotions", f"f1_{average}_sd", scores[average].std(), "none"))
    return rows


def _row(subset: str, metric: str, value: float, kind: str = "all", context: str = "visible") -> dict:
    return {"subset": subset, "metric": metric, "kind": kind, "context": context, "value": value}


def _whole(report: Report) -> list[dict]:
    """What was counted over the whole text, some of it with intervals, also of kinds that do not occur."""
    table = report.counts
    scored = table[(table["spans"] == "scored") | (table["kind"] == "none")]
    rows = {(r.metric, r.kind, r.context): _row("", r.metric, r.value, r.kind, r.context) for r in scored.itertuples()}
    for metric, kind, context in INTERVALS:
        low, high = report.interval(metric, kind, context=context)
        row = rows.setdefault((metric, kind, context), _row("", metric, float("nan"), kind, context))
        row |= {"low": low, "high": high}
    return list(rows.values())


def _contexts(setting: Setting, data: Data, model: PreTrainedModel, report: Report) -> list[dict]:
    """Parts of the text, and what is asked outside of it."""
    rows = []
    for name, chosen in _subsets(data, report.units).items() if setting.with_gaps else ():
        rows += _rates(name, report.units, chosen)
    if data.again is not None:
        units = evaluate(model, data.again, progress=False).units
        rows += _rates("again", units, np.ones(len(units), dtype=bool))
    if setting.use_case == "A":
        rows.append(_row("pseudonymized", "utility", _accuracy(model, data.pseudonymized), "none"))
        asked = bare_prompts(model, data.tokenizer, data.corpus, data.blacklist)
        single = asked[asked["tokens"] == 1]
        rows.append(_row("prompts", "predicted", asked["said"].mean()))
        rows.append(_row("prompts", "in_top", single["in_top"].sum() / max(1, single["terms"].sum())))
    for start, texts in (("prefix", data.corpus["text"]), ("nothing", [])) if setting.causal else ():
        samples = free_generation(model, data.tokenizer, data.blacklist, texts, **SAMPLES, progress=False)
        rows.append(_row("generated", "hits", samples["hits"].mean(), context=start))
        rows.append(_row("generated", "terms", samples.attrs["terms"], context=start))
    return rows


def _accuracy(model: PreTrainedModel, blocks: Dataset) -> float:
    """Token accuracy outside of listed terms."""
    units = layout(blocks, 0)
    found = predict(model, units, blocks, 32, progress=False, contexts=("visible",))["visible"]
    ordinary = (units.table["term_id"] < 0).to_numpy()[units.tokens["unit"]]
    return float((found == units.tokens["id"])[ordinary].mean())


def _rates(subset: str, units: pd.DataFrame, chosen: np.ndarray) -> list[dict]:
    """Share predicted in place among chosen units of a report, by kind and context; NaN where there are none."""
    rows = []
    for kind in ("direct", "indirect", "all"):
        of_kind = units[chosen & units["scored"] & (units["kind"].eq(kind) | (kind == "all"))]
        for context, column in (("visible", "in_place"), ("isolated", "in_place_isolated")):
            rows.append(_row(subset, "in_place", of_kind[column].mean(), kind, context))
    return rows


def _subsets(data: Data, units: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which units (boolean) belong to what was kept out of a repair, and to the terms that a blacklist misses."""
    kept_out = units["record_id"].isin(data.kept_out).to_numpy()
    elsewhere = set(units.loc[~kept_out, "term_id"])
    subsets = {"kept out": kept_out, "kept out only": kept_out & ~units["term_id"].isin(elsewhere).to_numpy()}
    for share in MISSED:
        missed = data.blacklist.ids(data.blacklist - data.blacklist.without(share, data.seed))
        subsets[f"missed {share:g}"] = units["term_id"].isin(missed).to_numpy()
    return subsets
