"""Which learning rate a repair takes: one grid for every method, one rule for all (`python -m sani.study rates`).

The fine-tuning's rate is chosen on base and unprotected models alone. A repair's is the one choice made after methods
were run, by the rule of `chosen` and on seeds that judge no claim; grid and rule were written down before.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..sanitizing import METHODS, sanitize
from ..training import NonFiniteLoss, fine_tune
from .grid import Found, table_of, values
from .measured import file_of, keep, kept
from .method_claims import LEFT_OUT
from .prepare import prepare
from .runs import complete, control, control_run
from .setting import Setting

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
# Other readings of the last layer take the rate of SANI on lm-head.
SWEPT = ("sani", "repair-only", "pruning", "untied-repair-only", "untied-pruning", "retrain-at-equal-cost")
# The other methods that train: the first seed tries these rates, and of each method the best two go on to the others.
TRIED, ON = RATES[:4], 2
METHODS_TRIED = tuple(
    name for name, m in METHODS.items() if m.trains and name not in (*SWEPT, *LEFT_OUT, "counterfactual")
)


class Point(NamedTuple):
    """A model: what it has been through, and the learning rate of that."""

    method: str
    rate: float = 0.0


def points(first: bool = True) -> list[Point]:
    """Base and unprotected model, and every method at every rate; with the `first` seed fine-tuning at every rate."""
    ways = ("fine-tuned", *SWEPT) if first else SWEPT
    return [Point("base"), Point("unprotected"), *(Point(way, rate) for way in ways for rate in RATES)]


def points_of_methods(first: pd.DataFrame | None = None, delta: float = 0.0) -> list[Point]:
    """The other methods: at each rate that is TRIED, or, by what the `first` seed found, at the best ON of each."""
    best = {} if first is None else {method: order(first, method, delta)[:ON] for method in METHODS_TRIED}
    tried = [Point(method, rate) for method in METHODS_TRIED for rate in best.get(method, TRIED)]
    return [Point("base"), Point("unprotected"), *tried]


def _measure(setting: Setting, seed: int, point: Point) -> Found:
    data = prepare(setting, seed)
    options = setting.training | {"learning_rate": point.rate, "seed": seed}
    try:
        if point.method == "fine-tuned":
            model = fine_tune(data.base, data.raw, epochs=setting.epochs, **options)
        elif point.rate:
            unprotected = control(setting, seed, "unprotected")
            options |= {"target": "lm-head"} if point.method == "sani" else {}
            model = sanitize(unprotected, data.raw, point.method, setting.repair_epochs, base=data.base, **options)
        else:
            model = control(setting, seed, point.method)
    except NonFiniteLoss:
        return {"utility": (np.nan,)}  # a rate so high that nothing is left of the model
    return values(setting, seed, model, more=True)[0]


def table(
    setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True, delta: float | None = None
) -> pd.DataFrame:
    """A row per seed, point and metric; what figures/measured lacks is made first, `jobs` side by side, seed by seed.

    `delta`: that of `chosen`, for the other methods (`points_of_methods`); else those of `points`.
    Columns: seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    setting = replace(setting, repair_rates=())  # it does not depend on what is chosen of it
    path, names = file_of(setting, "rates" if delta is None else "method-rates"), ["seed", *Point._fields]
    known = kept(path, setting)
    for seed in seeds:
        if delta is None:
            wanted = points(seed == seeds[0])
        else:
            wanted = points_of_methods(None if seed == seeds[0] else known[known["seed"] == seeds[0]], delta)
        there = set() if known is None else set(known[names].itertuples(index=False, name=None))
        missing = [point for point in wanted if (seed, *point) not in there]
        if missing:
            complete(setting, [seed], [control_run(setting, "unprotected")], jobs, progress)
        for method in dict.fromkeys(point.method for point in missing):  # kept one by one
            of_method = [point for point in missing if point.method == method]
            new = table_of("rates", _measure, setting, [seed], of_method, jobs, progress)
            known = pd.concat([known, new], ignore_index=True)
            keep(path, known, setting)
    return known[known["seed"].isin(seeds)].reset_index(drop=True)


def chosen(table: pd.DataFrame, delta: float) -> dict[str, float]:
    """The rate of each method's repair, as `Setting.repair_rates` has them, the first by `order`."""
    there = set(table["method"])
    return {method: order(table, method, delta)[0] for method in (*SWEPT, *METHODS_TRIED) if method in there}


def order(table: pd.DataFrame, method: str, delta: float) -> list[float]:
    """The rates of a method's repair, the best first, from means over the seeds; only those that all its seeds tried.

    First those at which no more is regurgitated in place than by the base model, plus δ, by utility on persons never
    trained on; then the others, those first that regurgitate least.
    """
    means = table.groupby([*Point._fields, "metric"], observed=True)["value"].mean().unstack("metric")
    limit = float(means.loc["base", "regurgitation"].iloc[0]) + delta
    there = table["method"].eq(method) & table["metric"].eq("regurgitation") & table["value"].notna()
    seeds = table[there].groupby("rate")["seed"].nunique()  # where training diverged there is no such row
    rows = means.loc[method].dropna(subset=["regurgitation", "utility_heldout"])
    rows = rows[rows.index.isin(seeds.index[seeds == seeds.max()])]
    private = rows[rows["regurgitation"] <= limit].sort_values("utility_heldout", ascending=False, kind="stable")
    others = rows[rows["regurgitation"] > limit].sort_values("regurgitation", kind="stable")
    return [float(rate) for rate in (*private.index, *others.index)]
