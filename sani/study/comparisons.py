"""Which points of the ablation and of distillation are compared, and their differences; written down before the runs.

Those that were not say so where the points are listed.
"""

from collections.abc import Sequence

import pandas as pd

from ..erasure import FILLS
from ..results.statistics import Comparison, paired
from .ablation import FRACTIONS, UNTIED, blocks_below, variant
from .distillation import TEXTS, Point, distilled
from .runs import readings
from .setting import Setting


def of_ablation(setting: Setting) -> list[Comparison]:
    """The comparisons that answer the ablation's questions, in their order; differences are `point` minus `against`."""
    read, blocks, usual, nothing = readings(setting), blocks_below(setting), variant(), variant(fraction=0)
    last, half, adds = "Why the last layer?", "Why 50 %?", "Does erasing add anything to repairing?"
    found = [Comparison(last, f"{t} instead of lm-head", variant(t), usual) for t in (*read[1:], *blocks)]
    for target in read[:3]:
        for fraction in FRACTIONS:
            what = f"{target}: {100 * fraction:g} % instead of 50 %"
            if fraction != 0.5:
                found.append(Comparison(half, what, variant(target, fraction), variant(target)))
    found += [Comparison(adds, f"{t} erased, or nothing", variant(t), nothing) for t in (*read, *blocks)]
    ordinary = variant(repair="ordinary"), variant(fraction=0, repair="ordinary")
    found += [
        Comparison(adds, "lm-head untied, or nothing", UNTIED, nothing),
        Comparison(adds, "lm-head erased, or only untied", usual, UNTIED),
        Comparison(adds, "lm-head erased, or nothing, both with ordinary repair", *ordinary),
        Comparison(adds, "lm-head erased, or nothing: sparing repair beyond ordinary repair", usual, nothing, ordinary),
    ]
    spares = "Must the repair spare listed terms?"
    for target in (*read[:2], ""):
        both = [variant(target, 0.5 if target else 0, repair=kind) for kind in ("ordinary", "spared")]
        found.append(Comparison(spares, f"{target or 'nothing'} erased: ordinary repair, or sparing", *both))
    chosen, filled = "Random or chosen neurons?", "What to fill them with?"
    for target in read[:2]:
        for neurons, name in (("largest", "largest"), ("active", "most active")):
            what = f"{target}: the {name}, or random ones"
            found.append(Comparison(chosen, what, variant(target, neurons=neurons), variant(target)))
    for target in read[:2]:
        for fill in FILLS[1:]:
            what = f"{target}: {fill} instead of zero"
            found.append(Comparison(filled, what, variant(target, fill=fill), variant(target)))
    return found


def of_distillation() -> list[Comparison]:
    """The comparisons that answer distillation's questions; differences are `point` minus `against`."""
    leaks, clean = "Does leaking survive distillation?", "Does forgetting survive distillation?"
    useful = "What do students keep of utility?"
    found = []
    for text in TEXTS:
        base, unprotected, sanitised = (distilled(method, text) for method in ("base", "unprotected", "sani"))
        for question, student, name in ((leaks, unprotected, "unprotected"), (clean, sanitised, "sanitised")):
            who, teacher = f"{text} text: student of the {name} teacher", Point(student.method, "teacher")
            found += [
                Comparison(question, f"{who}, or of the base teacher", student, base),
                Comparison(question, f"{who}, or its teacher", student, teacher),
                Comparison(useful, f"{who}, or one {name} itself", student, Point(student.method)),
            ]
        # Added when one seed had been seen.
        what = f"{text} text: student of the sanitised teacher, or of the unprotected one"
        found.append(Comparison(clean, what, sanitised, unprotected))
    return found


def differences(table: pd.DataFrame, comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Each comparison's difference, as `results.statistics.paired`; by setting, where the table has several.

    table: what `ablation.table` or `distillation.table` gives.
    """
    names = list(comparisons[0].point._fields)
    if "setting" not in table:
        return paired(table, names, comparisons)
    found = {setting: paired(rows, names, comparisons) for setting, rows in table.groupby("setting", sort=False)}
    return pd.concat(found, names=["setting"]).reset_index(level="setting").reset_index(drop=True)
