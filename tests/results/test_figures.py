"""Figures are drawn from their CSV alone, the same bytes each time."""

import shutil

import numpy as np
import pandas as pd
import pytest

from sani.results import figures, statistics, tables
from sani.results.drawings.style import errors
from sani.runs import PACKAGE

COMMITTED = PACKAGE.parent / "figures"


NAMES = sorted(path.stem for path in COMMITTED.glob("*.csv") if path.stem.endswith(tuple(figures.DRAW)))


@pytest.mark.parametrize("name", NAMES)
def test_redrawn_from_its_csv_byte_for_byte(name, tmp_path):
    shutil.copy(COMMITTED / f"{name}.csv", tmp_path)
    figures.redraw(name, tmp_path)
    for suffix in ("svg", "png"):
        assert (tmp_path / f"{name}.{suffix}").read_bytes() == (COMMITTED / f"{name}.{suffix}").read_bytes()


def test_every_committed_figure_can_be_redrawn():
    assert {p.stem for p in COMMITTED.iterdir() if p.suffix in (".svg", ".png")} == set(NAMES)
    assert {p.stem for p in COMMITTED.glob("*.csv")} - {"benchmarks", "margins", "claims_first_edition"} == set(NAMES)
    drawn = {ending for ending in figures.DRAW for name in NAMES if name.endswith(ending)}
    # Exposure is measured by the second edition's runs, whose tables replace the first's seed by seed.
    assert set(figures.DRAW) - drawn <= {"exposure", "requests"}


def test_methods_differ_in_colour_and_in_marker():
    same = {"unprotected": "mlm", "clm": "mlm", "clma": "mlma", "ppclm": "ppmlm"}
    assert all(figures.STYLE[name] == figures.STYLE[other] for name, other in same.items())
    styles = {name: style for name, style in figures.STYLE.items() if name not in same}
    assert (
        len({colour for colour, _ in styles.values()}) == len({marker for _, marker in styles.values()}) == len(styles)
    )


def test_a_picture_that_is_not_there_says_how_to_make_it():
    assert "python -m sani.study ledger" in figures.show("nothing", "nothing").data


def results(seeds, method="mlm", epoch=64, value=0.5, **more):
    row = {"method": method, "start": "", "target": "", "missed": 0.0, "kept_out": 0.0, "epoch": epoch, "subset": "",
           "metric": "in_place", "kind": "all", "context": "visible", "low": 0.1, "high": 0.9}  # fmt: skip
    return pd.DataFrame([row | {"seed": s, "value": value + 0.1 * s} | more for s in range(seeds)])


def test_interval_over_seeds_by_hand_and_over_records_for_one():
    """Values 0.5, 0.6, 0.7: sd 0.1, t(0.975, 2) = 4.302653, half-width 4.302653 · 0.1 / √3 = 0.248414."""
    (row,) = tables.summary(results(3)).to_dict("records")
    assert row["value"] == pytest.approx(0.6) and row["seeds"] == 3
    assert row["low"] == pytest.approx(0.6 - 0.248414, abs=1e-5)
    assert row["high"] == pytest.approx(0.6 + 0.248414, abs=1e-5)
    (row,) = tables.summary(results(1)).to_dict("records")
    assert (row["low"], row["high"], row["seeds"]) == (0.1, 0.9, 1)


def test_excess_is_paired_by_seed():
    """mlm at epoch 0 is the base model: 0.2, 0.3; at 64: 0.5, 0.6; the excess is 0.3 for each seed."""
    both = tables.add_excess(pd.concat([results(2, epoch=0, value=0.2), results(2)], ignore_index=True))
    excess = both[both["metric"] == "excess"]
    assert excess["value"].tolist() == pytest.approx([0, 0, 0.3, 0.3])
    assert (tables.summary(both).query("metric == 'excess' and epoch == 64")["high"] - 0.3).abs().max() < 1e-9


def test_ends_and_base():
    table = tables.summary(pd.concat([results(2, epoch=e, value=v) for e, v in ((0, 0.1), (16, 0.2), (64, 0.3))]))
    ends = tables.endpoints(table).set_index("method")["value"]
    assert ends.to_dict() == pytest.approx({"base": 0.15, "mlm": 0.35})
    wide = tables.endpoint_table(table)
    assert wide.loc[("mlm", "", ""), "privacy"] == pytest.approx(0.65)


def test_the_drawing_shows_the_numbers_of_the_table(tmp_path):
    shutil.copy(COMMITTED / "00_quickstart.csv", tmp_path)
    before = figures.redraw("00_quickstart", tmp_path)._suptitle.get_text()
    path = tmp_path / "00_quickstart.csv"
    lines = path.read_text().splitlines()
    changed = [
        line if not line.startswith("sani,regurgitation of direct identifiers,visible")
        else "sani,regurgitation of direct identifiers,visible,0.777,0.7,0.8"
        for line in lines
    ]  # fmt: skip
    path.write_text("\n".join(changed))
    after = figures.redraw("00_quickstart", tmp_path)._suptitle.get_text()
    assert "77.7%" in after and after != before


def test_what_the_readme_says_of_other_persons_is_in_the_table():
    table = pd.read_csv(COMMITTED / "00_quickstart.csv").set_index(["method", "metric", "context"])["value"]
    readme = " ".join((COMMITTED.parent / "README.md").read_text(encoding="utf-8").split())
    less = table["sani", "utility on other persons", "visible"] < table["base", "utility on other persons", "visible"]
    assert ("the sanitised one is less accurate than the base" in readme) == less


