"""What of SANI matters: where, how much and what it erases, whether erasing adds to repairing, and what chance does.

Points, comparisons and margins were written down before the runs, but for UNTIED. All differences are paired by seed:
a seed's variants start from the same fine-tuned model.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import pandas as pd
from scipy import stats

from . import study
from .costs import kept, of_points, rows_of, values
from .erasure import FILLS, NEURONS, block_targets, erase
from .evaluation import evaluate
from .material import Setting, inputs, prepare
from .models import load_model
from .runs import run_folder
from .sanitizing import sanitize, scores_of
from .study import Run
from .training import objective_of, repair

FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
DRAWS = 5  # of the neurons, and of the repair's order and masks
STEP = 1000  # from one draw's seed to the next, so that none is the seed of another corpus
MARGIN = 0.01  # a difference in regurgitation or utility that does not matter
UNDECIDED = "the data does not decide"
ISOLATED = "regurgitation of direct identifiers, isolated"
COMPARED = ("regurgitation", "regurgitation of direct identifiers", "utility", "utility_heldout")


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


def sani(target="lm-head", fraction=0.5, fill="zero", neurons="random", repair="spared", **seeds) -> Point:
    """SANI with variations; nothing is erased at fraction 0, and nothing repaired with repair=""."""
    if not fraction:
        return Point("repair-only", repair=repair, **seeds)
    return Point("sani" if repair else "erased", target, fraction, fill, neurons, repair, **seeds)


CONTROLS = tuple(Point(m) for m in ("base", "unprotected", "counterfactual", "logit-filter")) + (
    Point("retrain-at-equal-cost", repair="spared"),
)


# The erasure of lm-head gives the output matrix weights of its own; this is that alone. It and its comparisons were
# added after the values of two seeds had been seen.
UNTIED = Point("untied", "lm-head", 0.0, "zero", "random", "spared")


class Comparison(NamedTuple):
    """One question's difference of two points."""

    question: str
    what: str
    point: tuple
    against: tuple
    beyond: tuple[tuple, tuple] | None = None  # a difference of two other points, which is subtracted


def compared(setting: Setting) -> list[Comparison]:
    """The comparisons that answer the questions, in their order; differences are `point` minus `against`."""
    read = study.readings(setting)
    blocks = block_targets(load_model(setting.model)[0])[:-1]  # the last block is a reading itself
    found = [Comparison("Why the last layer?", f"{t} instead of lm-head", sani(t), sani()) for t in read[1:]]
    found += [Comparison("Why the last layer?", f"{b} instead of lm-head", sani(b), sani()) for b in blocks]
    for target in read[:3]:
        for fraction in FRACTIONS:
            if fraction not in (0.0, 0.5):
                what = f"{target}: {100 * fraction:g} % instead of 50 %"
                found.append(Comparison("Why 50 %?", what, sani(target, fraction), sani(target)))
    adds = "Does erasing add anything to repairing?"
    found += [Comparison(adds, f"{target} erased, or nothing", sani(target), sani(fraction=0)) for target in read]
    found += [Comparison(adds, f"{block} erased, or nothing", sani(block), sani(fraction=0)) for block in blocks]
    found.append(Comparison(adds, "lm-head untied, or nothing", UNTIED, sani(fraction=0)))
    found.append(Comparison(adds, "lm-head erased, or only untied", sani(), UNTIED))
    ordinary = sani(repair="ordinary"), sani(fraction=0, repair="ordinary")
    found.append(Comparison(adds, "lm-head erased, or nothing, both with ordinary repair", *ordinary))
    both = "lm-head erased, or nothing: sparing repair beyond ordinary repair"
    found.append(Comparison(adds, both, sani(), sani(fraction=0), ordinary))
    spares = "Must the repair spare listed terms?"
    for target, name in ((read[0], read[0]), (read[1], read[1]), ("", "nothing")):
        both = [sani(target or read[0], 0.5 if target else 0, repair=kind) for kind in ("ordinary", "spared")]
        found.append(Comparison(spares, f"{name} erased: ordinary repair, or sparing", *both))
    for target in read[:2]:
        for neurons in NEURONS[1:]:
            what = f"{target}: the {'most ' * (neurons == 'active')}{neurons}, or random ones"
            found.append(Comparison("Random or chosen neurons?", what, sani(target, neurons=neurons), sani(target)))
    for target in read[:2]:
        for fill in FILLS[1:]:
            what = f"{target}: {fill} instead of zero"
            found.append(Comparison("What to fill them with?", what, sani(target, fill=fill), sani(target)))
    return found


