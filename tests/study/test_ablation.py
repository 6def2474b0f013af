"""The ablation: its points, effects and spreads by hand, and a small study that goes on where it stopped."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sani.results import figures
from sani.results.drawings.style import LONG
from sani.results.plain import LEAK, QUESTIONS, answers
from sani.results.statistics import COMPARED, MARGIN, spread, verdict
from sani.runs import PACKAGE
from sani.study import ablation, grid
from sani.study.ablation import Point, variant
from sani.study.comparisons import differences, of_ablation
from sani.study.setting import SETTINGS, Setting

COMMITTED = PACKAGE.parent / "figures"
SMALL = Setting(records=10, heldout_records=3, epochs=2, repair_epochs=1)


def test_every_variation_of_the_question_is_a_point():
    points = ablation.points(Setting())
    assert len(points) == len(set(points))
    erased = [p for p in points if p.method == "sani" and p.repair == "spared" and not p.mask_seed + p.repair_seed]
    targets = {"lm-head", "head-transform", "last-block-output", "last-block", "block-0"}
    assert {p.target for p in erased} == targets == {p.target for p in points if p.method == "erased"}
    assert {p.fraction for p in erased if p.target == "lm-head"} == {0.1, 0.25, 0.5, 0.75, 1.0}
    chosen = {(p.fill, p.neurons) for p in erased if p.target == "lm-head" and p.fraction == 0.5}
    assert chosen == {(f, n) for f in ("zero", "init", "pretrained") for n in ("random", "largest", "active")}
    both = {(bool(p.target), p.repair) for p in points if p.method in ("sani", "repair-only")}
    assert both == {(e, r) for e in (True, False) for r in ("spared", "ordinary")}
    assert {p.mask_seed for p in points} == {p.repair_seed for p in points} == set(range(5))
    assert not [p for p in points if p.mask_seed and p.repair_seed]
    assert ablation.UNTIED in points
    controls = {"base", "unprotected", "counterfactual", "logit-filter", "retrain-at-equal-cost"}
    assert controls <= {p.method for p in points}
    assert all({c.point, c.against, *(c.beyond or ())} <= set(points) for c in of_ablation(Setting()))


def test_gpt2_has_points_of_its_own():
    points = ablation.points(Setting(model="tiny-gpt2"))
    assert {p.target for p in points} == {"", "lm-head", "last-block-output", "last-block", "block-0"}


def table_of(value):
    """A table with every point's value(seed, point) for each metric, of three seeds."""
    rows = [
        {"seed": seed} | p._asdict() | {"metric": metric, "value": value(seed, p), "low": np.nan, "high": np.nan}
        for seed in range(3) for p in ablation.points(SMALL) for metric in (*COMPARED, ablation.ISOLATED)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_differences_are_paired_by_seed_by_hand():
    """head-transform − lm-head is 0.1, 0.2, 0.3 over seeds: mean 0.2, sd 0.1, half-width 4.302653 · 0.1 / √3."""

    def value(seed, point):
        return 10 * seed + (point.target == "head-transform") * 0.1 * (seed + 1)

    found = differences(table_of(value), of_ablation(SMALL))
    row = found[(found["what"] == "head-transform instead of lm-head") & (found["metric"] == "utility")].iloc[0]
    assert row["value"] == pytest.approx(0.2) and row["d_z"] == pytest.approx(2) and row["seeds"] == 3
    assert row["low"] == pytest.approx(0.2 - 0.248414, abs=1e-5)
    assert row["verdict"] == "the data does not decide"
    other = found[found["what"] == "block-0 instead of lm-head"]
    assert (other["value"] == 0).all() and (other["verdict"] == "no difference that matters").all()


def test_verdicts_at_their_edges():
    assert verdict(0.02, 0.015) == "higher" and verdict(-0.02, 0.015) == "lower"
    assert verdict(0.004, 0.005) == "no difference that matters" == verdict(0.0, 0.001)
    assert verdict(-0.004, 0.001) == "lower, by less than 0.01" and verdict(0.008, 0.001) == "higher, by less than 0.01"
    assert verdict(0.004, MARGIN) == "the data does not decide" == verdict(0.0, 0.5)
    assert verdict(float("nan"), float("nan")) == "the data does not decide"


def test_spreads_by_hand():
    """Draws of neurons 0, 1, 2, 3, 4 (variance 2.5) and of the repair 0, 2, 4, 6, 8 (variance 10), twelve degrees."""

    def value(seed, point):
        return 100.0 * seed + point.mask_seed + 2 * point.repair_seed

    found = spread(table_of(value), variant())
    at = found[found["metric"] == "utility"].set_index("source")
    assert at["value"].to_dict() == pytest.approx({"neurons": 2.5**0.5, "repair": 10**0.5, "everything": 100})
    assert at["freedom"].to_dict() == {"neurons": 12, "repair": 12, "everything": 2}
    assert at.loc["neurons", "low"] == pytest.approx((12 * 2.5 / stats.chi2.ppf(0.975, 12)) ** 0.5)
    said = answers(differences(table_of(value), of_ablation(SMALL)), found)
    assert "the draw of the repair matters more" in said
    rows = said.splitlines()
    assert rows[:2] == ["| question | answer |", "|---|---|"] and len(rows) == 2 + len(QUESTIONS) + 1
    assert all(row.count("|") == 3 and row.endswith(". |") for row in rows[2:])


def test_which_draw_matters_more_is_left_open_where_it_is():
    table = table_of(lambda seed, p: p.mask_seed + 1.1 * p.repair_seed)
    assert "does not decide which of the two" in answers(
        differences(table, of_ablation(SMALL)), spread(table, variant())
    )


def row_of(said, question):
    (row,) = [row for row in said.splitlines() if row.startswith(f"| {question} |")]
    return row


@pytest.mark.parametrize(
    "more, verdict, word", [(-0.1, "lower", "yes"), (0.1, "higher", "no"), (0.0, "no difference that matters", "no")]
)
def test_whether_the_erasure_adds_is_answered_by_the_interval(more, verdict, word):
    """Erased or only untied differ by `more` (a little with the seed), and untied from repair alone by −0.5."""

    def value(seed, point):
        erased, untied = point.method == "sani" and point.target == "lm-head", point.method == "untied"
        drawn = 0.001 * (point.mask_seed + 2 * point.repair_seed)
        return 1 - 0.5 * (erased or untied) + erased * more * (1 + 0.01 * seed) + drawn

    table = table_of(value)
    effects = differences(table, of_ablation(SMALL))
    at = effects.set_index(["what", "metric"]).loc[("lm-head erased, or only untied", LEAK)]
    assert at["verdict"] == verdict
    row = row_of(answers(effects, spread(table, variant())), "Does the erasure add to repairing?")
    interval = f"{at['value']:+.4f} [{at['low']:+.4f}, {at['high']:+.4f}]"
    assert f"Beyond untying the matrix, {word} (direct identifiers {interval}" in row
    assert "less often with" in row and "-0.5000 [-0.5000, -0.5000]" in row


def test_an_answer_that_the_data_does_not_decide_says_so():
    rng = np.random.default_rng(1)
    table = table_of(lambda seed, point: rng.normal())
    said = answers(differences(table, of_ablation(SMALL)), spread(table, variant()))
    assert "the data does not decide (direct identifiers" in row_of(said, "Must the repair spare listed terms?")


def test_every_interval_of_the_answers_is_one_of_the_table():
    effects = pd.read_csv(COMMITTED / "07_effects.csv")
    seeds = figures.read("use_case_a_ablation", COMMITTED)
    said = answers(effects, spread(seeds, variant()))
    known = {f"{r.value:+.4f} [{r.low:+.4f}, {r.high:+.4f}]" for r in effects.itertuples()}
    told = [found for found in re.findall(r"[+-]\d\.\d{4} \[[^]]+\]", said)]
    assert len(told) > 30 and set(told) <= known


def test_a_small_study_is_whole_resumable_and_drawn(tmp_path, monkeypatch):
    few = [
        *ablation.CONTROLS, variant(), variant(fraction=0), variant("block-0"), variant(neurons="active"),
        variant(repair=""), variant(neurons="largest", fill="pretrained"), variant(repair="ordinary"),
        variant(mask_seed=1), variant(repair_seed=1),
    ]  # fmt: skip
    monkeypatch.setattr(ablation, "points", lambda setting: few)
    table = ablation.table(SMALL, [0], jobs=1, progress=False)
    assert len(table) == 5 * len(few)
    at = table[table["metric"] == "regurgitation"].set_index(list(Point._fields))["value"]
    assert at[Point("logit-filter")] == 0
    monkeypatch.setattr(ablation, "values", lambda *_: pytest.fail("made again"))
    again = ablation.table(SMALL, [0], jobs=1, progress=False)
    pd.testing.assert_frame_equal(table, again)


def test_the_point_of_the_paper_is_what_sanitize_makes(monkeypatch):
    """variant() is SANI as anywhere else, with the same seeds."""
    from sani import evaluate, sanitize
    from sani.study import runs as study
    from sani.study.prepare import prepare

    data = prepare(SMALL, 0)
    leaky = study.model_of(SMALL, 0, study.Run("mlm"))
    options = {"learning_rate": SMALL.learning_rate, "batch_size": SMALL.batch_size, "progress": False}
    for point, more in (
        (variant(), {}),
        (variant(fraction=0), {"method": "repair-only"}),
        (variant("head-transform", neurons="active"), {"target": "head-transform", "neurons": "activation"}),
    ):
        model = sanitize(leaky, data.raw, epochs=1, seed=0, **options | more)
        report = evaluate(model, data.raw, progress=False)
        table = grid.kept("ablation", ablation._measure, SMALL, 0, point).set_index("metric")["value"]
        assert table["regurgitation"] == report.regurgitation and table["utility"] == report.utility


def test_each_point_varies_what_it_says(monkeypatch):
    """What erase and repair are told, for points that differ from the paper's in one thing."""
    told = {}
    erase = ablation.erase

    def noted_erase(model, target, fraction, fill, seed, **options):
        told.update(target=target, fraction=fraction, fill=fill, mask=seed, chosen=options["scores"] is not None)
        return erase(model, target, fraction, fill, seed, **options)

    def noted_repair(model, blocks, epochs, objective, **options):
        told.update(epochs=epochs, objective=objective, order=options["seed"])
        return model

    monkeypatch.setattr(ablation, "erase", noted_erase)
    monkeypatch.setattr(ablation, "repair", noted_repair)
    usual = {
        "target": "lm-head", "fraction": 0.5, "fill": "zero", "mask": 0, "chosen": False, "epochs": 1,
        "objective": "ppmlm", "order": 0,
    }  # fmt: skip
    for point, differs in (
        (variant(), {}),
        (variant(mask_seed=2), {"mask": 2000}),
        (variant(repair_seed=2), {"order": 2000}),
        (variant(repair="ordinary"), {"objective": "mlm"}),
        (variant(neurons="active"), {"chosen": True}),
        (variant(fill="pretrained", neurons="largest"), {"fill": "pretrained", "chosen": True}),
        (variant("block-0", 0.25), {"target": "block-0", "fraction": 0.25}),
        (ablation.UNTIED, {"fraction": 0.0}),
    ):
        told.clear()
        ablation._measure(SMALL, 0, point)
        assert told == usual | differs, point
    for point, untold in (
        (variant(repair=""), {"epochs", "objective", "order"}),
        (variant(fraction=0), {"target", "mask"}),
    ):
        told.clear()
        ablation._measure(SMALL, 0, point)
        assert told and not untold & told.keys()


def test_the_interaction_is_a_difference_of_differences():
    def value(seed, point):
        erased, ordinary = bool(point.target), point.repair == "ordinary"
        return 0.5 * erased + 0.25 * ordinary - 0.125 * erased * ordinary

    found = differences(table_of(value), of_ablation(SMALL))
    at = found[found["metric"] == "utility"].set_index("what")["value"]
    assert at["lm-head erased, or nothing"] == 0.5
    assert at["lm-head erased, or nothing, both with ordinary repair"] == 0.375
    assert at["lm-head erased, or nothing: sparing repair beyond ordinary repair"] == 0.125


def test_the_committed_effects_are_those_of_the_committed_ledger():
    """Notebook 07 was executed with the ledger beside it, and with the rules as they are."""
    effects = differences(figures.read("use_case_a_ablation", COMMITTED), of_ablation(SETTINGS["tiny"]))
    committed = pd.read_csv(COMMITTED / "07_effects.csv")
    pd.testing.assert_frame_equal(effects.reset_index(drop=True), committed, check_dtype=False, atol=1e-6)
    assert effects["seeds"].min() >= 5


def test_drawings_take_the_table_of_a_sweep(tmp_path):
    rng = np.random.default_rng(0)
    table = table_of(lambda seed, p: rng.uniform(0.1, 0.9))
    figure = figures.save("x_ablation", table, tmp_path)
    assert len(figure.axes) == 8 and "3 seeds" in figure._suptitle.get_text()
    effects = differences(figures.read("x_ablation", tmp_path), of_ablation(SMALL))
    drawn = figures.save("x_effects", effects, tmp_path)
    shown = effects[effects["metric"].isin(LONG)]
    gains = (shown["metric"] == "utility").map({True: "higher", False: "lower"})
    better = (shown["verdict"].str.split(",").str[0] == gains).sum()
    assert f"Of {len(shown)} differences: {better} better" in drawn._suptitle.get_text()


def test_what_is_said_of_untying_is_in_the_table():
    effects = pd.read_csv(COMMITTED / "07_effects.csv").set_index(["what", "metric"])["verdict"]
    page = " ".join((COMMITTED / "README.md").read_text(encoding="utf-8").split())
    same = effects["lm-head erased, or only untied", "regurgitation"] == "no difference that matters"
    assert ("as to what is predicted, **it is not the erasure that helps**" in page) == (
        same and effects["lm-head untied, or nothing", "regurgitation"] == "lower"
    )
