"""Tables of the study: means over seeds, where each method ends, and what the figures are drawn from."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from .objectives import OBJECTIVES
from .statistics import half_width

EXPOSURES = {"exposure": "all names", "exposure_rare": "rare names (3 iterations at most)"}
READINGS = ("lm-head", "head-transform", "last-block-output", "last-block")  # of "last layer", in the ledger's order


def deciding(claims: pd.DataFrame) -> pd.DataFrame:
    """The rows of figures/claims.csv that decide a claim ("A5", not its conditions "A5a", "A5b", …)."""
    return claims[claims["id"].str.fullmatch(r"[A-Z]\d+")]


def objectives(table: pd.DataFrame) -> tuple[str, str, str]:
    """How the models of a table name fine-tuning on raw, on pseudonymised text, and without listed targets."""
    return OBJECTIVES["clm" in set(table["method"])]


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """`study.results` without its seeds: mean and 95 % interval of each value, a row each.

    Over two or more seeds the interval is Student's t; for one it is the bootstrap over records, where computed.
    """
    keys = [c for c in results.columns if c not in ("seed", "value", "low", "high")]
    groups = results.groupby(keys, sort=False, dropna=False, as_index=False)
    table = groups.agg(value=("value", "mean"), sd=("value", "std"), low=("low", "mean"), high=("high", "mean"),
                       seeds=("seed", "nunique"))  # fmt: skip
    one, half = table["seeds"] <= 1, half_width(table["sd"], table["seeds"])
    table["low"] = table["low"].where(one, table["value"] - half)
    table["high"] = table["high"].where(one, table["value"] + half)
    return table.drop(columns="sd")


def add_excess(results: pd.DataFrame) -> pd.DataFrame:
    """`study.results` with rows of metric `excess`: in_place minus the base model's, paired by seed (PAPER §5)."""
    keys = ["seed", "kind", "context"]
    whole = results[(results["metric"] == "in_place") & (results["subset"] == "")]
    base = whole[(whole["method"] == objectives(whole)[0]) & (whole["epoch"] == 0)].set_index(keys)["value"]
    guessed = base.reindex(pd.MultiIndex.from_frame(whole[keys])).to_numpy()
    excess = whole.assign(metric="excess", value=whole["value"] - guessed, low=float("nan"), high=float("nan"))
    return pd.concat([results, excess], ignore_index=True)


