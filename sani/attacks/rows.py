"""The rows that attacks return: no term and no text in them, only what share of something came back."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pandas as pd
from datasets import Dataset

from .. import blocks as blocks_
from ..evaluation import Report
from ..exposure import NAMES, equal_runs
from ..predictions import Units
from ..resampling import draws, interval
from ..runs import fingerprint
from ..text.blacklists import KINDS

COLUMNS = ["attack", "setting", "kind", "metric", "context", "count", "value", "low", "high"]
SCORES = ("in_place", "exposure", "exposure_rare")


class Row(dict):
    """A row of COLUMNS but the first, and beside it what its interval is made of, for comparisons of two models.

    `draws`: its value in each draw of the bootstrap, float64 (n,); `over`: what was drawn from, hashed. Of two rows
    over the same, draw i drew the same. None and "" where there is no bootstrap.
    """

    draws: np.ndarray | None = None
    over: str = ""


def row(kind, metric, context, count, value, interval=(float("nan"),) * 2, setting="") -> Row:
    low, high = interval
    found = (setting, kind, metric, context, int(count), float(value), float(low), float(high))
    return Row(zip(COLUMNS[1:], found))


def resampled(kind, metric, context, count, value, draws: np.ndarray, over: Iterable, setting: str = "") -> Row:
    """A row with the 95 % interval of a bootstrap's draws over some things (records, names), each told by its id."""
    made = row(kind, metric, context, count, value, interval(draws), setting)
    made.draws, made.over = draws, fingerprint([*over])
    return made


def of_report(report: Report, setting: str = "", contexts: Iterable[str] = ("isolated",)) -> list[Row]:
    """What a report tells of memory: in_place by kind and exposure of names, with bootstrap intervals over records.

    Where no term that counts is of a type that is a name, exposure is that of all. `count`: units measured.
    """
    counts, rows = report.counts, []
    names = "names" if report.units["type"].isin(NAMES).any() else "all"
    for context in contexts:
        for metric in SCORES:
            for kind in (*KINDS, "all") if metric == "in_place" else (names,):
                where = (counts["metric"] == metric) & (counts["kind"] == kind) & (counts["context"] == context)
                found = counts[where & (counts["spans"] == "scored")]
                if len(found) and np.isfinite(found["value"].iloc[0]):
                    sums = report.sums(metric, kind, context)
                    count, value = found["total" if metric == "in_place" else "count"].iloc[0], found["value"].iloc[0]
                    of_records = draws(sums.to_numpy()), sums.index
                    rows.append(resampled(kind, metric, context, count, value, *of_records, setting))
    return rows


def bootstrapped(
    units: pd.DataFrame, values: np.ndarray, kind: str, metric: str, setting: str, context: str = "isolated"
) -> Row:
    """The mean of units' values (NaN where there is none), with a bootstrap interval over records."""
    there = np.isfinite(values)
    sums = pd.DataFrame({"value": values[there], "one": 1.0}).groupby(units["record_id"].to_numpy()[there]).sum()
    value = values[there].mean() if there.any() else float("nan")
    return resampled(kind, metric, context, there.sum(), value, draws(sums.to_numpy()), sums.index, setting)


def words_of(units: Units) -> pd.Series:
    """The words of each unit (object: tuples of token ids), by its number in the table."""
    order = np.lexsort((units.tokens["place"], units.tokens["unit"]))
    unit, ids = units.tokens["unit"][order], units.tokens["id"][order].tolist()
    word = units.columns["word_ids"].view(-1).numpy()[units.tokens["position"][order]]
    first, _ = equal_runs(unit * (word.max(initial=0) + 1) + word)
    words = [tuple(ids[a:b]) for a, b in pairwise([*first, len(ids)])]
    of_units, _ = equal_runs(unit[first])
    found = [tuple(words[a:b]) for a, b in pairwise([*of_units, len(words)])]
    return pd.Series(found, index=pd.Index(unit[first][of_units], name="unit"), dtype=object)


def auc(scores: np.ndarray, true: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, np.ndarray]:
    """AUC of scores float64 (n,) that should be higher where `true` (boolean), and that in bootstrap draws (500,).

    Only pairs within a group (int64) are compared; ties count ½. NaN where no group holds both.
    """
    random, total = np.random.default_rng(seed), 1 + 500  # the first is no draw
    both = [[scores[(groups == group) & (true == side)] for side in (True, False)] for group in np.unique(groups)]
    both = [sides for sides in both if all(map(len, sides))]
    times = [[np.ones((total, len(side)), dtype=np.int64) for side in sides] for sides in both]
    for draw in range(1, total):
        for of_group in times:
            for drawn in of_group:
                count = drawn.shape[1]
                drawn[draw] = np.bincount(random.integers(0, count, count), minlength=count)
    wins, pairs = np.zeros(total), sum(len(one) * len(other) for one, other in both)
    for (one, other), (of_one, of_other) in zip(both, times):
        order = other.argsort()
        lower = np.concatenate((np.zeros((total, 1)), of_other[:, order].cumsum(axis=1)), axis=1)  # drawn, by rank
        below, upto = (lower[:, np.searchsorted(other[order], one, side)] for side in ("left", "right"))
        wins += (of_one * (below + upto)).sum(axis=1) / 2
    found = wins / pairs if pairs else np.full(total, np.nan)
    return float(found[0]), found[1:]


def only(blocks: Dataset, records: Iterable[int]) -> Dataset:
    """Blocks of some records alone, by the numbers that `record_ids` has: all other tokens become padding.

    Rows that hold none of them are left out; units keep their numbers. Raises ValueError if nothing is left.
    """
    columns = {name: column.numpy() for name, column in blocks_.tensors(blocks).items()}
    kept = np.isin(columns["record_ids"], [*records])
    whole = kept.any(axis=1)
    if not whole.any():
        raise ValueError("the blocks hold none of these records")
    info, text = blocks_.info(blocks), columns["record_ids"] >= 0
    # What begins and ends a row stays; what parts two records goes with those that go.
    ends = ~text & (np.cumsum(text, axis=1) == 0) | ~text & (np.cumsum(text[:, ::-1], axis=1)[:, ::-1] == 0)
    shown = kept | ends
    void = {"input_ids": info["pad_token_id"], "attention_mask": 0}
    found = {name: np.where(shown, values, void.get(name, -1))[whole] for name, values in columns.items()}
    table = pd.DataFrame({name: [*values] for name, values in found.items()})
    made = Dataset.from_pandas(table, features=blocks.features, preserve_index=False)
    made.info.description = blocks.info.description
    return made
