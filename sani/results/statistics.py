"""Statistics of the tables: intervals, verdicts, rank correlation, paired differences, and what chance does."""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

MARGIN = 0.01  # a difference in regurgitation or utility that does not matter
UNDECIDED = "the data does not decide"
FEWEST = 5  # values without which a claim stays undecided
CHANGED = 10  # terms without which a sign test tests nothing
MEASURES = ("paper", "in_place")  # of regurgitation, and so of privacy
VERDICTS = ("contradicted", "equal", "not testable", "undecided", "holds")  # the worst first
COMPARED = (
    "regurgitation", "regurgitation of direct identifiers", "paper", "paper of direct identifiers",
    "exposure of names", "exposure of rare names", "utility", "utility_heldout",
)  # fmt: skip


def half_width(sd: float | pd.Series, n: int | pd.Series) -> float | pd.Series:
    """Half of the 95 % interval (Student's t) of a mean of n values of standard deviation sd; NaN where sd is.

    One value or none has no sd (NaN), and so no interval.
    """
    return stats.t.ppf(0.975, np.maximum(n, 2) - 1) * sd / np.sqrt(n)


class Comparison(NamedTuple):
    """One question's difference of two points."""

    question: str
    what: str
    point: tuple
    against: tuple
    beyond: tuple[tuple, tuple] | None = None  # a difference of two other points, which is subtracted


