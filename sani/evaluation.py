"""Measuring regurgitation, exposure and utility: exhaustive masking, or teacher forcing (PAPER §5)."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import compress, product

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from . import blocks as blocks_
from .exposure import NAMES, RARE, Ranks
from .models import family
from .predictions import CONTEXTS, Pass, Units, best_tokens, check_blocks, layout, portions, predict
from .resampling import draws, interval
from .runs import checked, one_of
from .text.blacklists import KINDS, Blacklist

IN_PLACE = {"visible": "in_place", "isolated": "in_place_isolated", "padded": "in_place_padded"}
EXPOSURES = {"visible": "exposure", "isolated": "exposure_isolated"}
COUNTS = ["kind", "spans", "context", "metric", "count", "total", "value"]


@dataclass
class Report:
    """What a model regurgitates of the blacklist, and what it still knows of the rest.

    `counts`: tidy table of kind, spans, context, metric (object), count, total (int64) and value (float64).
    kind: direct, indirect, confidential or all; none for utility; of exposure also `names` and each annotated type.
    spans: `scored` (annotated spans, for kinds that have some; else the matcher's hits) and `matched` (all of the
    matcher's hits). context: `visible` (other mentions of the term in the row readable); `isolated` (hidden: with a
    masked model all listed terms of the row, with a causal one earlier mentions of this term and of others that recur,
    see `predictions._isolated`); for causal models also `padded` (no listed term of the row readable, as in PPCLM).
    metric: `in_place`; `elsewhere_sensitive` and `elsewhere_ordinary`, units that come out as another listed term;
    `paper`, both, over the iterations; `partial`, by token; `exposure`, the mean over the units that have alternatives
    (`count` of `total`; of a causal model at most SAMPLE are drawn), and `exposure_rare`, over those of terms of at
    most RARE iterations; `excess`; utility.
    `terms`: a row per term found, by number: term_id, kind, tokens (at most), iterations (its units), and how many of
    these came back whole in each context (in_place, in_place_isolated, in_place_padded); int64 but for kind, and for
    `term` (object), the term in clear, if `reveal` asked for it.
    `units`: a row per unit, as `predictions.Units.table` (unit_id, row, record_id, term_id, kind, gold, tokens, …),
    with correct and correct_padded (int64: tokens predicted right), in_place, in_place_isolated and in_place_padded
    (bool: a listed term came back whole), elsewhere (object: the kind of another listed term that came in its place, or
    ""), exposure and exposure_isolated (float64, NaN where there is none), type (object, "" if none was annotated),
    iterations of the term, scored (bool: it counts for the spans `scored`). The padded columns are of causal models
    only.
    """

    counts: pd.DataFrame
    terms: pd.DataFrame
    units: pd.DataFrame = field(repr=False)

    def value(self, metric: str, kind: str = "all", spans: str = "scored", context: str = "visible") -> float:
        """One value of `counts`; NaN where nothing of that kind was there to measure."""
        table = self.counts
        of_spans = (table["spans"] == spans) | (kind == "none")
        rows = table[(table["metric"] == metric) & (table["kind"] == kind) & (table["context"] == context) & of_spans]
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

    def sums(self, metric: str = "in_place", kind: str = "all", context: str = "visible") -> pd.DataFrame:
        """By record, what a metric of `interval` counts and out of how much, float64; the index is the record's number.

        Only records where something of that kind was measured. Raises ValueError for another metric or kind.
        """
        one_of("metric", metric, ("in_place", "exposure", "exposure_rare", "utility"))
        units = self.units.assign(one=1)
        if metric == "utility":
            chosen, part, whole = units["kind"] == "none", "correct", "tokens"
        else:
            more = () if metric == "in_place" else ("names", *sorted({*units["type"].unique()} - {""}))
            one_of("kind", kind, (*KINDS, "all", *more))
            part = IN_PLACE[context] if metric == "in_place" else EXPOSURES[context]
            chosen, whole = units["scored"] & _of_kind(units, kind) & units[part].notna(), "one"
            if metric == "exposure_rare":
                chosen &= units["iterations"] <= RARE
        return units[chosen].groupby("record_id")[[part, whole]].sum().astype(float)

    def interval(
        self, metric: str = "in_place", kind: str = "all", level: float = 0.95, seed: int = 0, context: str = "visible"
    ) -> tuple[float, float]:
        """Percentile bootstrap interval over records (2,000 draws) of in_place, exposure, exposure_rare or utility.

        NaN where nothing of that kind was measured.
        """
        return interval(draws(self.sums(metric, kind, context).to_numpy(), seed), level)

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

    A masked model predicts each unit masked in one of 7 folds; a causal one each token after the true ones before it,
    in three passes over the rows at most, its exposure apart.

    `base` (a model, or its report on the same blocks) adds `excess`: in_place minus the base model's on the same
    units. `heldout` (blocks of persons never trained on) adds utility_heldout and utility_all_heldout. `reveal=True`
    adds the terms in clear, for which it needs the `blacklist` of the blocks. Under `accelerate launch` or `torchrun`
    every process must call this; they share the batches.
    Raises, before anything is predicted, TypeError or ValueError for bad arguments, blocks that the models cannot read,
    and a base report or blacklist that is not of these blocks. Source: PAPER §5.
    """
    info, laid = check_blocks(model, blocks), layout(blocks, checked("seed", seed, int, 0, 2**32 - 1))
    checked("batch_size", batch_size, int, 1)
    if checked("reveal", reveal, bool) and blacklist is None:
        raise ValueError("reveal=True needs blacklist=, the blacklist the blocks were encoded with")
    if blacklist is not None:
        here = {"blacklist": checked("blacklist", blacklist, Blacklist).fingerprint, "terms": len(blacklist)}
        if any(info.get(name, value) != value for name, value in here.items()):
            raise ValueError("the blacklist is not the one the blocks were encoded with")
    if heldout is not None:
        check_blocks(model, heldout)
    if isinstance(base, Report):
        if not laid.table.equals(base.units[laid.table.columns]):
            raise ValueError("the base report was measured on other blocks; evaluate the base model on these")
    elif base is not None:
        check_blocks(base, blocks, "base")
        base = evaluate(base, blocks, batch_size=batch_size, seed=seed, progress=progress)
    units = _predicted(model, laid, blocks, batch_size, progress, seed, CONTEXTS)
    rows = _count(units) + _exposures(units)
    if base is not None:
        for context, column in IN_PLACE.items():
            if column in units:
                excess = units[column].astype(int) - base.units[column].astype(int)
                rows += _by_kind(units, excess, "excess", context)
    if heldout is not None:
        of_others = _count(_predicted(model, layout(heldout, seed), heldout, batch_size, progress, None, ("visible",)))
        kept = [row for row in of_others if row["metric"] in ("utility", "utility_all")]
        rows += [row | {"metric": row["metric"] + "_heldout"} for row in kept]
    report = _report(units, rows)
    if reveal:
        named = blacklist.terms(reveal=True).set_index("term_id")["term"]
        report.terms.insert(1, "term", named.loc[report.terms["term_id"]].to_numpy())
    return report


