"""What is measured of each model of a study, as one flat mapping: regurgitation, utility, other contexts (PAPER §5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from .downstream import emotion_f1
from .evaluation import evaluate
from .material import Data, Setting
from .probes import bare_prompts, free_generation, subset_rates

MISSED = (0.05, 0.1, 0.2, 0.5)
SAMPLES = {"samples": 100, "length": 48}  # of free generation


def measure(setting: Setting, data: Data, thorough: Sequence[int]):
    """A `measure` for `fine_tune`: {"subset|metric|kind|context|statistic": value}; more of it at `thorough` epochs.

    Statistics: the value, and low and high of its 95 % bootstrap interval over records. Subsets: "" for everything;
    "kept out" records, "kept out only" terms that stand in no other; "missed 0.05" for the terms that a blacklist
    with that share missing lacks; "again" for new records of the same persons; "prompts" for bare ones; "generated"
    for free generation by causal models; "term 7" (by number) in use case B.
    """

    def call(model: PreTrainedModel, epoch: int) -> dict[str, float]:
        full = epoch in thorough
        report = evaluate(model, data.raw, heldout=data.heldout if full else None, progress=False)
        found = {}
        table = report.counts
        scored = (table["spans"] == "scored") | (table["kind"] == "none")
        for row in table[scored].itertuples():
            found[f"|{row.metric}|{row.kind}|{row.context}|value"] = row.value
        for metric, kind, context in (
            ("in_place", "all", "visible"), ("in_place", "direct", "visible"), ("in_place", "indirect", "visible"),
            ("in_place", "all", "isolated"), ("utility", "none", "visible"),
        ):  # fmt: skip
            column = f"{metric}_isolated" if context == "isolated" else metric
            low, high = report.interval(column, kind)
            found[f"|{metric}|{kind}|{context}|low"], found[f"|{metric}|{kind}|{context}|high"] = low, high
        if full:
            for name, chosen in _subsets(data, report.units).items() if setting.with_gaps else ():
                for (kind, context), value in subset_rates(report.units, chosen).items():
                    found[f"{name}|in_place|{kind}|{context}|value"] = value
            if data.again is not None:
                units = evaluate(model, data.again, progress=False).units
                for (kind, context), value in subset_rates(units, np.ones(len(units), dtype=bool)).items():
                    found[f"again|in_place|{kind}|{context}|value"] = value
            if setting.use_case == "A":
                asked = bare_prompts(model, data.tokenizer, data.corpus, data.blacklist)
                single = asked[asked["tokens"] == 1]
                found["prompts|said|all|visible|value"] = asked["said"].mean()
                found["prompts|in_top|all|visible|value"] = single["in_top"].sum() / max(1, single["terms"].sum())
            if setting.causal:
                for start, texts in (("prefix", data.corpus["text"]), ("nothing", [])):
                    said = free_generation(model, data.tokenizer, data.blacklist, texts, **SAMPLES, progress=False)
                    found[f"generated|hits|all|{start}|value"] = said["hits"].mean()
                    found[f"generated|terms|all|{start}|value"] = said.attrs["terms"]
        if setting.use_case == "B":
            for term in report.terms.itertuples():
                found[f"term {term.term_id}|iterations|all|visible|value"] = term.iterations
                found[f"term {term.term_id}|said|all|visible|value"] = term.in_place
            if data.emotions is not None:
                scores = emotion_f1(
                    model,
                    data.tokenizer,
                    *data.emotions,
                    seed=data.seed,
                    progress=False,
                    learning_rate=setting.classifier_learning_rate,
                )
                for average, value in scores.items():
                    found[f"emotions|f1_{average}|none|visible|value"] = value
        return found

    return call


def _subsets(data: Data, units: pd.DataFrame) -> dict[str, np.ndarray]:
    kept_out = units["record_id"].isin(data.kept_out).to_numpy()
    elsewhere = set(units.loc[~kept_out, "term_id"])
    subsets = {"kept out": kept_out, "kept out only": kept_out & ~units["term_id"].isin(elsewhere).to_numpy()}
    for share in MISSED:
        missed = data.blacklist.ids(data.blacklist - data.blacklist.without(share, data.seed))
        subsets[f"missed {share:g}"] = units["term_id"].isin(missed).to_numpy()
    return subsets
