"""What decides a claim: intervals, verdicts and p-values, joined and corrected, by hand."""

import itertools
import math

import pandas as pd
import pytest
from scipy import stats

from sani.results.plain import by_verdict
from sani.results.statistics import (
    CHANGED,
    VERDICTS,
    all_of,
    any_of,
    deciles,
    denied,
    holm,
    judge,
    judge_signs,
    rarest,
    spearman,
)


def series(*values):
    return pd.Series(values, index=range(len(values)), dtype=float)


def test_interval_and_p_by_hand():
    """1…5: mean 3, sd √2.5, t(0.975, 4) = 2.776445; half-width 2.776445 · √2.5 / √5 = 1.963243; t against 0: 3√2."""
    found = judge(series(1, 2, 3, 4, 5), ">", 0.0)
    assert found["mean"] == 3 and found["sd"] == pytest.approx(math.sqrt(2.5)) and found["seeds"] == 5
    assert found["low"] == pytest.approx(3 - 1.963243, abs=1e-5)
    assert found["high"] == pytest.approx(3 + 1.963243, abs=1e-5)
    assert found["p"] == pytest.approx(0.013236, abs=1e-6)  # two-sided, Student's t of 4.2426 with 4 degrees of freedom


EDGES = [
    (">", 1.0, 3.0, "holds"),
    (">", 1.1, 3.0, "undecided"),
    (">", 4.97, 3.0, "contradicted"),
    (">", 4.9, 3.0, "undecided"),
    (">=", -2.0, 0.0, "holds"),
    (">=", -1.9, 0.0, "undecided"),
    (">=", 2.0, 0.0, "contradicted"),
    ("<=", 2.0, 0.0, "holds"),
    ("<=", 1.9, 0.0, "undecided"),
    ("<=", -2.0, 0.0, "contradicted"),
    ("within", 2.0, 0.0, "holds"),
    ("within", 1.9, 0.0, "undecided"),
    ("within", 2.0, 4.0, "contradicted"),
    ("within", 2.0, -4.0, "contradicted"),
    ("within", 2.0, 3.0, "undecided"),
]


@pytest.mark.parametrize("sign, margin, shift, verdict", EDGES)
def test_verdicts_follow_from_the_interval_and_so_does_p(sign, margin, shift, verdict):
    """The interval is shift ± 1.9632."""
    found = judge(series(-2, -1, 0, 1, 2) + shift, sign, margin)
    assert found["verdict"] == verdict and (found["p"] < 0.05) == (verdict != "undecided")
    assert (found["slack"] > 0) == (verdict == "holds") or verdict == "undecided"


@pytest.mark.parametrize(
    "shift, sign, margin, same, verdict",
    [
        (0.0, ">", 0.0, 2.0, "equal"),
        (0.0, ">", 0.0, 1.9, "undecided"),
        (0.03, ">", 0.0, 2.0, "equal"),
        (0.04, ">", 0.0, 2.0, "undecided"),  # reaches 2.0032
        (-2.0, ">", 0.0, 4.0, "equal"),  # all below 0, and too little to matter
        (-2.0, ">", 0.0, 3.9, "contradicted"),
        (2.0, ">", 0.0, 4.0, "equal"),
        (2.0, ">", 0.0, 3.9, "holds"),
        (0.0, ">", 2.0, 2.0, "equal"),  # where the rule itself has the margin
        (-2.0, ">", 2.0, 2.0, "contradicted"),
    ],
)
def test_a_difference_too_small_to_matter_is_equal(shift, sign, margin, same, verdict):
    found = judge(series(-2, -1, 0, 1, 2) + shift, sign, margin, same=same)
    assert found["verdict"] == verdict and (found["p"] < 0.05) == (verdict != "undecided")


@pytest.mark.parametrize("margin", [0.5, 2.0, 2.9, 4.0, 9.0])
def test_p_is_that_of_student_s_test(margin):
    values = series(1, 2, 3, 4, 5.5)
    two_sided = stats.ttest_1samp(values, margin).pvalue
    assert judge(values, ">", margin)["p"] == pytest.approx(two_sided)
    assert judge(values, ">=", margin)["p"] == pytest.approx(two_sided)
    assert judge(-values, "<=", -margin)["p"] == pytest.approx(two_sided)
    sides = [2 * stats.ttest_1samp(values, edge, alternative=way).pvalue
             for edge, way in ((-margin, "greater"), (margin, "less"))]  # fmt: skip
    found = judge(values, "within", margin)
    if found["verdict"] == "holds":
        assert found["p"] == pytest.approx(max(sides))


