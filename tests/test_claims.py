"""The ledger: intervals and verdicts by hand, claims on fabricated results, and a README that says what it says."""

import functools
import itertools
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from sani import Blacklist, claims, load_corpus, study
from sani.claims import CLAIMS, COLUMNS, Values, conditions, judge, ledger, readings
from sani.erasure import TARGETS

SEEDS = range(5)
ROOT = Path(__file__).resolve().parents[1]


def series(*values):
    return pd.Series(values, index=range(len(values)), dtype=float)


def test_interval_by_hand():
    """1…5: mean 3, sd √2.5, t(0.975, 4) = 2.776445; half-width 2.776445 · √2.5 / √5 = 1.963243."""
    found = judge(series(1, 2, 3, 4, 5), ">", 0.0)
    assert found["mean"] == 3 and found["sd"] == pytest.approx(math.sqrt(2.5)) and found["seeds"] == 5
    assert found["low"] == pytest.approx(3 - 1.963243, abs=1e-5)
    assert found["high"] == pytest.approx(3 + 1.963243, abs=1e-5)


@pytest.mark.parametrize(
    "sign, margin, shift, verdict",
    [
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
    ],
)
def test_verdicts_follow_from_the_interval(sign, margin, shift, verdict):
    """The interval is shift ± 1.9632."""
    assert judge(series(-2, -1, 0, 1, 2) + shift, sign, margin)["verdict"] == verdict


def test_too_few_seeds_decide_nothing_and_equal_values_do():
    assert judge(series(9, 9, 9, 9), ">", 0.0)["verdict"] == "undecided"
    assert judge(series(9, 9, 9, 9, float("nan")), ">", 0.0)["verdict"] == "undecided"
    assert judge(series(0.5), ">", 0.0)["verdict"] == "undecided"
    assert judge(series(0, 0, 0, 0, 0), ">", 0.0)["verdict"] == "contradicted"
    assert judge(series(0, 0, 0, 0, 0), ">=", 0.0)["verdict"] == "holds"
    assert judge(series(0, 0, 0, 0, 0), "<=", 0.0)["verdict"] == "holds"


def made_up(**changes) -> pd.DataFrame:
    """Results as `study.results` gives them, in which every claim of the paper but C1 holds.

    By (method, start): privacy at the start, after a quarter, after the first epoch of repair, at the end; utility.
    """
    setting = study.Setting()
    values = {
        "mlm": {0: (0.98, 0.80), 16: (0.92, 0.84), 64: (0.80, 0.90)},
        "mlma": {0: (0.98, 0.80), 16: (0.96, 0.84), 64: (0.93, 0.90)},
        "ppmlm": {0: (0.98, 0.80), 16: (0.97, 0.84), 64: (0.97, 0.90)},
        "counterfactual": {64: (0.98, 0.84)},
        "retrain-at-equal-cost": {13: (0.97, 0.85)},
        "logit-filter": {64: (1.0, 0.90)},
        "repair-only": {65: (0.85, 0.91), 77: (0.91, 0.92)},
        "pruning": {65: (0.97, 0.80), 77: (0.97, 0.86)},
        "sani": {65: (0.95, 0.85), 77: (0.97, 0.895)},
    } | changes
    rows = []
    for run, seed in itertools.product(study.ALL, SEEDS):
        known = values[run.method]
        for epoch in setting.trained_at if run.method in ("mlm", "mlma", "ppmlm") else known:
            privacy, utility = known[max(e for e in known if e <= epoch)]
            noise = 0.0005 * (seed - 2)
            lower = 0.002 if run.start == "mlma" else 0.0
            for kind in ("all", "indirect"):
                # From MLM all identifiers count, from MLMA the indirect ones: the other kind must not be looked at.
                asked = not run.start or (run.start == "mlma") == (kind == "indirect")
                rows.append({**run._asdict(), "seed": seed, "epoch": epoch, "metric": "in_place", "kind": kind,
                             "context": "visible", "subset": "",
                             "value": 1 - privacy - noise if asked else 0.3 * seed})  # fmt: skip
            for metric in ("utility", "utility_all"):
                rows.append({**run._asdict(), "seed": seed, "epoch": epoch, "metric": metric, "kind": "none",
                             "context": "visible", "subset": "", "value": utility - lower + noise})  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(table: pd.DataFrame) -> dict:
    whole = table[table["id"].isin(CLAIMS)]
    return {(row.id, row.reading): row.verdict for row in whole.itertuples()}


def test_ledger_of_made_up_results():
    table = ledger(made_up(), study.Setting())
    assert list(table.columns) == COLUMNS
    found = verdicts(table)
    assert set(found) == {(c, r) for c in CLAIMS for r in readings(c)}
    assert len(found) == 4 + 5 * len(TARGETS)
    for (claim, _), verdict in found.items():
        # The logit filter has privacy 1 and the unprotected model's utility, so it dominates SANI.
        assert verdict == ("contradicted" if claim == "C1" else "holds"), claim
    decided = table[table["id"] == "C1"]
    assert decided["rule"].str.contains("logit-filter").all()
    parts = table[table["id"].str.match(r"C1[a-z]$") & (table["reading"] == "lm-head")]
    assert len(parts) == 9 and (parts["verdict"] == "holds").sum() >= 5