def points(setting: Setting) -> list[Point]:
    """Every model of the ablation: those compared, all fills with all choices, models just erased, and draws."""
    found = [*CONTROLS, sani()]
    for comparison in compared(setting):
        found += [comparison.against, comparison.point, *(comparison.beyond or ())]
    found += [sani(fill=fill, neurons=neurons) for fill in FILLS for neurons in NEURONS]
    erased = dict.fromkeys(p.target for p in found if p.fraction)
    found += [sani(target, repair="") for target in erased]
    found += [sani(**{name: i}) for name in ("mask_seed", "repair_seed") for i in range(DRAWS)]
    return list(dict.fromkeys(found))


def measured(setting: Setting, seed: int, point: Point) -> pd.DataFrame:
    """The rows of one point, from its run folder or made now."""
    folder = run_folder("ablation", "ablation", **asdict(setting), inputs=inputs(setting), seed=seed, point=point)
    return kept(folder, lambda: _measure(setting, seed, point))


def _measure(setting: Setting, seed: int, point: Point) -> pd.DataFrame:
    data, raw = prepare(setting, seed), setting.objectives[0]
    if point.method in ("base", "counterfactual", "retrain-at-equal-cost"):
        model = study.model_of(setting, seed, Run("" if point.method == "base" else point.method))
    else:
        model = study.model_of(setting, seed, Run(raw))
    if point.method == "logit-filter":
        model = sanitize(model, data.raw, "logit-filter")
    if point.target:
        scores = scores_of(model, data.raw, point.target, point.neurons, progress=False)
        drawn = seed + STEP * point.mask_seed
        model = erase(model, point.target, point.fraction, point.fill, drawn, reference=data.base, scores=scores)
    if point.repair and point.method != "retrain-at-equal-cost":
        model = repair(
            model, data.raw, setting.repair_epochs, objective_of(model, spares=point.repair == "spared"),
            learning_rate=setting.learning_rate, batch_size=setting.batch_size, seed=seed + STEP * point.repair_seed,
            progress=False,
        )  # fmt: skip
    report = evaluate(model, data.raw, heldout=data.heldout, progress=False)
    found = values(report)
    found[ISOLATED] = (
        report.value("in_place", kind="direct", context="isolated"), *report.interval("in_place_isolated", "direct")
    )  # fmt: skip
    return rows_of({"seed": seed} | point._asdict(), found)


