"""What seeds measured is kept in figures/measured; rates of the repair are chosen by one rule."""

from dataclasses import replace

import pandas as pd
import pytest

from sani.runs import runs_folder
from sani.study import measured, prepare, rates
from sani.study import runs as study
from sani.study.rates import RATES, SWEPT, Point
from sani.study.runs import Run
from sani.study.setting import Setting

TINY = Setting(name="My tiny, again", records=4, heldout_records=2, epochs=2, repair_epochs=1)
RUNS = [
    Run("mlm"),
    Run("sani", "mlm", "lm-head"),
    Run("sani-tied", "mlm", "lm-head"),
    Run("untied-pruning", "mlm", "lm-head"),
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SANI_HOME", str(tmp_path))
    monkeypatch.setenv("SANI_FIGURES", str(tmp_path / "figures"))
    prepare.prepare.cache_clear()
    yield tmp_path
    prepare.prepare.cache_clear()


def test_a_seed_that_is_measured_is_not_made_again_where_its_runs_are_gone(home, monkeypatch):
    runs = RUNS[:2]
    table, made = measured.results(TINY, [3, 4], runs, jobs=1)
    assert made == 4 and set(table["seed"]) == {3, 4}
    files = {path.name for path in (home / "figures" / "measured").iterdir()}
    assert files == {"my_tiny_again-3.parquet", "my_tiny_again-4.parquet"}
    for folder in runs_folder().glob("*-mlm*"):
        folder.rename(folder.with_name(f"gone-{folder.name}"))
    monkeypatch.setattr(study, "complete", lambda *_: pytest.fail("made again"))
    again, made = measured.results(TINY, [3, 4], runs)
    assert made == 0
    pd.testing.assert_frame_equal(table, again)
    how = measured.made_by(measured.file_of(TINY, 3))
    assert set(how) == {"arguments", "rates", "code", "commit"} and str(home) not in str(how)
    # Another argument, a run that is not in it, or the wish for it: the seed is made anew.
    longer, more = replace(TINY, repair_epochs=2), [*runs, Run("pruning", "mlm")]
    other = replace(TINY, repair_rates=(("sani", 1e-4),))
    assert measured.results(other, [3], runs[:1])[1] == 0  # no repair, so no rate of one
    for asked in ((longer, [3], runs), (other, [3], runs), (TINY, [3], more), (TINY, [3], runs, 0, True)):
        with pytest.raises(pytest.fail.Exception, match="made again"):
            measured.results(*asked)


def test_tied_again_is_measured_at_the_end_of_the_repair_and_is_tied():
    table, _ = measured.results(TINY, [3], RUNS, jobs=1)
    assert set(table.loc[table["method"] == "sani-tied", "epoch"]) == {3}
    tied = study.model_of(TINY, 3, Run("sani-tied", "mlm", "lm-head"))
    clean = study.model_of(TINY, 3, Run("sani", "mlm", "lm-head"))
    assert tied.get_output_embeddings().weight.equal(tied.get_input_embeddings().weight)
    assert not clean.get_output_embeddings().weight.equal(clean.get_input_embeddings().weight)
    kept = {name: weight for name, weight in tied.state_dict().items() if not name.endswith("decoder.weight")}
    assert all(weight.equal(clean.state_dict()[name]) for name, weight in kept.items())


def test_a_rate_of_a_method_reaches_its_training_and_the_key_of_no_other():
    other = replace(TINY, repair_rates=(("pruning", 1e-4),))
    for run in (*RUNS[:3], Run("pruning", "mlm"), Run("retrain-at-equal-cost")):
        same = study.folder(TINY, 3, run) == study.folder(other, 3, run)
        assert same == (run.method != "pruning")
    study.complete(other, [3], [Run("pruning", "mlm")], jobs=1, progress=False)
    text = (study.folder(other, 3, Run("pruning", "mlm")) / "params.yaml").read_text()
    assert "learning_rate: 0.0001" in text


def rows(values):
    """A table of `rates.table` from (method, rate) → (regurgitation, heldout utility)."""
    found = []
    for (method, rate), pair in values.items():
        for metric, value in zip(("regurgitation", "utility_heldout"), pair):
            found.append({"seed": 0, "method": method, "rate": rate, "metric": metric, "value": value})
    return pd.DataFrame(found)


def test_the_rule_of_the_rates_by_hand():
    """Among rates within base + δ the most useful; where there is none, the one that regurgitates least."""
    values = {("base", 0.0): (0.02, 0.8), ("unprotected", 0.0): (0.4, 0.8), ("fine-tuned", 1e-3): (0.0, 1.0)}
    for method in SWEPT:
        values |= {(method, 1e-3): (0.03, 0.70), (method, 3e-3): (0.029, 0.75), (method, 1e-2): (0.031, 0.9)}
    values |= {("pruning", 1e-3): (0.2, 0.9), ("pruning", 3e-3): (0.1, 0.1), ("pruning", 1e-2): (0.3, 0.9)}
    found = rates.chosen(rows(values), delta=0.01)
    assert found == dict.fromkeys(SWEPT, 3e-3) | {"pruning": 3e-3}
    values[("sani", 1e-2)] = (float("nan"), float("nan"))  # nothing is left of a model
    values[("sani", 1e-3)] = (0.01, 0.76)
    assert rates.chosen(rows(values).dropna(), delta=0.01)["sani"] == 1e-3


def test_the_order_of_rates_by_hand():
    """Of the first seed's rates two go on; then only those count that every seed tried."""
    values = {("base", 0.0): (0.0, 0.8)}
    values |= {("npo", 1e-4): (0.30, 0.9), ("npo", 3e-4): (0.005, 0.7), ("npo", 1e-3): (0.20, 0.9)}
    values |= {("npo", 3e-3): (0.009, 0.75)}
    first = rows(values)
    assert rates.order(first, "npo", 0.01) == [3e-3, 3e-4, 1e-3, 1e-4]
    named = rates.METHODS_TRIED
    of_base = first["method"] == "base"
    alike = pd.concat([first[of_base], *(first[~of_base].assign(method=name) for name in named)])
    both = rates.points_of_methods(alike, 0.01)
    assert both == [Point("base"), Point("unprotected"), *(Point(m, rate) for m in named for rate in (3e-3, 3e-4))]
    second = rows({("base", 0.0): (0.0, 0.8), ("npo", 3e-4): (0.0, 0.8), ("npo", 3e-3): (0.0, 0.74)}).assign(seed=1)
    assert rates.order(pd.concat([first, second]), "npo", 0.01) == [3e-4, 3e-3]


def test_a_sweep_of_the_other_methods_goes_on_with_the_best_two(monkeypatch):
    monkeypatch.setattr(rates, "METHODS_TRIED", ("npo", "return-anchor"))
    table_of, asked = rates.table_of, []

    def until_the_last(stage, measure, setting, seeds, points, *more):
        asked.append((seeds[0], points[0].method))
        if asked[-1] == (3, "return-anchor"):
            raise KeyboardInterrupt
        return table_of(stage, measure, setting, seeds, points, *more)

    monkeypatch.setattr(rates, "table_of", until_the_last)
    with pytest.raises(KeyboardInterrupt):
        rates.table(TINY, [3, 4], jobs=1, progress=False, delta=0.5)
    monkeypatch.setattr(rates, "table_of", lambda *a: asked.append((a[3][0], a[4][0].method)) or table_of(*a))
    asked.clear()  # a method that is done is kept
    table = rates.table(TINY, [3, 4], jobs=1, progress=False, delta=0.5)
    tried = table[table["rate"] > 0].groupby(["seed", "method"])["rate"].nunique()
    assert tried.to_dict() == {(s, m): n for s, n in ((3, 4), (4, 2)) for m in ("npo", "return-anchor")}
    found = rates.chosen(table, delta=0.5)
    assert set(found) == {"npo", "return-anchor"} and set(found.values()) <= set(rates.TRIED)
    assert asked[0] == (3, "return-anchor") and [method for seed, method in asked if seed == 4][2:] == [*found]


def test_what_was_measured_at_another_rate_is_told_by_method(home):
    measured.results(TINY, [3], RUNS[:2], jobs=1)
    path, of_sani = measured.file_of(TINY, 3), RUNS[1]
    for changed, same in ((("npo", 1e-4), True), (("sani", 3e-3), True), (("sani", 1e-4), False)):
        assert measured.same_rate(path, replace(TINY, repair_rates=(changed,)), of_sani) is same
    assert measured.same_rate(path, replace(TINY, repair_rates=(("sani", 1e-4),)), RUNS[0])


def test_a_small_sweep_is_whole(monkeypatch):
    monkeypatch.setattr(rates, "RATES", (1e-3, 3e-3))
    table = rates.table(TINY, [3, 4], jobs=1, progress=False)
    expected = {(p.method, p.rate) for p in rates.points()}
    assert set(map(tuple, table.loc[table["seed"] == 3, ["method", "rate"]].to_numpy())) == expected
    assert {p.method for p in rates.points()} - set(table.loc[table["seed"] == 4, "method"]) == {"fine-tuned"}
    assert len(RATES) >= 5 and Point("base") in rates.points()
    found = rates.chosen(table, delta=0.5)
    assert set(found) == set(SWEPT) and set(found.values()) <= {1e-3, 3e-3}