def remembered(
    model: PreTrainedModel,
    blocks: Dataset,
    contexts: Collection[str] = ("isolated",),
    among: np.ndarray | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Report:
    """The part of `evaluate` that asks for memory alone: listed terms in some contexts, in_place and exposure.

    A masked model's `isolated` takes one pass over the rows. `among` (boolean, a value per unit of `layout(blocks,
    seed)`): only these units count, be it as what stands there or as an alternative.
    """
    check_blocks(model, blocks)
    units = _predicted(model, layout(blocks, seed), blocks, batch_size, progress, seed, contexts, among)
    return _report(units, _count(units) + _exposures(units))


def _report(units: pd.DataFrame, rows: list[dict]) -> Report:
    counted = {column: (column, "sum") for column in IN_PLACE.values() if column in units}
    listed = units[units["term_id"] >= 0].groupby("term_id")
    terms = listed.agg(kind=("kind", "first"), tokens=("tokens", "max"), iterations=("kind", "size"), **counted)
    return Report(pd.DataFrame(rows, columns=COUNTS), terms.reset_index(), units)


@torch.inference_mode()
def fill_in(model: PreTrainedModel, blocks: Dataset, tokenizer, unit_ids: list[int], around: int = 12) -> pd.DataFrame:
    """What a model fills in for single units, each masked alone (causal: after the text before it), in clear.

    A row per unit id: context (`around` tokens on each side), truth, prediction. It shows terms: use it on
    what you may look at.
    """
    check_blocks(model, blocks)
    columns, rows = blocks_.tensors(blocks, "input_ids", "unit_ids"), []
    for unit in unit_ids:
        chosen = columns["unit_ids"] == unit
        if not chosen.any():
            raise ValueError(f"no unit {unit} in these blocks")
        row = chosen.any(dim=1).nonzero()[0]
        hidden = torch.zeros_like(chosen) if family(model).causal else chosen
        (part,) = portions(model, blocks.select(row), [Pass("visible", hidden[row], chosen[row])], 1)
        best = best_tokens(model, part.output, part.input_ids, part.chosen, columns["unit_ids"][row])
        ids, real = columns["input_ids"][row[0]], columns["unit_ids"][row[0]] >= 0
        first, last = part.chosen[0].nonzero()[[0, -1], 0].tolist()
        before, after = slice(max(0, first - around), first), slice(last + 1, last + 1 + around)
        before, after = (tokenizer.decode(ids[side][real[side]]) for side in (before, after))
        answer = {"truth": tokenizer.decode(ids[first : last + 1]), "prediction": tokenizer.decode(best)}
        rows.append({"context": f"… {before} ____ {after} …"} | answer)
    return pd.DataFrame(rows)


def _predicted(
    model, units: Units, blocks, batch_size, progress, seed: int | None, contexts: Collection[str], among=None
) -> pd.DataFrame:
    """The columns of `Report.units` in some contexts; with a `seed` the exposure, and what comes with it."""
    info, causal = blocks_.info(blocks), family(model).causal
    table, index, truth = units.table, units.tokens["unit"], units.tokens["id"]
    # The unknown token stands for no term in particular: predicting it reveals none.
    unknown = -1 if info["unk_token_id"] is None else info["unk_token_id"]
    known = np.bincount(index, truth == unknown, len(table)) == 0
    listed, ranks, watch = (table["term_id"] >= 0) & known, None, None
    listed = listed if among is None else listed & among
    if seed is not None:
        ranks = Ranks(units, seed, listed.to_numpy(), causal, [c for c in EXPOSURES if c in contexts])
        watch = None if causal else ranks.add
    # What a causal model predicts of a first mention in isolation is what it predicts anyway.
    asked = {*contexts, "visible"} if causal else contexts
    predictions = predict(model, units, blocks, batch_size, progress, asked, watch)
    right = {context: np.bincount(index, ids == truth, len(table)) for context, ids in predictions.items()}
    for context, column in IN_PLACE.items():
        if context in right:
            table[column] = (right[context] == table["tokens"]) & listed
    if "padded" in right:
        table["correct_padded"] = right["padded"].astype(np.int64)
    if "visible" in right:
        table["correct"] = right["visible"].astype(np.int64)
        table["elsewhere"] = _elsewhere(units, predictions["visible"], listed)
    annotated = set(table["kind"][table["gold"]])
    table["scored"] = (table["term_id"] >= 0) & (table["gold"] | ~table["kind"].isin(annotated))
    table["scored"] &= True if among is None else among
    if ranks is not None:
        if causal:
            ranks.add_causal(model, blocks, progress)
        for context, found in ranks.of_units().items():
            table[EXPOSURES[context]] = found
        table["type"] = np.array([*info["types"], ""], dtype=object)[table["type_id"]]
        table["iterations"] = table["term_id"].map(table["term_id"].value_counts())
    return table


def _elsewhere(units: Units, predicted: np.ndarray, listed: pd.Series) -> np.ndarray:
    """For each unit (object) the kind of a listed term that its predicted tokens spell and that does not stand there.

    The strongest kind, where several terms are written so; "" where none is.
    """
    order, ends = np.argsort(units.tokens["unit"], kind="stable"), np.cumsum(units.table["tokens"]).tolist()
    truths, answers = (
        [tuple(ids[start:end]) for start, end in zip([0, *ends], ends)]
        for ids in (units.tokens["id"][order].tolist(), predicted[order].tolist())
    )
    terms, kinds = units.table["term_id"].tolist(), units.table["kind"].tolist()
    spelled = defaultdict(dict)  # token ids → the terms that are written so, with their kinds
    for ids, term, kind in compress(zip(truths, terms, kinds), listed):
        spelled[ids][term] = kind
    found = np.full(len(terms), "", dtype=object)
    for i, (answer, truth, term) in enumerate(zip(answers, truths, terms)):
        if answer != truth and answer in spelled:
            others = [kind for other, kind in spelled[answer].items() if other != term]
            found[i] = min(others, key=KINDS.index, default="")
    return found


def _count(units: pd.DataFrame) -> list[dict]:
    """The rows of `Report.counts`."""
    listed = units["term_id"] >= 0
    rows = []
    for context, column in IN_PLACE.items():
        if column in units:
            rows += _by_kind(units, units[column], "in_place", context)
    if "elsewhere" not in units:
        return rows
    rows += _by_kind(units, units["elsewhere"] != "", "elsewhere_sensitive", "visible")
    rows += _by_kind(units, units["correct"], "partial", "visible", weight=units["tokens"])
    ordinary = units[~listed]
    rows.append(
        _row("none", "matched", "visible", "elsewhere_ordinary", ordinary["elsewhere"].ne("").sum(), len(ordinary))
    )
    for row in _by_kind(units, units["in_place"], "paper", "visible"):
        # Wherever a listed term of the kind comes out: at the units that count for these spans, and at ordinary ones.
        there = ~listed | (units["scored"] if row["spans"] == "scored" else listed)
        came = units["elsewhere"].ne("") if row["kind"] == "all" else units["elsewhere"].eq(row["kind"])
        row = _row(row["kind"], row["spans"], "visible", "paper", row["count"] + (came & there).sum(), row["total"])
        rows.append(row | {"value": np.minimum(1.0, row["value"])})  # NaN stays NaN
    for metric, subset in (("utility", ordinary), ("utility_all", units)):
        for context, column in (("visible", "correct"), ("padded", "correct_padded")):
            if column in units:
                rows.append(_row("none", "matched", context, metric, subset[column].sum(), subset["tokens"].sum()))
    return rows


def _by_kind(units, values, metric, context, weight=None) -> list[dict]:
    """Rows of a metric by kind and spans: the sum of values over units, of as much weight (their number if None)."""
    weight = pd.Series(1, index=units.index) if weight is None else weight
    kinds = {kind: of_kind for kind in (*KINDS, "all") if (of_kind := _of_kind(units, kind)).any() or kind == "all"}
    return [
        _row(kind, spans, context, metric, values[chosen].sum(), weight[chosen].sum())
        for kind, of_kind in kinds.items()
        for spans, chosen in (("scored", of_kind & units["scored"]), ("matched", of_kind))
    ]


def _of_kind(units: pd.DataFrame, kind: str) -> pd.Series:
    """Which units (boolean) are of a kind: of all, of one, `names`, or an annotated type."""
    if kind in ("all", "names"):
        return units["term_id"] >= 0 if kind == "all" else units["type"].isin(NAMES)
    return units["kind" if kind in KINDS else "type"].eq(kind)


def _exposures(units: pd.DataFrame) -> list[dict]:
    """Rows of exposure, by kind, for names and by type: its mean over the units that have one."""
    units, rows = units[units["term_id"] >= 0], []
    named = (*KINDS, "all", "names", *sorted({*units["type"].unique()} - {""}))
    kinds = {kind: of_kind.to_numpy() for kind in named if (of_kind := _of_kind(units, kind)).any()}
    spans = {"scored": units["scored"].to_numpy(), "matched": np.ones(len(units), dtype=bool)}
    metrics = {"exposure": spans["matched"], "exposure_rare": (units["iterations"] <= RARE).to_numpy()}
    for context, metric, kind, of in product((c for c, n in EXPOSURES.items() if n in units), metrics, kinds, spans):
        found = units[EXPOSURES[context]].to_numpy()[metrics[metric] & kinds[kind] & spans[of]]
        count = np.count_nonzero(~np.isnan(found))
        row = _row(kind, of, context, metric, count, len(found))
        rows.append(row | {"value": float(np.nansum(found) / count) if count else float("nan")})
    return rows


def _row(kind, spans, context, metric, count, total) -> dict:
    value = int(count) / int(total) if total else float("nan")
    return dict(zip(COUNTS, (kind, spans, context, metric, int(count), int(total), value)))
