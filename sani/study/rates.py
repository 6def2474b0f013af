"""Which learning rate a repair takes: one grid for every method, one rule for all (`python -m sani.study rates`).

The fine-tuning's rate is chosen on base and unprotected models alone. A repair's is the one choice made after methods
were run, by the rule of `chosen` and on seeds that judge no claim; grid and rule were written down before.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..sanitizing import sanitize
from ..training import NonFiniteLoss, fine_tune
from .grid import Found, table_of, values
from .measured import file_of, keep, kept
from .prepare import prepare
from .runs import complete, control, control_run
from .setting import Setting

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
# Other readings of the last layer take the rate of SANI on lm-head.
SWEPT = ("sani", "repair-only", "pruning", "untied-repair-only", "untied-pruning", "retrain-at-equal-cost")


class Point(NamedTuple):
    """A model: what it has been through, and the learning rate of that."""

    method: str
    rate: float = 0.0


def points(first: bool = True) -> list[Point]:
    """Base and unprotected model, and every method at every rate; with the `first` seed fine-tuning at every rate."""
    ways = ("fine-tuned", *SWEPT) if first else SWEPT
    return [Point("base"), Point("unprotected"), *(Point(way, rate) for way in ways for rate in RATES)]


def _measure(setting: Setting, seed: int, point: Point) -> Found:
    data = prepare(setting, seed)
    options = setting.training | {"learning_rate": point.rate, "seed": seed}
    try:
        if point.method == "fine-tuned":
            model = fine_tune(data.base, data.raw, epochs=setting.epochs, **options)
        elif point.rate:
            unprotected = control(setting, seed, "unprotected")
            model = sanitize(unprotected, data.raw, point.method, setting.repair_epochs, base=data.base, **options)
        else:
            model = control(setting, seed, point.method)
    except NonFiniteLoss:
        return {"utility": (np.nan,)}  # a rate so high that nothing is left of the model
    return values(setting, seed, model, more=True)[0]


def table(setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """A row per seed, point and metric; what figures/measured lacks is made first, `jobs` side by side, seed by seed.

    Columns: seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    setting = replace(setting, repair_rates=())  # it does not depend on what is chosen of it
    path, names = file_of(setting, "rates"), ["seed", *Point._fields]
    known = kept(path, setting)
    for seed in seeds:
        there = set() if known is None else set(known[names].itertuples(index=False, name=None))
        missing = [point for point in points(seed == seeds[0]) if (seed, *point) not in there]
        if missing:
            complete(setting, [seed], [control_run(setting, "unprotected")], jobs, progress)
            new = table_of("rates", _measure, setting, [seed], missing, jobs, progress)
            known = pd.concat([known, new], ignore_index=True)
            keep(path, known, setting)
    return known[known["seed"].isin(seeds)].reset_index(drop=True)


def chosen(table: pd.DataFrame, delta: float) -> dict[str, float]:
    """The rate of each method's repair, as `Setting.repair_rates` has them, from means over seeds.

    Of the rates at which no more is regurgitated in place than by the base model, plus δ, the one of the highest
    utility on persons never trained on; where there is none, the one that regurgitates least.
    """
    means = table.groupby([*Point._fields, "metric"], observed=True)["value"].mean().unstack("metric")
    limit, found = float(means.loc["base", "regurgitation"].iloc[0]) + delta, {}
    for method in SWEPT:
        rows = means.loc[method].dropna(subset=["regurgitation", "utility_heldout"])
        private = rows[rows["regurgitation"] <= limit]
        best = private["utility_heldout"].idxmax() if len(private) else rows["regurgitation"].idxmin()
        found[method] = float(best)
    return found