@pytest.mark.parametrize(
    "claim, change",
    [
        ("A1", {"mlm": {0: (0.98, 0.8), 16: (0.98, 0.8), 64: (0.97, 0.9)}}),  # falls by 0.01 only
        ("A1", {"mlm": {0: (0.98, 0.8), 16: (0.8, 0.8), 64: (0.85, 0.9)}}),  # rises again after a quarter
        ("A2", {"mlma": {0: (0.98, 0.8), 16: (0.9, 0.8), 64: (0.85, 0.9)}}),
        ("A3", {"ppmlm": {0: (0.98, 0.8), 16: (0.9, 0.8), 64: (0.98, 0.9)}}),  # dips on the way
        ("A4", {"mlma": {0: (0.98, 0.8), 16: (0.96, 0.8), 64: (0.93, 0.85)}}),
        ("A5", {"sani": {65: (0.84, 0.85), 77: (0.97, 0.895)}}),
        ("A5", {"pruning": {65: (0.90, 0.85), 77: (0.97, 0.86)}}),
        ("A6", {"repair-only": {65: (0.85, 0.91), 77: (0.96, 0.92)}}),
        ("A6", {"sani": {65: (0.95, 0.85), 77: (0.94, 0.895)}}),
        ("A7", {"sani": {65: (0.95, 0.85), 77: (0.97, 0.87)}}),
        ("A7", {"pruning": {65: (0.97, 0.80), 77: (0.97, 0.90)}}),
        ("A7", {"repair-only": {65: (0.85, 0.91), 77: (0.91, 0.88)}}),
        ("A8", {"sani": {65: (0.95, 0.85), 77: (0.94, 0.895)}}),
    ],
)
def test_each_claim_can_be_contradicted(claim, change):
    found = verdicts(ledger(made_up(**change), study.Setting()))
    assert {v for (c, _), v in found.items() if c == claim} == {"contradicted"}


def test_readings_and_starts_are_judged_apart():
    results = made_up()
    spoilt = (results["method"] == "sani") & (results["metric"] == "in_place")
    one = results.copy()
    one.loc[spoilt & (one["target"] == "last-block") & (one["start"] == "mlm"), "value"] += 0.2
    found = verdicts(ledger(one, study.Setting()))
    assert [r for (c, r), v in found.items() if c in ("A5", "A6") and v == "contradicted"] == ["last-block"] * 2
    assert {v for (c, _), v in found.items() if c == "A8"} == {"holds"}
    one = results.copy()
    one.loc[spoilt & (one["target"] == "last-block") & (one["start"] == "mlma"), "value"] += 0.2
    found = verdicts(ledger(one, study.Setting()))
    assert [r for (c, r), v in found.items() if c == "A8" and v == "contradicted"] == ["last-block"]
    assert {v for (c, _), v in found.items() if c in ("A5", "A6")} == {"holds"}


def test_c1_holds_when_nothing_dominates():
    worse = {"logit-filter": {64: (1.0, 0.85)}, "ppmlm": {0: (0.98, 0.8), 64: (0.96, 0.89)}}
    found = verdicts(ledger(made_up(**worse), study.Setting()))
    assert {v for (c, _), v in found.items() if c == "C1"} == {"holds"}


def test_methods_are_paired_by_seed():
    """Seeds differ by far more than the methods do, and the claim is decided all the same."""
    results = made_up()
    results["value"] += results["seed"].where(results["metric"] == "in_place", 0) * 0.1
    assert verdicts(ledger(results, study.Setting()))["A2", "–"] == "holds"
    assert Values(results, study.Setting()).privacy("mlm").std() > 0.1


def test_margins_are_those_of_the_paper_restated():
    margins = {(c, x.sign, x.margin) for c in CLAIMS for x in conditions(c, "lm-head")}
    assert {
        ("A1", ">", 0.02),
        ("A3", "<=", 0.02),
        ("A4", "<=", 0.03),
        ("A6", ">=", -0.02),
        ("A6", ">", 0.02),
    } <= margins
    assert ("A7", "within", 0.02) in margins and ("C1", ">", 0.0) in margins


def test_readme_says_what_the_ledger_says():
    table = pd.read_csv(ROOT / "figures" / "claims.csv")
    assert list(table.columns) == COLUMNS
    assert set(table["verdict"]) <= {"holds", "contradicted", "undecided"}
    assert set(CLAIMS) <= set(table.loc[table["setting"] == "tiny", "id"])
    assert (table.loc[table["setting"] == "tiny", "seeds"] >= 5).all()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = text.split(claims.MARKERS[0])[1].split(claims.MARKERS[1])[0]
    assert between.strip() == claims.readme_table(table)


def test_readme_names_what_is_contradicted_and_nothing_else():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("**What is contradicted in the tiny setting")[1].split("**What the controls add")[0]
    named = re.findall(r"^- \*\*(\w+)\*\*:", section, re.M)
    table = pd.read_csv(ROOT / "figures" / "claims.csv").query("setting == 'tiny' and verdict == 'contradicted'")
    assert named == sorted(set(table["id"]) & set(CLAIMS))