def endpoints(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `summary` at the end of each run with the whole blacklist, and those of the base model.

    Without fine-tuning there is no base model apart from the unprotected one. Of a table that has been through it
    already, the same table.
    """
    plain = table[(table["missed"] == 0) & (table["kept_out"] == 0)]
    if (plain["method"] == "base").any():
        return plain
    trained = plain[plain["method"] == objectives(plain)[0]]
    base = trained[(trained["epoch"] == 0) & (trained["epoch"].max() > 0)].assign(method="base")
    last = plain.groupby(["method", "start", "target"])["epoch"].transform("max")
    return pd.concat([base, plain[plain["epoch"] == last]], ignore_index=True)


def endpoint_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row per method at its end: privacy and what it is of, regurgitation, exposure (isolated), utility.

    Privacy and regurgitation are by `in_place`, or, where the name says so, by `paper`.
    """
    rows = endpoints(table)
    rows = rows[rows["subset"] == ""]
    columns = {
        "privacy, paper": ("paper", "all", "visible"),
        "privacy": ("in_place", "all", "visible"),
        "direct, paper": ("paper", "direct", "visible"),
        "direct": ("in_place", "direct", "visible"),
        "direct, isolated": ("in_place", "direct", "isolated"),
        "direct, excess": ("excess", "direct", "visible"),
        "indirect": ("in_place", "indirect", "visible"),
        "indirect, isolated": ("in_place", "indirect", "isolated"),
        "indirect, excess": ("excess", "indirect", "visible"),
        "exposure of names": ("exposure", "names", "isolated"),
        "exposure of rare names": ("exposure_rare", "names", "isolated"),
        "utility": ("utility", "none", "visible"),
        "utility, all words": ("utility_all", "none", "visible"),
        "utility, other persons": ("utility_heldout", "none", "visible"),
    }
    at = rows.set_index(["method", "start", "target", "metric", "kind", "context"])["value"]
    index = pd.MultiIndex.from_frame(rows[["method", "start", "target"]].drop_duplicates())
    found = {name: [at.get((*run, *key), float("nan")) for run in index] for name, key in columns.items()}
    wide = pd.DataFrame(found, index=index)
    both = ["privacy, paper", "privacy"]
    return wide.assign(**{name: 1 - wide[name] for name in both})


def pick(table, metric, kind="none", context="visible", subset="", missed=0.0, kept_out=0.0, **where) -> pd.DataFrame:
    """The rows of a `summary` for a metric; `where` gives values of other columns."""
    where |= {"metric": metric, "kind": kind, "context": context, "subset": subset}
    where |= {"missed": missed, "kept_out": kept_out}
    return table[np.logical_and.reduce([table[name] == value for name, value in where.items()])]


def value_of(table: pd.DataFrame, *wanted, **where) -> float:
    """The value of the first row that `pick` picks."""
    return float(pick(table, *wanted, **where)["value"].iloc[0])


def has(table: pd.DataFrame, *wanted, **where) -> bool:
    """Whether what `pick` picks holds a value."""
    return bool(pick(table, *wanted, **where)["value"].notna().any())


def _stacked(found: Iterable[tuple[dict, pd.DataFrame]]) -> pd.DataFrame:
    """Values with their intervals, one below the other, each with its labels."""
    columns = ["value", "low", "high", "seeds"]
    return pd.DataFrame([labels | row for labels, rows in found for row in rows[columns].to_dict("records")])


def recall_table(table: pd.DataFrame) -> pd.DataFrame:
    """Regurgitation of the terms that a blacklist misses, by the share it misses: a row per share and model."""
    rows, ends, raw = [], endpoints(table), objectives(table)[0]
    sani = {"method": "sani", "start": raw, "target": "lm-head"}
    for share in sorted(set(table["missed"]) - {0.0}):
        for model, source, where in (
            ("unprotected", ends, {"method": raw}),
            ("SANI, terms missed", table, sani | {"missed": share}),
            ("SANI, terms listed", ends, sani),
            ("base", ends, {"method": "base"}),
        ):
            found = pick(source, "in_place", "all", subset=f"missed {share:g}", **where)
            rows.append(({"missed": share, "model": model}, found[:1]))
    return _stacked(rows).astype({"seeds": float})


CONTEXTS = {
    "": "their own text",
    "kept out": "own text, kept out of the repair",
    "kept out only": "the same, terms that stand nowhere else",
    "again": "new records of the same persons",
}


def contexts_table(table: pd.DataFrame) -> pd.DataFrame:
    """Direct identifiers regurgitated by context: a row per context and model."""
    ends, raw = endpoints(table), objectives(table)[0]
    sani = {"method": "sani", "start": raw, "target": "lm-head"}
    models = (
        ("base", ends, {"method": "base"}),
        ("counterfactual", ends, {"method": "counterfactual"}),
        ("unprotected", ends, {"method": raw}),
        ("SANI", ends, sani),
        ("SANI, half repaired on", table, sani | {"kept_out": max(table["kept_out"])}),
    )
    asked = [(context, "in_place", "direct", subset, ("visible", "isolated")) for subset, context in CONTEXTS.items()]
    asked.append(("bare prompts answered by a term", "predicted", "all", "prompts", ("visible",)))
    asked.append(("terms among a prompt's top 10", "in_top", "all", "prompts", ("visible",)))
    return _stacked(
        ({"context": context, "reading": reading, "model": model}, pick(source, metric, kind, reading, subset, **where))
        for context, metric, kind, subset, readings in asked
        for model, source, where in models
        for reading in readings
    )


def generation_table(table: pd.DataFrame) -> pd.DataFrame:
    """Listed terms that come out of free generation: a row per prompt (prefix, nothing) and model."""
    ends, names = endpoints(table), objectives(table)
    untied = ("untied-repair-only", "untied-pruning", "sani-tied")
    others = ("logit-filter", "retrain-at-equal-cost", *untied, "repair-only", "pruning", "sani")
    rows = []
    for prompt in ("prefix", "nothing"):
        for method in ("base", "counterfactual", *names, *others):
            start = {"start": names[0]} if method in others and method != "retrain-at-equal-cost" else {}
            target = {"target": "lm-head"} if method in ("sani", *untied) else {}
            found = pick(ends, "terms", "all", prompt, "generated", method=method, **start, **target)
            rows.append(({"prompt": prompt, "method": method}, found))
    return _stacked(rows)


def frequency_table(results: pd.DataFrame, target: str = "lm-head") -> pd.DataFrame:
    """A row per seed and term of use case B: iterations, and how many were predicted before and after epochs of SANI.

    Terms are numbered by their iterations, so that their numbers say nothing of their spelling.
    """
    raw = objectives(results)[0]
    of_terms = results[results["subset"].str.startswith("term ") & (results["missed"] == 0)]
    trained = of_terms[(of_terms["method"] == raw) & (of_terms["start"] == "")]
    end = trained["epoch"].max()
    sani = of_terms[of_terms["method"].eq("sani") & of_terms["target"].eq(target) & (of_terms["epoch"] > end)]
    before = trained[trained["epoch"] == end].pivot(index=["seed", "subset"], columns="metric", values="value")
    after = sani[sani["metric"] == "predicted"].pivot(index=["seed", "subset"], columns="epoch", values="value")
    after.columns = [f"after {epoch - end:g}" for epoch in after.columns]
    table = before.rename(columns={"predicted": "before"})[["iterations", "before"]].join(after)
    return numbered(table.astype(int).reset_index().drop(columns="subset"))


def numbered(terms: pd.DataFrame) -> pd.DataFrame:
    """Terms by seed, the most repeated first, with their rank as `term`; equal ones in the order of their counts."""
    counts = [c for c in terms.columns if c != "seed"]
    terms = terms.sort_values(["seed", *counts], ascending=[True] + [False] * len(counts), ignore_index=True)
    terms["term"] = terms.groupby("seed").cumcount() + 1
    return terms[["seed", "term", *counts]]