def test_too_few_seeds_decide_nothing_and_equal_values_do():
    for values in (series(9, 9, 9, 9), series(9, 9, 9, 9, float("nan")), series(0.5)):
        for options in ({}, {"same": 99.0}, {"testable": False}):
            found = judge(values, ">", 0.0, **options)
            assert found["verdict"] == "undecided" and math.isnan(found["p"])
    assert judge(series(0, 0, 0, 0, 0), ">", 0.0)["verdict"] == "contradicted"
    assert judge(series(0, 0, 0, 0, 0), ">", 0.0, same=0.0)["verdict"] == "equal"
    assert judge(series(0, 0, 0, 0, 0), ">=", 0.0)["verdict"] == "holds"
    found = judge(series(0, 0, 0, 0, 0), "<=", 0.0)
    assert found["verdict"] == "holds" and found["p"] == 0


def test_what_cannot_be_tested_is_neither_held_nor_contradicted():
    for shift in (-9.0, 0.0, 9.0):
        found = judge(series(1, 2, 3, 4, 5) + shift, ">", 0.0, same=99.0, testable=False)
        assert found["verdict"] == "not testable" and math.isnan(found["p"]) and found["mean"] == 3 + shift


def moves(*by_seed):
    index = [(seed, f"term {i}") for seed, values in enumerate(by_seed) for i in range(len(values))]
    values = list(itertools.chain(*by_seed))
    return pd.Series(values, index=pd.MultiIndex.from_tuples(index, names=["seed", "subset"]), dtype=float)


def test_sign_test_of_all_seeds_by_hand():
    """10 of 10: p = 2 / 2¹⁰, and 0.025 = low¹⁰. Unchanged terms count for nothing but their seed."""
    found = judge_signs(moves([1, 3, 1, 0], [1, 1, 2], [1, 1, 1], [1], [0]))
    assert found["verdict"] == "holds" and found["mean"] == 1 and found["seeds"] == 5
    assert found["p"] == pytest.approx(2 / 2**10) and found["low"] == pytest.approx(0.025 ** (1 / 10))
    found = judge_signs(-moves([1, 3, 1, 0], [1, 1, 2], [1, 1, 1], [1], [0]))
    assert found["verdict"] == "contradicted" and found["mean"] == 0 and found["p"] == pytest.approx(2 / 2**10)
    found = judge_signs(moves([1, -1], [1, -1], [5, -1], [1, -1], [1, -1]))
    assert found["verdict"] == "undecided" and found["mean"] == 0.5
    # 9 of 10: p = 2 · (10 + 1) / 2¹⁰; 8 of 10: 2 · (45 + 10 + 1) / 2¹⁰.
    assert judge_signs(moves([1] * 9 + [-1], [0], [0], [0], [0]))["p"] == pytest.approx(22 / 2**10)
    found = judge_signs(moves([1] * 8 + [-1] * 2, [0], [0], [0], [0]))
    assert found["verdict"] == "undecided" and found["p"] == pytest.approx(112 / 2**10)


def test_a_sign_test_of_under_ten_changed_terms_or_five_seeds_tests_nothing():
    assert CHANGED == 10
    assert judge_signs(moves([1] * 9, [0], [0], [0], [0]))["verdict"] == "not testable"
    nothing = judge_signs(moves([0], [0], [0], [0], [0]))
    assert nothing["verdict"] == "not testable" and math.isnan(nothing["mean"]) and math.isnan(nothing["p"])
    found = judge_signs(moves([1] * 20, [0], [0], [0]))
    assert found["verdict"] == "undecided" and math.isnan(found["p"])


def found(verdict, slack=0.1, p=0.01, **more):
    return {"verdict": verdict, "slack": slack, "p": p, **more}


def test_all_of_takes_the_worst_and_its_p():
    assert all_of([found("holds", 0.2, 0.01), found("holds", 0.1, 0.002)]) == found("holds", 0.1, 0.01)
    broken = found("contradicted", -0.1, 0.02)
    assert all_of([found("holds"), found("undecided", -9, 0.3), broken])["p"] == pytest.approx(0.06)
    two = all_of([broken, found("contradicted", -0.3, 0.001)])
    assert two["slack"] == -0.3 and two["p"] == pytest.approx(0.002)
    assert all_of([found("contradicted", -0.1, 0.4)] * 3)["p"] == 1.0
    for worse, better in itertools.combinations(VERDICTS, 2):
        assert all_of([found(better, -9), found(worse, 9)])["verdict"] == worse
    assert VERDICTS[0] == "contradicted" and VERDICTS[-1] == "holds"
    assert all_of([found("undecided", 1, 0.3), found("undecided", float("nan"), 0.2)])["p"] == 0.2