def test_table_is_put_between_the_markers(tmp_path):
    path = tmp_path / "README.md"
    table = ledger(made_up(), study.Setting())
    path.write_text(f"before\n{claims.MARKERS[0]}\nOUTDATED\n{claims.MARKERS[1]}\nafter\n", encoding="utf-8")
    claims.write_readme(table, path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "OUTDATED" not in text
    assert text.count("| A5 |") == len(TARGETS) and "**contradicted**" in text
    claims.write_readme(table, path)
    assert path.read_text(encoding="utf-8") == text
    path.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the markers"):
        claims.write_readme(table, path)


def test_a_setting_replaces_its_own_rows_only(tmp_path, monkeypatch):
    monkeypatch.setenv("SANI_HOME", str(tmp_path))
    (tmp_path / "figures").mkdir()
    tiny = ledger(made_up(), study.Setting())
    claims.write(tiny.assign(setting="court"))
    both = claims.write(tiny)
    assert list(both["setting"].unique()) == ["tiny", "court"] and len(both) == 2 * len(tiny)
    again = claims.write(tiny.assign(setting="court", verdict="undecided"))
    assert len(again) == len(both) and set(again.loc[again["setting"] == "court", "verdict"]) == {"undecided"}


def test_bad_arguments_end_before_any_work(capsys):
    with pytest.raises(SystemExit):
        claims.main(["--corpus", "nowhere.jsonl"])
    assert "no file nowhere.jsonl" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        claims.main(["--seeds", "one"])
    with pytest.raises(SystemExit):
        claims.main(["--corpus", __file__, "--name", "tiny"])
    assert "choose another" in capsys.readouterr().err


def test_a_ledger_is_not_replaced_by_one_of_fewer_seeds(home, monkeypatch, capsys):
    (home / "figures").mkdir(parents=True)
    claims.write(ledger(made_up(), study.Setting()))
    monkeypatch.setattr(claims.study, "complete", None)
    with pytest.raises(SystemExit):
        claims.main(["--seeds", "7"])
    assert "fewer than 5 would replace them" in capsys.readouterr().err


def small_study(monkeypatch, home, **changes):
    """A home with a README to write to, and a tiny setting that takes seconds."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "README.md").write_text("\n".join(claims.MARKERS), encoding="utf-8")
    (home / "figures").mkdir()
    small = functools.partial(study.Setting, records=6, epochs=2, repair_epochs=1, **changes)
    monkeypatch.setattr(claims.study, "Setting", small)
    study.prepare.cache_clear()


def test_the_command_makes_runs_ledger_figures_and_readme(home, monkeypatch, capsys):
    small_study(monkeypatch, home, heldout_records=3)
    claims.main(["--seeds", "3", "--jobs", "1"])
    told = capsys.readouterr().out
    assert f"{len(study.ALL)} runs made" in told and "undecided" in told
    table = pd.read_csv(home / "figures" / "claims.csv")
    assert set(table["verdict"]) == {"undecided"} and set(table["seeds"]) == {1}
    assert "| C1 |" in (home / "README.md").read_text(encoding="utf-8")
    names = {f"use_case_a_{kind}.{end}" for kind in ("frame", "tradeoff", "memory", "recall", "contexts")
             for end in ("csv", "svg", "png")}  # fmt: skip
    assert {path.name for path in (home / "figures").iterdir()} == names | {"claims.csv"}
    claims.main(["--seeds", "3"])
    assert "0 runs made" in capsys.readouterr().out


def test_the_command_on_a_corpus_of_ones_own(home, monkeypatch, capsys, tmp_path):
    small_study(monkeypatch, home)
    monkeypatch.setattr(claims, "VOCABULARY", 300)
    monkeypatch.setattr(claims, "PHASES", ({"block_size": 32, "epochs": 1, "learning_rate": 1e-3, "batch_size": 8},))
    path = tmp_path / "my records.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for row in load_corpus("synthetic-clinical", records=12, seed=1):
            file.write(json.dumps({"text": row["text"], "record_id": row["record_id"],
                                   "identifiers": row["identifiers"]}) + "\n")  # fmt: skip
    claims.main(["--seeds", "0", "--jobs", "1", "--corpus", str(path), "--name", "my records"])
    table = pd.read_csv(home / "figures" / "claims.csv")
    assert set(table["setting"]) == {"my records"}
    assert (home / "figures" / "use_case_a_my_records_frame.png").exists()
    terms = set(Blacklist.from_annotations(load_corpus(path)).terms(reveal=True)["term"])
    written = "".join(p.read_text(encoding="utf-8") for p in (home / "figures").glob("*.csv"))
    assert not [term for term in terms if len(term) > 4 and term in written]


def test_an_interrupted_command_says_how_to_go_on(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(claims.study, "complete", interrupted)
    with pytest.raises(SystemExit, match="the same command goes on"):
        claims.main([])