def complete(setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """A row per seed, point and metric; what is missing is made first, `jobs` side by side as in a study.

    Columns: seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    trained = [Run(name) for name in (setting.objectives[0], "counterfactual", "retrain-at-equal-cost")]
    study.complete(setting, seeds, trained, jobs, progress)
    return of_points(measured, setting, seeds, points(setting), jobs, progress)


def effects(table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Each comparison's difference, as `paired`."""
    return paired(table, list(Point._fields), compared(setting))


def paired(table: pd.DataFrame, names: Sequence[str], comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Each comparison's difference, paired by seed: mean, 95 % interval (Student's t), Cohen's d_z, and the verdict.

    `names` are the columns that make up a point. `higher` and `lower` where the interval excludes 0, with a note where
    it lies within ± MARGIN; `no difference that matters` where it lies within and holds 0; else `the data does not
    decide`. Intervals are not corrected for their number. Needs two seeds or more.
    """
    wide = table.set_index(["seed", *names, "metric"])["value"].unstack([*names, "metric"])
    rows = []
    for comparison in comparisons:
        for metric in COMPARED:
            difference = wide[(*comparison.point, metric)] - wide[(*comparison.against, metric)]
            if comparison.beyond:
                one, other = comparison.beyond
                difference = difference - (wide[(*one, metric)] - wide[(*other, metric)])
            difference = difference.dropna()
            n, mean, sd = len(difference), difference.mean(), difference.std()
            half = stats.t.ppf(0.975, n - 1) * sd / n**0.5 if n > 1 else float("nan")
            rows.append(
                comparison._asdict() | {
                    "metric": metric, "value": mean, "low": mean - half, "high": mean + half,
                    "d_z": mean / sd if sd > 0 else float("nan"), "seeds": n, "verdict": verdict(mean, half),
                }
            )  # fmt: skip
    return pd.DataFrame(rows).drop(columns=["point", "against", "beyond"])


def verdict(mean: float, half: float) -> str:
    """What an interval mean ± half says."""
    small = abs(mean) + half < MARGIN
    if abs(mean) > half:
        return ("higher" if mean > 0 else "lower") + (f", by less than {MARGIN:g}" if small else "")
    return "no difference that matters" if small else UNDECIDED


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """What chance does: sd of each metric over draws of the neurons, over draws of the repair, and over the seeds.

    The first two are within a seed, pooled over seeds; the last varies corpus, training and all. Intervals are 95 %,
    from χ² with `freedom` degrees of freedom.
    """
    usual = pd.Series(sani()._asdict()).drop(["mask_seed", "repair_seed"])
    drawn = table[(table[usual.index] == usual).all(axis=1)]
    rows = []
    for metric in COMPARED:
        of_metric = drawn[drawn["metric"] == metric]
        first = {name: of_metric[name] == 0 for name in ("mask_seed", "repair_seed")}
        for source, chosen in (
            ("neurons", first["repair_seed"]), ("repair", first["mask_seed"]),
            ("everything", first["mask_seed"] & first["repair_seed"]),
        ):  # fmt: skip
            values = of_metric[chosen]
            groups = values.groupby(values["seed"] if source != "everything" else values["method"])["value"]
            sd, freedom = groups.var().mean() ** 0.5, int((groups.count() - 1).sum())
            low, high = (sd * (freedom / stats.chi2.ppf(q, freedom)) ** 0.5 for q in (0.975, 0.025))
            rows.append((metric, source, sd, low, high, freedom))
    return pd.DataFrame(rows, columns=["metric", "source", "value", "low", "high", "freedom"])


def answered(found: pd.DataFrame) -> str:
    """A plain answer to each question, in Markdown, from `paired`: which differ, and which way."""
    lines = []
    for question, of_question in found.groupby("question", sort=False):
        lines.append(f"\n**{question}**\n")
        for metric in ("regurgitation", "utility"):
            rows = of_question[of_question["metric"] == metric]
            said = [
                f"*{name}*: " + "; ".join(f"{row.what} ({row.value:+.4f})" for row in group.itertuples())
                for name, group in rows.groupby("verdict")
            ]
            decided = (rows["verdict"] != UNDECIDED).any()
            lines.append(f"- {metric}: {'. '.join(said) if decided else UNDECIDED}.")
    return "\n".join(lines)


def answers(found: pd.DataFrame, chance: pd.DataFrame) -> str:
    """A plain answer to each question, and to that of the variance, in Markdown, from `effects` and `spread`."""
    lines = [answered(found), "\n**What of the variance?**\n"]
    for metric in ("regurgitation", "utility"):
        of_metric = chance[chance["metric"] == metric].set_index("source")
        said = ", ".join(f"{row.value:.4f} [{row.low:.4f}, {row.high:.4f}] over {source}"
                         for source, row in of_metric.iterrows())  # fmt: skip
        ratio = (of_metric.loc["neurons", "value"] / of_metric.loc["repair", "value"]) ** 2
        n, r = of_metric.loc["neurons", "freedom"], of_metric.loc["repair", "freedom"]
        low, high = ratio / stats.f.ppf(0.975, n, r), ratio / stats.f.ppf(0.025, n, r)
        said += {
            (True, False): "; the draw of the neurons matters more",
            (False, True): "; the draw of the repair matters more",
        }.get((low > 1, high < 1), f"; {UNDECIDED} which of the two draws matters more")
        lines.append(f"- sd of {metric}: {said}")
    return "\n".join(lines)
