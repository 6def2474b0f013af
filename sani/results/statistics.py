"""Statistics of the tables: intervals, verdicts, rank correlation, paired differences, and what chance does."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

MARGIN = 0.01  # a difference in regurgitation or utility that does not matter
UNDECIDED = "the data does not decide"
FEWEST = 5  # values without which a claim stays undecided
COMPARED = ("regurgitation", "regurgitation of direct identifiers", "utility", "utility_heldout")


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
    for comparison in comparisons:
        for metric in COMPARED:
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
    for metric in COMPARED:
        of_metric = drawn[drawn["metric"] == metric]
        neurons, repair = of_metric["repair_seed"] == 0, of_metric["mask_seed"] == 0
        for source, chosen in (("neurons", neurons), ("repair", repair), ("everything", neurons & repair)):
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
        which = "neurons" if low > 1 else "repair" if high < 1 else ""
        more = f"the draw of the {which} matters more" if which else f"{UNDECIDED} which of the two draws matters more"
        lines.append(f"- sd of {metric}: {said}; {more}")
    return "\n".join(lines)


def judge(values: pd.Series, sign: str, margin: float) -> dict:
    """Mean, sd, 95 % interval (Student's t over seeds), slack and verdict of a condition's values.

    The slack is the mean's distance from breaking the rule; negative if it breaks it.
    """
    mean, sd, n = float(values.mean()), float(values.std()), int(values.count())
    half = half_width(sd, n)
    low, high = mean - half, mean + half
    meets, misses, slack = {
        ">": (low > margin, high <= margin, mean - margin),
        ">=": (low >= margin, high < margin, mean - margin),
        "<=": (high <= margin, low > margin, margin - mean),
        "within": (low >= -margin and high <= margin, low > margin or high < -margin, margin - abs(mean)),
    }[sign]
    verdict = "undecided" if n < FEWEST else "holds" if meets else "contradicted" if misses else "undecided"
    return {"mean": mean, "sd": sd, "low": low, "high": high, "seeds": n, "slack": slack, "verdict": verdict}


def rarest(terms: pd.DataFrame) -> pd.Series:
    """Whether a term is among the rarest tenth of its seed's, ties with the last of them included."""
    return terms["iterations"] <= terms.groupby("seed")["iterations"].transform(lambda n: n.quantile(0.1))


def spearman(terms: pd.DataFrame, column: str = "said") -> pd.Series:
    """Spearman's ρ, by seed, of how often a term stands in the text and a count of it."""
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
