"""What of SANI matters: where, how much and what it erases, whether erasing adds to repairing, and what chance does.

Points, comparisons (`comparisons.of_ablation`) and margins were written down before the runs, but for UNTIED. All
differences are paired by seed: a seed's variants start from the same fine-tuned model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from ..erasure import FILLS, block_targets, erase
from ..importance import scores_of
from ..models import load_model
from ..training import objective_of, repair
from .grid import Found, table_of, values
from .prepare import prepare
from .runs import complete, control, control_run, readings
from .setting import Setting

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
NEURONS = {"random": "random", "largest": "magnitude", "active": "activation"}  # the tables' names: `erasure.NEURONS`
DRAWS = 5  # of the neurons, and of the repair's order and masks
STEP = 1000  # from one draw's seed to the next, so that none is the seed of another corpus
ISOLATED = "regurgitation of direct identifiers, isolated"


class Point(NamedTuple):
    """A model: what is erased, with what, which neurons, and how it is repaired."""

    method: str
    target: str = ""
    fraction: float = 0.0
    fill: str = ""
    neurons: str = ""
    repair: str = ""  # "spared": listed terms are no targets; "ordinary": every word is; "": none
    mask_seed: int = 0  # which draw of the neurons
    repair_seed: int = 0  # which draw of the repair's order and masks


def variant(target="lm-head", fraction=0.5, fill="zero", neurons="random", repair="spared", **seeds) -> Point:
    """SANI with variations; nothing is erased at fraction 0, and nothing repaired with repair=""."""
    if not fraction:
        return Point("repair-only", repair=repair, **seeds)
    return Point("sani" if repair else "erased", target, fraction, fill, neurons, repair, **seeds)


CONTROLS = tuple(Point(name) for name in ("base", "unprotected", "counterfactual", "logit-filter")) + (
    Point("retrain-at-equal-cost", repair="spared"),
)
# The erasure of lm-head gives the output matrix weights of its own; this is that alone. It and its comparisons were
# added after the values of two seeds had been seen.
UNTIED = Point("untied", "lm-head", 0.0, "zero", "random", "spared")


def blocks_below(setting: Setting) -> list[str]:
    """The names of the setting's model's blocks but the last, which is a reading of the last layer itself."""
    return block_targets(load_model(setting.model)[0])[:-1]


def points(setting: Setting) -> list[Point]:
    """Every model of the ablation: those compared, all fills with all choices, models just erased, and draws."""
    read, blocks = readings(setting), blocks_below(setting)
    found = [*CONTROLS, *(variant(target) for target in (*read, *blocks))]
    found += [variant(target, fraction) for target in read[:3] for fraction in FRACTIONS]
    found += [variant(fraction=0), UNTIED, variant(fraction=0, repair="ordinary")]
    found += [variant(target, repair="ordinary") for target in read[:2]]
    found += [variant(target, neurons=neurons) for target in read[:2] for neurons in NEURONS]
    found += [variant(target, fill=fill) for target in read[:2] for fill in FILLS]
    found += [variant(fill=fill, neurons=neurons) for fill in FILLS for neurons in NEURONS]
    found += [variant(target, repair="") for target in (*read, *blocks)]
    found += [variant(**{name: i}) for name in ("mask_seed", "repair_seed") for i in range(DRAWS)]
    return list(dict.fromkeys(found))


def _measure(setting: Setting, seed: int, point: Point) -> Found:
    data = prepare(setting, seed)
    if point in CONTROLS:
        model = control(setting, seed, point.method)
    else:
        model = control(setting, seed, "unprotected")
        if point.target:
            scores = scores_of(model, data.raw, point.target, NEURONS[point.neurons], progress=False)
            drawn = seed + STEP * point.mask_seed
            model = erase(model, point.target, point.fraction, point.fill, drawn, reference=data.base, scores=scores)
        if point.repair:
            objective, drawn = objective_of(model, spares=point.repair == "spared"), seed + STEP * point.repair_seed
            model = repair(model, data.raw, setting.repair_epochs, objective, seed=drawn, **setting.training)
    found, report = values(setting, seed, model)
    isolated = report.value("in_place", kind="direct", context="isolated")
    return found | {ISOLATED: (isolated, *report.interval("in_place", "direct", context="isolated"))}


def table(setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """A row per seed, point and metric; what is missing is made first, `jobs` side by side as in a study.

    Columns: seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    trained = ("unprotected", "counterfactual", "retrain-at-equal-cost")
    complete(setting, seeds, [control_run(setting, name) for name in trained], jobs, progress)
    return table_of("ablation", _measure, setting, seeds, points(setting), jobs, progress)