def paired(table: pd.DataFrame, names: Sequence[str], comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Each comparison's difference, paired by seed: mean, 95 % interval (Student's t), Cohen's d_z, and the verdict.

    `names` are the columns that make up a point. `higher` and `lower` where the interval excludes 0, with a note where
    it lies within ± MARGIN; `no difference that matters` where it lies within and holds 0; else `the data does not
    decide`. Intervals are not corrected for their number. Needs two seeds or more.
    """
    wide = table.set_index(["seed", *names, "metric"])["value"].unstack([*names, "metric"])
    rows = []
    metrics = [metric for metric in COMPARED if metric in set(table["metric"])]
    for comparison in comparisons:
        for metric in metrics:
            difference = wide[(*comparison.point, metric)] - wide[(*comparison.against, metric)]
            if comparison.beyond:
                one, other = comparison.beyond
                difference = difference - (wide[(*one, metric)] - wide[(*other, metric)])
            difference = difference.dropna()
            n, mean, sd = len(difference), difference.mean(), difference.std()
            half = half_width(sd, n)
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


def spread(table: pd.DataFrame, usual: NamedTuple) -> pd.DataFrame:
    """What chance does: sd of each metric over draws of the neurons, over draws of the repair, and over the seeds.

    The first two are within a seed, pooled over seeds; the last varies corpus, training and all. Intervals are 95 %,
    from χ² with `freedom` degrees of freedom.
    """
    usual = pd.Series(usual._asdict()).drop(["mask_seed", "repair_seed"])
    drawn = table[(table[usual.index] == usual).all(axis=1)]
    rows = []
    for metric in (metric for metric in COMPARED if metric in set(table["metric"])):
        of_metric = drawn[drawn["metric"] == metric]
        neurons, repair = of_metric["repair_seed"] == 0, of_metric["mask_seed"] == 0
        for source, chosen in (("neurons", neurons), ("repair", repair), ("everything", neurons & repair)):
            values = of_metric[chosen]
            groups = values.groupby(values["seed"] if source != "everything" else values["method"])["value"]
            sd, freedom = groups.var().mean() ** 0.5, int((groups.count() - 1).sum())
            low, high = (sd * (freedom / stats.chi2.ppf(q, freedom)) ** 0.5 for q in (0.975, 0.025))
            rows.append((metric, source, sd, low, high, freedom))
    return pd.DataFrame(rows, columns=["metric", "source", "value", "low", "high", "freedom"])


def judge(values: pd.Series, sign: str, margin: float, same: float | None = None, testable: bool = True) -> dict:
    """Mean, sd, 95 % interval (Student's t over seeds), slack, verdict and p of a condition's values.

    The verdict is that of the interval: `equal` where it lies within ± `same` (given where a rule asks for a
    difference: one too small to matter neither meets such a rule nor contradicts it, so this comes first), `holds`
    where all of it meets the rule, `contradicted` where none does, else `undecided`. `not testable` where `testable` is
    false; below FEWEST values `undecided`. The slack is the mean's distance from breaking the rule; negative if it
    breaks it. p: the smallest α whose 1 − α interval gives the same verdict; of `undecided`, any other.
    """
    mean, sd, n = float(values.mean()), float(values.std()), int(values.count())
    half = half_width(sd, n)
    low, high = mean - half, mean + half

    def p_of(lead: float) -> float:
        return float(lead < 0) if sd == 0 else min(1.0, 2 * float(special.stdtr(max(n, 2) - 1, -lead / sd * n**0.5)))

    above, below = (lambda edge: p_of(mean - edge)), (lambda edge: p_of(edge - mean))
    meets, misses, slack, ps = {
        ">": (low > margin, high <= margin, mean - margin, (above(margin), below(margin))),
        ">=": (low >= margin, high < margin, mean - margin, (above(margin), below(margin))),
        "<=": (high <= margin, low > margin, margin - mean, (below(margin), above(margin))),
        "within": (
            low >= -margin and high <= margin, low > margin or high < -margin, margin - abs(mean),
            (max(above(-margin), below(margin)), min(above(margin), below(-margin))),
        ),
    }[sign]  # fmt: skip
    p = dict(zip(("holds", "contradicted"), ps))
    if same is not None:
        p["equal"] = max(above(-same), below(same))
    verdict = "holds" if meets else "contradicted" if misses else "undecided"
    if same is not None and low >= -same and high <= same:
        verdict = "equal"
    found = {"mean": mean, "sd": sd, "low": low, "high": high, "seeds": n, "slack": slack}
    return found | _verdict_and_p(verdict, p, n, testable)


def judge_signs(moves: pd.Series) -> dict:
    """As `judge`, of whether more terms rise than fall: a sign test of moves (positive, negative, 0) over all seeds.

    The mean is the share that rose of those that changed, its interval Clopper and Pearson's; the sd is NaN. Under
    CHANGED of them: `not testable`. The test takes terms as independent, which those of one seed are not quite.
    """
    rose, fell = int((moves > 0).sum()), int((moves < 0).sum())
    changed, seeds = rose + fell, moves.index.get_level_values("seed").nunique()
    low, high = stats.binomtest(rose, changed).proportion_ci() if changed else (float("nan"), float("nan"))
    mean = rose / changed if changed else float("nan")
    tests = (stats.binomtest(n, max(changed, 1), alternative="greater") for n in (rose, fell))
    more, fewer = (min(1.0, 2 * float(test.pvalue)) for test in tests)
    verdict = "holds" if low > 0.5 else "contradicted" if high < 0.5 else "undecided"
    found = {"mean": mean, "sd": float("nan"), "low": low, "high": high, "seeds": seeds, "slack": mean - 0.5}
    return found | _verdict_and_p(verdict, {"holds": more, "contradicted": fewer}, seeds, changed >= CHANGED)


def _verdict_and_p(verdict: str, p: Mapping[str, float], seeds: int, testable: bool) -> dict:
    """The verdict that stands, with its p: NaN where too few seeds decide nothing, or nothing can be tested."""
    if seeds < FEWEST or not testable:
        return {"verdict": "undecided" if seeds < FEWEST else "not testable", "p": float("nan")}
    return {"verdict": verdict, "p": p.get(verdict, min(p.values()))}


def all_of(parts: Sequence[dict]) -> dict:
    """Of findings of `judge`, the one that decides whether all hold (worst verdict, least slack), with the p of it all.

    Where all hold, p is their largest, since each must. Where one does not, one of them sufficed: p is the smallest of
    that verdict's, times the number of findings (Bonferroni).
    """
    worst = min(parts, key=lambda f: (VERDICTS.index(f["verdict"]), np.nan_to_num(f["slack"], nan=-np.inf)))
    p = [f["p"] for f in parts if f["verdict"] == worst["verdict"]]
    if worst["verdict"] in ("contradicted", "equal"):
        return worst | {"p": min(1.0, len(parts) * min(p))}
    return worst | {"p": max(p) if worst["verdict"] == "holds" else worst["p"]}


def denied(found: dict) -> dict:
    """The finding that a rule is not met: what held is contradicted, and the other way round."""
    flipped = {"holds": "contradicted", "contradicted": "holds"}.get(found["verdict"], found["verdict"])
    return found | {"verdict": flipped, "slack": -found["slack"]}


def any_of(parts: Sequence[dict]) -> dict:
    """Of findings of `judge` without `equal`, the one that decides whether any holds, with the p of it all."""
    return denied(all_of([denied(found) for found in parts]))


def holm(p: pd.Series) -> pd.Series:
    """p-values adjusted by Holm's method for their number; a NaN stays one, and counts as a test all the same."""
    ordered = p.fillna(1.0).sort_values(kind="stable")
    steps = (ordered * np.arange(len(p), 0, -1)).clip(upper=1.0).cummax()
    return steps.reindex(p.index).where(p.notna())


def deciles(terms: pd.DataFrame, lot: int = 0) -> pd.Series:
    """The tenth of its seed's terms that a term is in by iterations, 1 the rarest; ties in an order drawn by lot."""
    drawn = terms.assign(lot=np.random.default_rng(lot).random(len(terms))).sort_values(["iterations", "lot"])
    seeds = drawn.groupby("seed")["iterations"]
    tenths = -(-10 * (seeds.cumcount() + 1) // seeds.transform("size"))  # rounded up
    return tenths.reindex(terms.index)


def rarest(terms: pd.DataFrame, lot: int = 0) -> pd.Series:
    """Whether a term is among the rarest tenth of its seed's; of ties with the last of them, those drawn by lot."""
    return deciles(terms, lot) == 1


def spearman(terms: pd.DataFrame, column: str = "predicted") -> pd.Series:
    """Spearman's ρ, by seed, of how often a term stands in the text and another column; NaN where that is constant."""
    pairs = terms.groupby("seed")[["iterations", column]]
    return pairs.apply(lambda t: t["iterations"].corr(t[column], method="spearman"))


def by_repetitions(terms: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Terms grouped by how often they stand in the text: number of terms, iterations, and the sums of columns."""
    edges = [0, 1, 3, 9, 29, 99, 299, 999, float("inf")]
    names = ["1", "2–3", "4–9", "10–29", "30–99", "100–299", "300–999", "1000 +"]
    groups = terms.groupby(pd.cut(terms["iterations"], edges, labels=names).rename("repetitions"), observed=True)
    sums = groups[["iterations", *columns]].sum()
    sums.insert(0, "terms", groups.size())
    return sums


def sign_test(before: pd.Series, after: pd.Series) -> dict[str, float]:
    """How many values rose, fell and stayed, and the two-sided p of as many rising as falling (NaN if none moved)."""
    rose, fell = int((after > before).sum()), int((after < before).sum())
    p = stats.binomtest(rose, rose + fell).pvalue if rose + fell else float("nan")
    return {"rose": rose, "fell": fell, "stayed": len(before) - rose - fell, "p": p}


def spearman_interval(terms: pd.DataFrame, column: str, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Spearman's ρ of iterations and a column over the terms, with its 95 % percentile bootstrap interval.

    ρ is not defined where all values of the column are equal; such resamples, which a column of few counts above 0
    gives, are left out.
    """
    pair = (terms["iterations"].to_numpy(), terms[column].to_numpy())
    with warnings.catch_warnings():
        for kind in (stats.ConstantInputWarning, stats.DegenerateDataWarning):
            warnings.simplefilter("ignore", kind)
        found = stats.bootstrap(
            pair, lambda a, b: stats.spearmanr(a, b).statistic,
            paired=True, vectorized=False, n_resamples=draws, method="percentile", rng=seed,
        )  # fmt: skip
    low, high = np.nanquantile(found.bootstrap_distribution, [0.025, 0.975])
    return {"ρ": stats.spearmanr(*pair).statistic, "low": low, "high": high}
