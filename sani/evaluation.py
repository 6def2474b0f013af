"""Measuring regurgitation, privacy and utility: exhaustive masking, or teacher forcing (PAPER §5)."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from . import blocks as blocks_
from .blacklists import KINDS, Blacklist
from .models import family, logits_at
from .predictions import layout, predict
from .training import check_tokenizer

CONTEXTS = {"visible": "in_place", "isolated": "in_place_isolated", "padded": "in_place_padded"}
COUNTS = ["kind", "spans", "context", "metric", "count", "total", "value"]


@dataclass
class Report:
    """What a model regurgitates of the blacklist, and what it still knows of the rest.

    `counts`: tidy table (kind, spans, context, metric, count, total, value). kind: direct, indirect, confidential or
    all; none for utility. spans: `scored` (annotated spans, for kinds that have some; else the matcher's hits) and
    `matched` (all of the matcher's hits). context: `visible` (other mentions of the term in the row readable),
    `isolated` (hidden too) or, for causal models, `padded` (no listed term of the row readable, as in PPCLM).
    `terms`: a row per term. `units`: a row per unit, whence `interval`.
    """

    counts: pd.DataFrame
    terms: pd.DataFrame
    units: pd.DataFrame = field(repr=False)

    def value(self, metric: str, kind: str = "all", spans: str = "scored", context: str = "visible") -> float:
        """One value of `counts`; NaN where nothing of that kind was there to measure."""
        table = self.counts
        rows = table[(table["metric"] == metric) & (table["kind"] == kind) & (table["context"] == context)]
        if kind != "none":
            rows = rows[rows["spans"] == spans]
        if rows.empty:
            raise KeyError(f"no {metric!r} of kind {kind!r}, {spans}, {context}; see report.counts")
        return float(rows["value"].iloc[0])

    @property
    def regurgitation(self) -> float:
        """Share of the iterations of blacklisted terms predicted whole where they stand."""
        return self.value("in_place")

    @property
    def privacy(self) -> float:
        """1 − regurgitation."""
        return 1 - self.regurgitation

    @property
    def utility(self) -> float:
        """Token accuracy outside the blacklist."""
        return self.value("utility", kind="none")

    def interval(
        self, metric: str = "in_place", kind: str = "all", level: float = 0.95, seed: int = 0
    ) -> tuple[float, float]:
        """Percentile bootstrap interval over records (2,000 draws) of `in_place`, `in_place_isolated` or `utility`."""
        units = self.units
        if metric == "utility":
            units, part, whole = units[units["kind"] == "none"], "correct", "tokens"
        else:
            units, part, whole = units[units["scored"] & (units["kind"].eq(kind) | (kind == "all"))], metric, None
        by_record = units.assign(whole=1 if whole is None else units[whole]).groupby("record_id")[[part, "whole"]].sum()
        sums = by_record.to_numpy(dtype=float)
        if len(sums) == 0:
            return float("nan"), float("nan")
        draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=2000) @ sums
        low, high = np.quantile(draws[:, 0] / draws[:, 1], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __repr__(self) -> str:
        return (
            f"<Report: privacy {self.privacy:.3f}, utility {self.utility:.3f}, "
            f"{len(self.terms)} terms measured, {len(self.units)} units>"
        )


def evaluate(
    model: PreTrainedModel,
    blocks: Dataset,
    base: "PreTrainedModel | Report | None" = None,
    heldout: Dataset | None = None,
    batch_size: int = 32,
    seed: int = 0,
    blacklist: Blacklist | None = None,
    reveal: bool = False,
    progress: bool = True,
) -> Report:
    """Predict every unit of the blocks exactly once and count what comes back.

    A masked model predicts each unit masked in one of 7 folds; a causal one each token after the true ones before it.

    `base` (a model, or its report on the same blocks) adds `excess`: in_place minus the base model's on the same
    units. `heldout` (blocks of persons never trained on) adds utility_heldout and utility_all_heldout. `reveal=True`
    adds the terms in clear, for which it needs the `blacklist` of the blocks. Under `accelerate launch` or `torchrun`
    every process must call this; they share the batches.
    Raises ValueError for blocks of another tokenizer, or reveal without blacklist. Source: PAPER §5.
    """
    _check(model, blocks, blacklist, reveal)
    columns, units, tokens, folds = layout(blocks, seed)
    predicted = predict(model, columns, units, tokens, folds, blocks, batch_size, progress)
    units = _score_units(units, tokens, predicted, blocks_.info(blocks)["unk_token_id"])
    rows = _count(units)
    if base is not None:
        if not isinstance(base, Report):
            base = evaluate(base, blocks, batch_size=batch_size, seed=seed, progress=progress)
        if not np.array_equal(base.units["unit_id"], units["unit_id"]):
            raise ValueError("the base report was measured on other blocks; evaluate the base model on these")
        for context, column in CONTEXTS.items():
            if column not in units:
                continue
            excess = units[column].astype(int) - base.units[column].astype(int)
            rows += _by_kind(units, excess, "excess", context)
    if heldout is not None:
        rows += _heldout(model, heldout, batch_size, seed, progress)
    terms = _terms(units)
    if reveal:
        named = blacklist.terms(reveal=True).set_index("term_id")["term"]
        terms.insert(1, "term", named.loc[terms["term_id"]].to_numpy())
    return Report(pd.DataFrame(rows, columns=COUNTS), terms, units)


def fill_in(model: PreTrainedModel, blocks: Dataset, tokenizer, unit_ids: list[int], around: int = 12) -> pd.DataFrame:
    """What a model fills in for single units, each masked alone (causal: after the text before it), in clear.

    A row per unit id: context (`around` tokens on each side), truth, prediction. It shows terms: use it on
    what you may look at.
    """
    columns = blocks_.tensors(blocks, "input_ids", "attention_mask", "unit_ids")
    mask_id, causal = blocks_.info(blocks)["mask_token_id"], family(model).causal
    banned = getattr(model, "logit_filter", None)
    rows = []
    for unit in unit_ids:
        chosen = columns["unit_ids"] == unit
        if not chosen.any():
            raise ValueError(f"no unit {unit} in these blocks")
        row = chosen.any(dim=1).nonzero()[:1, 0]
        ids, here = columns["input_ids"][row], chosen[row]
        inputs = ids if causal else ids.masked_fill(here, mask_id)
        with torch.inference_mode():
            logits = logits_at(model, inputs, columns["attention_mask"][row], here)
        if banned is None:
            best = logits.argmax(dim=-1)
        elif causal:
            best = banned.argmax_after(logits, inputs, here)
        else:
            best = banned.argmax(logits, columns["unit_ids"][row][here])
        first, last = here[0].nonzero()[[0, -1], 0].tolist()
        real = columns["unit_ids"][row[0]] >= 0
        before = ids[0, max(0, first - around) : first][real[max(0, first - around) : first]]
        after = ids[0, last + 1 : last + 1 + around][real[last + 1 : last + 1 + around]]
        rows.append(
            {
                "context": f"… {tokenizer.decode(before)} ____ {tokenizer.decode(after)} …",
                "truth": tokenizer.decode(ids[0, first : last + 1]),
                "prediction": tokenizer.decode(best),
            }
        )
    return pd.DataFrame(rows)


def _heldout(model, blocks, batch_size, seed, progress) -> list[dict]:
    """utility_heldout and utility_all_heldout, in the visible context alone."""
    _check(model, blocks, None, False)
    columns, units, tokens, folds = layout(blocks, seed)
    predicted = predict(model, columns, units, tokens, folds, blocks, batch_size, progress, apart=False)
    units = _score_units(units, tokens, predicted, blocks_.info(blocks)["unk_token_id"])
    rows = [row for row in _count(units) if row["metric"] in ("utility", "utility_all")]
    return [row | {"metric": row["metric"] + "_heldout"} for row in rows]


def _score_units(units, tokens, predictions, unknown):
    """Add to the table of units what each prediction amounts to."""
    index, truth, predicted = tokens["unit"], tokens["id"], predictions["visible"]
    count = len(units)
    known = np.bincount(index, truth == unknown, count) == 0 if unknown is not None else np.ones(count, dtype=bool)
    units["correct"] = np.bincount(index, predicted == truth, count).astype(np.int64)
    whole = units["correct"].to_numpy() == units["tokens"].to_numpy()
    listed = units["term_id"].to_numpy() >= 0
    # The unknown token stands for no term in particular: predicting it reveals none.
    units["in_place"] = whole & listed & known
    for context in (name for name in predictions if name != "visible"):
        alone = np.bincount(index, predictions[context] == truth, count)
        units[CONTEXTS[context]] = (alone == units["tokens"].to_numpy()) & listed & known
        if context == "padded":
            units["correct_padded"] = alone.astype(np.int64)

    starts = np.concatenate(([0], np.cumsum(units["tokens"].to_numpy())))
    by_unit = np.argsort(index, kind="stable")
    elsewhere = np.zeros(count, dtype=bool)
    term = units["term_id"].to_numpy()
    for length in np.unique(units["tokens"][listed & known]):
        of_length = np.flatnonzero(units["tokens"].to_numpy() == length)
        place = by_unit[starts[of_length][:, None] + np.arange(length)]
        is_term = (listed & known)[of_length]
        sequences, inverse = np.unique(
            np.vstack((truth[place[is_term]], predicted[place])), axis=0, return_inverse=True
        )
        inverse = inverse.reshape(-1)
        of_terms, of_predictions = inverse[: is_term.sum()], inverse[is_term.sum() :]
        lowest, highest = np.full(len(sequences), np.iinfo(np.int64).max), np.full(len(sequences), -1)
        np.minimum.at(lowest, of_terms, term[of_length][is_term])
        np.maximum.at(highest, of_terms, term[of_length][is_term])
        low, high, own = lowest[of_predictions], highest[of_predictions], term[of_length]
        elsewhere[of_length] = (high >= 0) & ~((low == own) & (high == own)) & ~whole[of_length]
    units["elsewhere"] = elsewhere
    units["scored"] = listed & (units["gold"] | ~units["kind"].isin(set(units["kind"][units["gold"]])))
    return units


def _count(units: pd.DataFrame) -> list[dict]:
    """The rows of `Report.counts`."""
    listed = units["term_id"] >= 0
    rows = []
    for context, column in CONTEXTS.items():
        if column in units:
            rows += _by_kind(units, units[column], "in_place", context)
    rows += _by_kind(units, units["elsewhere"], "elsewhere_sensitive", "visible")
    rows += _by_kind(units, units["correct"], "partial", "visible", weight=units["tokens"])
    ordinary = units[~listed]
    elsewhere = int(ordinary["elsewhere"].sum())
    rows.append(_row("none", "matched", "visible", "elsewhere_ordinary", elsewhere, len(ordinary)))
    for spans, subset in (("scored", units[units["scored"]]), ("matched", units[listed])):
        found = int(subset["in_place"].sum() + subset["elsewhere"].sum()) + elsewhere
        row = _row("all", spans, "visible", "paper", found, len(subset))
        rows.append(row | {"value": min(1.0, row["value"]) if len(subset) else float("nan")})
    for metric, subset in (("utility", ordinary), ("utility_all", units)):
        for context, column in (("visible", "correct"), ("padded", "correct_padded")):
            if column in units:
                rows.append(_row("none", "matched", context, metric, subset[column].sum(), subset["tokens"].sum()))
    return rows


def _by_kind(units, values, metric, context, weight=None) -> list[dict]:
    weight = pd.Series(1, index=units.index) if weight is None else weight
    rows = []
    for kind in (*KINDS, "all"):
        of_kind = (units["term_id"] >= 0) & (units["kind"].eq(kind) | (kind == "all"))
        for spans, chosen in (("scored", of_kind & units["scored"]), ("matched", of_kind)):
            if kind == "all" or of_kind.any():
                rows.append(_row(kind, spans, context, metric, values[chosen].sum(), weight[chosen].sum()))
    return rows


def _row(kind, spans, context, metric, count, total) -> dict:
    value = int(count) / int(total) if total else float("nan")
    return dict(zip(COUNTS, (kind, spans, context, metric, int(count), int(total), value)))


def _terms(units: pd.DataFrame) -> pd.DataFrame:
    """A row per term found: kind, tokens, iterations, and how many came back in place in each context."""
    grouped = units[units["term_id"] >= 0].groupby("term_id")
    counted = {column: (column, "sum") for column in CONTEXTS.values() if column in units}
    return grouped.agg(
        kind=("kind", "first"), tokens=("tokens", "max"), iterations=("in_place", "size"), **counted
    ).reset_index()


def _check(model, blocks, blacklist, reveal) -> None:
    check_tokenizer(model, blocks)
    told = blocks_.info(blocks)
    if reveal and blacklist is None:
        raise ValueError("reveal=True needs blacklist=, the blacklist the blocks were encoded with")
    if blacklist is not None and len(blacklist) != told["terms"]:
        raise ValueError("the blacklist is not the one the blocks were encoded with")