def test_denied_and_any_of_are_the_logic_of_three_values():
    three = ("contradicted", "undecided", "holds")
    for a, b in itertools.product(three, repeat=2):
        best = max(a, b, key=three.index)
        assert any_of([found(a), found(b)])["verdict"] == best
    assert denied(found("holds", 0.1)) == found("contradicted", -0.1)
    assert denied(found("not testable"))["verdict"] == "not testable"
    # One of two sufficed, so its p counts twice; both failed, so the larger does.
    assert any_of([found("holds", 0.1, 0.01), found("contradicted", -0.1, 0.001)]) == found("holds", 0.1, 0.02)
    assert any_of([found("contradicted", -0.1, 0.01), found("contradicted", -0.2, 0.001)])["p"] == 0.01
    assert any_of([found("contradicted", -0.1), found("contradicted", -0.2)])["slack"] == -0.1


def test_holm_by_hand():
    """0.005 · 4, 0.01 · 3, 0.03 · 2, and 0.04 · 1, which may not fall below the one before."""
    assert holm(pd.Series([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(pd.Series([0.6, 0.5])).tolist() == [1.0, 1.0]
    assert holm(pd.Series([0.02, 0.02], index=[7, 3])).to_dict() == {7: 0.04, 3: 0.04}
    corrected = holm(pd.Series([float("nan"), 0.01, float("nan")]))
    assert corrected[1] == pytest.approx(0.03) and corrected.isna().tolist() == [True, False, True]


def terms(*times_by_seed):
    rows = [(seed, i, n) for seed, times in enumerate(times_by_seed) for i, n in enumerate(times)]
    return pd.DataFrame(rows, columns=["seed", "subset", "iterations"]).set_index(["seed", "subset"])


def test_deciles_and_rarest_tenth_by_hand():
    table = terms([*range(1, 21)], [*range(10, 0, -1)])
    assert deciles(table).tolist() == [d for d in range(1, 11) for _ in "ab"] + [*range(10, 0, -1)]
    assert rarest(table).tolist() == [True, True] + [False] * 18 + [False] * 9 + [True]
    assert not rarest(terms([1] * 9)).any()  # a tenth of nine terms is none


def test_ties_are_drawn_by_lot_which_does_not_look_at_what_is_predicted():
    table = terms([1] * 40, [1] * 30 + [2] * 10)
    drawn = rarest(table)
    assert drawn.groupby("seed").sum().tolist() == [4, 4]
    assert deciles(table).groupby("seed").value_counts().unique().tolist() == [4]
    assert drawn.equals(rarest(table.assign(predicted=range(80)))) and drawn.equals(rarest(table))
    lots = {tuple(rarest(table, lot)) for lot in range(5)}
    assert len(lots) == 5 and all(not any(lot[70:]) for lot in lots)
    flat = table.reset_index()
    assert rarest(flat).tolist() == drawn.tolist()


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_rank_correlation_by_seed():
    table = terms([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]).assign(predicted=[0, 1, 5, 9, 9, 5, 1, 0, 2, 2, 2, 2])
    rho = spearman(table)
    assert rho[0] == pytest.approx(1) and rho[1] == pytest.approx(-1) and math.isnan(rho[2])


def test_what_differs_is_told_by_question_metric_and_verdict():
    found = pd.DataFrame(
        [("Q?", "a, or b", "utility", 0.02, "higher"), ("Q?", "c, or d", "utility", -0.5, "lower"),
         ("Q?", "e, or f", "utility", 0.03, "higher"), ("R?", "a, or b", "regurgitation", 0.1, "higher"),
         ("R?", "a, or b", "another", 0.1, "higher")],
        columns=["question", "what", "metric", "value", "verdict"],
    )  # fmt: skip
    assert by_verdict(found).split("\n") == [
        "", "**Q?**", "", "- utility: *higher*: a, or b (+0.0200); e, or f (+0.0300). *lower*: c, or d (-0.5000).",
        "", "**R?**", "", "- regurgitation: *higher*: a, or b (+0.1000).",
    ]  # fmt: skip