TERMS = pd.DataFrame(
    {"seed": 0, "iterations": [1, 1, 3, 4, 40, 2000], "before": [0, 1, 1, 2, 30, 900], "after 1": [1, 1, 0, 0, 10, 100]}
)


def test_terms_by_repetitions_by_hand():
    groups = statistics.by_repetitions(TERMS, ["before", "after 1"])
    assert groups.index.tolist() == ["1", "2–3", "4–9", "30–99", "1000 +"]
    assert groups["terms"].tolist() == [2, 1, 1, 1, 1]
    assert groups["iterations"].tolist() == [2, 3, 4, 40, 2000]
    assert groups["before"].tolist() == [1, 1, 2, 30, 900] and groups["after 1"].tolist() == [2, 0, 0, 10, 100]


def test_sign_test_by_hand():
    """One rises, four fall, one stays: p = 2 · (C(5, 0) + C(5, 1)) / 2⁵ = 0.375."""
    found = statistics.sign_test(TERMS["before"], TERMS["after 1"])
    assert found == pytest.approx({"rose": 1, "fell": 4, "stayed": 1, "p": 0.375})
    assert pd.isna(statistics.sign_test(TERMS["before"], TERMS["before"])["p"])


def test_rank_correlation_and_its_interval():
    found = statistics.spearman_interval(TERMS.assign(seed=0), "before", draws=200)
    assert found["low"] <= found["ρ"] <= found["high"] <= 1 and found["ρ"] == pytest.approx(
        statistics.spearman(TERMS, "before")[0]
    )


def test_an_interval_although_some_resamples_have_no_rank_correlation():
    """One count above 0 in six: a third of the resamples lack it, and are constant."""
    found = statistics.spearman_interval(TERMS.assign(last=[1, 0, 0, 0, 0, 0]), "last", draws=200)
    assert -1 <= found["low"] <= found["ρ"] <= found["high"] <= 1


def test_numbers_of_terms_follow_their_counts_and_nothing_else():
    """The blacklist numbers its terms in the order of the alphabet; a table that is shown must not."""
    shuffled = pd.concat([TERMS.sample(frac=1, random_state=1), TERMS.sample(frac=1, random_state=2).assign(seed=1)])
    found = tables.numbered(shuffled)
    assert found["term"].tolist() == [1, 2, 3, 4, 5, 6] * 2
    assert found["iterations"].tolist() == [2000, 40, 4, 3, 1, 1] * 2 and found["before"].tolist()[4:6] == [1, 0]


def test_claims_are_drawn_in_full():
    table = figures.read("claims", COMMITTED)
    (axes,) = figures.DRAW["claims"](table).axes
    drawn = {" ".join(label.get_text().split()) for label in axes.get_yticklabels()}
    ledger = tables.deciding(table)
    assert drawn == {f"{row.id} {row.claim}" for row in ledger.itertuples()} and len(axes.texts) == len(ledger)


def test_running_total_is_over_repetitions():
    two = pd.concat([tables.numbered(TERMS), tables.numbered(TERMS.iloc[2:].assign(seed=1))])
    (_, right) = figures.DRAW["frequency"](two).axes
    before = right.get_lines()[0]
    assert before.get_xdata().tolist() == [1, 3, 4, 40, 2000]
    assert before.get_ydata().tolist() == [0.5, 1.5, 3.5, 33.5, (934 + 933) / 2]


def test_generated_terms_are_drawn_from_the_table():
    rows = [
        {"prompt": prompt, "method": method, "value": value, "low": value - 1, "high": value + 1, "seeds": 5}
        for prompt in ("prefix", "nothing") for method, value in (("base", 2.0), ("clm", 40.0), ("sani", 3.0))
    ]  # fmt: skip
    drawn = figures.DRAW["generation"](pd.DataFrame(rows))
    assert "40.0 → 3.0 (prefix)" in drawn._suptitle.get_text()
    left = drawn.axes[0]
    assert [line.get_xdata()[0] for line in left.get_lines() if line.get_marker() != "|"] == [2.0, 40.0, 3.0]


def test_an_interval_never_points_backwards_and_is_nothing_where_there_is_none():
    rows = pd.DataFrame({"value": [0.5, 0.5, 0.5], "low": [0.4, 0.6, float("nan")], "high": [0.7, 0.45, float("nan")]})
    wanted = [[0.1, 0, 0], [0.2, 0, 0]]
    beyond = pd.DataFrame({"value": [0.02, 0.99], "low": [-0.1, 0.9], "high": [0.1, 1.3]})
    assert errors(beyond) == pytest.approx(np.array([[0.02, 0.09], [0.08, 0.01]])), (
        "no share is drawn below 0 or above 1"
    )
    assert errors(beyond, (-1, 2)) == pytest.approx(np.array([[0.12, 0.09], [0.08, 0.31]]))
    assert errors(rows) == pytest.approx(np.array(wanted))
    for at, row in enumerate(rows.itertuples()):
        assert errors(row) == pytest.approx(np.array(wanted)[:, [at]])
    assert errors(rows.iloc[0]) == pytest.approx(np.array([[0.1], [0.2]]))


def test_half_an_interval_by_hand():
    assert statistics.half_width(2.0, 5) == pytest.approx(2.776445 * 2 / 5**0.5, rel=1e-6)
    found = statistics.half_width(pd.Series([2.0, float("nan")]), pd.Series([5, 1]))
    assert found[0] == statistics.half_width(2.0, 5) and np.isnan(found[1])
