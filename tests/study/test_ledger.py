"""The ledger: intervals and verdicts by hand, claims on fabricated results, and a command that writes what it says."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sani import Blacklist, load_corpus
from sani.erasure import TARGETS
from sani.results import matrix
from sani.results.statistics import judge, rarest, spearman
from sani.study import __main__ as command
from sani.study import ledger, prepare
from sani.study import runs as study
from sani.study.claims import CLAIMS, Values, claims_of, conditions, readings
from sani.study.ledger import LEDGER, verdicts
from sani.study.setting import SETTINGS

SEEDS = range(5)
TINY, GPT2, STORIES = SETTINGS["tiny"], SETTINGS["tiny-gpt2"], SETTINGS["tiny-stories"]
OF_TINY = claims_of(TINY)
MARKERS = "".join(
    f"<!-- {name}: written by python -m sani.study ledger -->\n\n<!-- end of {name} -->\n"
    for name in ("claims-matrix", "claims")
)
ROOT = Path(__file__).resolve().parents[2]


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
    setting = changes.pop("setting", TINY)
    raw, pseudonymized, spared = setting.objectives
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
    values |= {raw: values["mlm"], pseudonymized: values["mlma"], spared: values["ppmlm"]}
    rows = []
    for run, seed in itertools.product(study.all_runs(setting), SEEDS):
        known = values[run.method]
        for epoch in setting.trained_at if run.method in setting.objectives else known:
            privacy, utility = known[max(e for e in known if e <= epoch)]
            noise = 0.0005 * (seed - 2)
            lower = 0.002 if run.start == pseudonymized else 0.0
            for kind in ("all", "indirect"):
                # From MLM all identifiers count, from MLMA the indirect ones: the other kind must not be looked at.
                asked = not run.start or (run.start == pseudonymized) == (kind == "indirect")
                rows.append({**run._asdict(), "seed": seed, "epoch": epoch, "metric": "in_place", "kind": kind,
                             "context": "visible", "subset": "",
                             "value": 1 - privacy - noise if asked else 0.3 * seed})  # fmt: skip
            for metric in ("utility", "utility_all"):
                rows.append({**run._asdict(), "seed": seed, "epoch": epoch, "metric": metric, "kind": "none",
                             "context": "visible", "subset": "", "value": utility - lower + noise})  # fmt: skip
    return pd.DataFrame(rows)


def by_reading(table: pd.DataFrame) -> dict:
    whole = table[table["id"].isin(CLAIMS)]
    return {(row.id, row.reading): row.verdict for row in whole.itertuples()}


def test_ledger_of_made_up_results():
    table = verdicts(made_up(), TINY)
    assert list(table.columns) == LEDGER
    found = by_reading(table)
    assert set(found) == {(c, r) for c in OF_TINY for r in readings(c, TINY)}
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
    found = by_reading(verdicts(made_up(**change), TINY))
    assert {v for (c, _), v in found.items() if c == claim} == {"contradicted"}


def test_ledger_of_gpt2():
    found = by_reading(verdicts(made_up(setting=GPT2), GPT2))
    assert set(found) == {(c, r) for c in ("A9", "C1") for r in ("lm-head", "last-block-output", "last-block")}
    assert {v for (c, _), v in found.items() if c == "A9"} == {"holds"}
    for change in (
        {"sani": {65: (0.84, 0.85), 77: (0.97, 0.895)}},
        {"repair-only": {65: (0.85, 0.91), 77: (0.96, 0.92)}},
    ):
        found = by_reading(verdicts(made_up(setting=GPT2, **change), GPT2))
        assert {v for (c, _), v in found.items() if c == "A9"} == {"contradicted"}


def made_up_stories(
    said=(0.3, 0.1, 0.06, 0.05, 0.04), repaired=(0.2, 0.15, 0.13, 0.12), f1=0.8, change=0.002, rare=1.0, often=1
):
    """Results of use case B in which B1–B6 hold: 40 terms that stand 1, 2, 4, … times, the rarest said more often.

    said: regurgitation after 0…4 epochs of SANI (and pruning); repaired: after 1…4 of repair-only. often: power of the
    repetitions that the number of times a term is said follows.
    """
    end, rows = STORIES.epochs, []
    for run, seed in itertools.product(study.all_runs(STORIES), SEEDS):
        after = {"sani": said[1:], "pruning": said[1:], "repair-only": repaired}.get(run.method)
        at = {end + e: value for e, value in enumerate(after, start=1)} if after else {}
        at |= {"mlm": {0: 0.02, end: said[0]}, "ppmlm": {0: 0.02, end: 0.02}, "counterfactual": {end: 0.02},
               "retrain-at-equal-cost": {4: 0.02}, "logit-filter": {end: 0.0}}.get(run.method, {})  # fmt: skip
        for epoch, value in at.items():
            head = run._asdict() | {"seed": seed, "epoch": epoch, "subset": "", "kind": "none", "context": "visible"}
            rows.append(head | {"metric": "in_place", "kind": "all", "value": value + 0.001 * (seed - 2)})
            rows.append(head | {"metric": "utility", "value": 0.6 + 0.001 * (seed - 2)})
            f1_now = f1 + 0.01 * seed + (change if run.start else 0.0)
            rows.append(head | {"metric": "f1_weighted", "subset": "emotions", "value": f1_now})
            for term in range(40):
                times = 2 ** (term // 4)
                count = rare * (run.start != "") if term < 4 else round(1000 * value * times**often)
                named = head | {"subset": f"term {term}", "kind": "all"}
                rows.append(named | {"metric": "iterations", "value": times})
                rows.append(named | {"metric": "said", "value": count})
    return pd.DataFrame(rows)


def test_ledger_of_the_pretrained():
    found = by_reading(verdicts(made_up_stories(), STORIES))
    assert set(found) == {(c, r) for c in claims_of(STORIES) for r in readings(c, STORIES)}
    assert {c for (c, _), v in found.items() if v != "holds"} <= {"C1"}


@pytest.mark.parametrize(
    "claim, change",
    [
        ("B1", {"said": (0.3, 0.16, 0.06, 0.05, 0.04)}),  # falls by less than half
        ("B1", {"said": (0.3, 0.1, 0.06, 0.05, 0.08)}),  # rises again
        ("B2", {"repaired": (0.2, 0.15, 0.05, 0.12)}),  # once below
        ("B3", {"change": -0.02}),
        ("B4", {"often": -1}),
        ("B5", {"said": (0.3, 0.1, 0.2, 0.05, 0.04)}),
        ("B6", {"rare": 0.0}),
    ],
)
def test_each_claim_of_the_pretrained_can_be_contradicted(claim, change):
    found = by_reading(verdicts(made_up_stories(**change), STORIES))
    assert {v for (c, _), v in found.items() if c == claim} == {"contradicted"}


def test_correlation_and_rarest_tenth_by_hand():
    index = pd.MultiIndex.from_product([[0, 1], range(10)], names=["seed", "subset"])
    times = [*range(1, 11), *[1] * 5, *range(2, 7)]
    terms = pd.DataFrame({"iterations": times, "said": [*range(10), *range(10, 0, -1)]}, index=index, dtype=float)
    assert spearman(terms)[0] == pytest.approx(1.0) and spearman(terms)[1] < 0
    assert rarest(terms).tolist() == [True] + [False] * 9 + [True] * 5 + [False] * 5


def test_readings_and_starts_are_judged_apart():
    results = made_up()
    spoilt = (results["method"] == "sani") & (results["metric"] == "in_place")
    one = results.copy()
    one.loc[spoilt & (one["target"] == "last-block") & (one["start"] == "mlm"), "value"] += 0.2
    found = by_reading(verdicts(one, TINY))
    assert [r for (c, r), v in found.items() if c in ("A5", "A6") and v == "contradicted"] == ["last-block"] * 2
    assert {v for (c, _), v in found.items() if c == "A8"} == {"holds"}
    one = results.copy()
    one.loc[spoilt & (one["target"] == "last-block") & (one["start"] == "mlma"), "value"] += 0.2
    found = by_reading(verdicts(one, TINY))
    assert [r for (c, r), v in found.items() if c == "A8" and v == "contradicted"] == ["last-block"]
    assert {v for (c, _), v in found.items() if c in ("A5", "A6")} == {"holds"}


def test_c1_holds_when_nothing_dominates():
    worse = {"logit-filter": {64: (1.0, 0.85)}, "ppmlm": {0: (0.98, 0.8), 64: (0.96, 0.89)}}
    found = by_reading(verdicts(made_up(**worse), TINY))
    assert {v for (c, _), v in found.items() if c == "C1"} == {"holds"}


def test_methods_are_paired_by_seed():
    """Seeds differ by far more than the methods do, and the claim is decided all the same."""
    results = made_up()
    results["value"] += results["seed"].where(results["metric"] == "in_place", 0) * 0.1
    assert by_reading(verdicts(results, TINY))["A2", "–"] == "holds"
    assert Values(results, TINY).privacy("mlm").std() > 0.1


def test_margins_are_those_of_the_paper_restated():
    margins = {
        (c, x.sign, x.margin)
        for s, table in ((TINY, made_up()), (GPT2, made_up(setting=GPT2)), (STORIES, made_up_stories()))
        for c in claims_of(s)
        for x in conditions(c, Values(table, s), "lm-head")
    }
    of_the_pretrained = {
        ("B1", ">=", 0.0),
        ("B1", "<=", 0.005),
        ("B2", ">", 0.0),
        ("B2", "<=", 0.02),
        ("B3", "<=", 0.01),
        ("B4", ">", 0.0),
        ("B5", ">", 0.0),
        ("B5", ">", 0.5),
        ("B6", ">", 0.0),
    }
    assert {margin for margin in margins if margin[0].startswith("B")} == of_the_pretrained
    assert {
        ("A9", "within", 0.02),
        ("A1", ">", 0.02),
        ("A3", "<=", 0.02),
        ("A4", "<=", 0.03),
        ("A6", ">=", -0.02),
        ("A6", ">", 0.02),
    } <= margins
    assert ("A7", "within", 0.02) in margins and ("C1", ">", 0.0) in margins


def test_the_committed_ledger_is_whole():
    table = pd.read_csv(ROOT / "figures" / "claims.csv")
    assert list(table.columns) == LEDGER
    assert set(table["verdict"]) <= {"holds", "contradicted", "undecided"}
    assert set(CLAIMS) <= set(table["id"])
    for name in SETTINGS:
        assert set(claims_of(SETTINGS[name])) <= set(table.loc[table["setting"] == name, "id"])
        assert (table.loc[table["setting"] == name, "seeds"] >= 5).all()


def test_the_results_name_what_is_contradicted_and_nothing_else():
    text = (ROOT / "figures" / "README.md").read_text(encoding="utf-8")
    section = text.split("**What is contradicted in the tiny setting")[1].split("**What the controls add")[0]
    named = re.findall(r"^- \*\*(\w+)\*\*:", section, re.M)
    table = pd.read_csv(ROOT / "figures" / "claims.csv").query("setting == 'tiny' and verdict == 'contradicted'")
    assert named == sorted(set(table["id"]) & set(CLAIMS))


def test_tables_are_put_between_the_markers(home):
    folder = home / "figures"
    folder.mkdir(parents=True)
    path, table = folder / "README.md", verdicts(made_up(), TINY)
    text = "before\n" + MARKERS.replace("-->\n", "-->\nOUTDATED", 1) + "\nafter\n"
    path.write_text(text, encoding="utf-8")
    matrix.write(ledger.write(table))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "OUTDATED" not in text
    assert (
        "contradicted" in text and "A5" in text and {"claims.png", "claims.svg"} <= {p.name for p in folder.iterdir()}
    )
    matrix.write(ledger.write(table))
    assert path.read_text(encoding="utf-8") == text
    path.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the markers"):
        matrix.write(ledger.write(table))


def test_a_setting_replaces_its_own_rows_only(tmp_path, monkeypatch):
    monkeypatch.setenv("SANI_HOME", str(tmp_path))
    (tmp_path / "figures").mkdir()
    tiny = verdicts(made_up(), TINY)
    ledger.write(tiny.assign(setting="court"))
    both = ledger.write(tiny)
    assert list(both["setting"].unique()) == ["tiny", "court"] and len(both) == 2 * len(tiny)
    again = ledger.write(tiny.assign(setting="court", verdict="undecided"))
    assert len(again) == len(both) and set(again.loc[again["setting"] == "court", "verdict"]) == {"undecided"}


def test_bad_arguments_end_before_any_work(capsys):
    with pytest.raises(SystemExit):
        command.main(["ledger", "--corpus", "nowhere.jsonl"])
    assert "no file or folder nowhere.jsonl" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["ledger", "--seeds", "one"])
    with pytest.raises(SystemExit):
        command.main(["ledger", "--corpus", __file__, "--name", "tiny"])
    assert "choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ('{"text": "Ann was seen.", "record_id": "%d"}', [], "4 records to train on by seed 0, none has annotated"),
        ('{"text": "Ann was seen.", "person_id": "p", "record_id": "%d"}', [], "1 persons"),
        ("", [], "empty"),
        ("", ["--jobs", "-1"], "-1 is no whole number from 0 on"),
        ("", ["--seeds", "1.5"], "1.5 is no whole number from 0 on"),
    ],
)
def test_a_corpus_of_ones_own_is_refused_before_any_training(text, options, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ledger, "pretrain", lambda *_, **__: pytest.fail("trained"))
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(text % i for i in range(16)) if text else "", encoding="utf-8")
    with pytest.raises(SystemExit):
        command.main(["ledger", "--corpus", str(path), *options])
    told = capsys.readouterr().err
    assert said in told and "Ann" not in told


def test_a_ledger_is_not_replaced_by_one_of_fewer_seeds(home, monkeypatch, capsys):
    (home / "figures").mkdir(parents=True)
    ledger.write(verdicts(made_up(), TINY))
    monkeypatch.setattr(study, "complete", None)
    with pytest.raises(SystemExit):
        command.main(["ledger", "--seeds", "7"])
    assert "fewer than 5 would replace them" in capsys.readouterr().err


def small_study(monkeypatch, home):
    """A home with a page of results to write to, and tiny settings that take seconds."""
    (home / "figures").mkdir(parents=True)
    (home / "figures" / "README.md").write_text(MARKERS, encoding="utf-8")
    small = {
        name: replace(setting, records=6, heldout_records=3, epochs=2, repair_epochs=1)
        for name, setting in SETTINGS.items()
    }
    for module in (command, ledger):
        monkeypatch.setattr(module, "SETTINGS", small)
    prepare.prepare.cache_clear()


def test_the_command_makes_runs_ledger_figures_and_tables(home, monkeypatch, capsys):
    small_study(monkeypatch, home)
    command.main(["ledger", "--seeds", "3", "3", "--jobs", "1"])
    told = capsys.readouterr().out
    assert f"{len(study.all_runs(TINY))} runs made" in told
    assert told.startswith("1 of the 5 seeds that a verdict needs: every claim will be undecided")
    table = pd.read_csv(home / "figures" / "claims.csv")
    assert set(table["verdict"]) == {"undecided"} and set(table["seeds"]) == {1}
    assert "C1" in (home / "figures" / "README.md").read_text(encoding="utf-8")
    names = {f"use_case_a_{kind}.{end}" for kind in ("frame", "tradeoff", "memory", "recall", "contexts")
             for end in ("csv", "svg", "png")}  # fmt: skip
    names |= {f"claims.{end}" for end in ("csv", "svg", "png")} | {"README.md"}
    assert {path.name for path in (home / "figures").iterdir()} == names
    command.main(["ledger", "--seeds", "3"])
    assert "0 runs made" in capsys.readouterr().out


def test_the_command_on_a_corpus_of_ones_own(home, monkeypatch, capsys, tmp_path):
    small_study(monkeypatch, home)
    monkeypatch.setattr(ledger, "VOCABULARY", 300)
    monkeypatch.setattr(ledger, "PHASES", ({"block_size": 32, "epochs": 1, "learning_rate": 1e-3, "batch_size": 8},))
    path = tmp_path / "my records.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for row in load_corpus("synthetic-clinical", records=12, seed=1):
            file.write(json.dumps({"text": row["text"], "record_id": row["record_id"],
                                   "identifiers": row["identifiers"]}) + "\n")  # fmt: skip
    command.main(["ledger", "--seeds", "0", "--jobs", "1", "--corpus", str(path), "--name", "my records"])
    table = pd.read_csv(home / "figures" / "claims.csv")
    assert set(table["setting"]) == {"my records"}
    assert (home / "figures" / "use_case_a_my_records_frame.png").exists()
    terms = set(Blacklist.from_annotations(load_corpus(path)).terms(reveal=True)["term"])
    written = "".join(p.read_text(encoding="utf-8") for p in (home / "figures").glob("*.csv"))
    assert not [term for term in terms if len(term) > 4 and term in written]


def books(folder, texts):
    folder.mkdir()
    for i, text in enumerate(texts):
        (folder / f"book{i}.txt").write_text(text, encoding="utf-8")
    return folder


def test_the_command_on_books_of_ones_own(home, monkeypatch, capsys, tmp_path):
    small_study(monkeypatch, home)
    monkeypatch.setattr(ledger, "BOOK_VOCABULARY", 300)
    monkeypatch.setattr(
        ledger, "BOOK_PHASES", ({"block_size": 32, "epochs": 1, "learning_rate": 1e-3, "batch_size": 8},)
    )
    monkeypatch.setattr(
        ledger, "BOOKS", replace(ledger.BOOKS, records=6, heldout_records=1, epochs=2, repair_epochs=2, min_count=1)
    )
    stories = load_corpus("synthetic-stories", records=12, seed=0)
    folder = books(tmp_path / "my books", stories["text"])
    emotions = tmp_path / "emotions"
    emotions.mkdir()
    lines = [f"{row['text']};{row['label']}" for row in load_corpus("synthetic-emotions", records=60, seed=0)]
    (emotions / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    options = [
        "ledger",
        "--seeds",
        "0",
        "--jobs",
        "1",
        "--books",
        str(folder),
        "--emotions",
        str(emotions),
        "--name",
        "my books",
    ]
    command.main(options)
    table = pd.read_csv(home / "figures" / "claims.csv")
    assert set(table["setting"]) == {"my books"} and {"B1", "B3", "B6"} <= set(table["id"])
    assert {path.name for path in (home / "figures").glob("*.png")} == {
        "claims.png",
        *(f"use_case_b_my_books_{kind}.png" for kind in ("unlearning", "frequency", "tradeoff")),
    }
    written = "".join(p.read_text(encoding="utf-8") for p in (home / "figures").glob("*.csv"))
    terms = Blacklist.from_capitalized(load_corpus("bookcorpus", folder=folder)).terms(reveal=True)["term"]
    assert len(terms) > 10 and not [term for term in terms if len(term) > 4 and re.search(term, written, re.I)]
    command.main(options)
    assert "0 runs made" in capsys.readouterr().out


def test_books_and_a_corpus_exclude_each_other(tmp_path, capsys):
    for options in (["--books", str(tmp_path), "--corpus", __file__], ["--emotions", str(tmp_path)]):
        with pytest.raises(SystemExit):
            command.main(["ledger", *options])
        assert "exclude each other" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["ledger", "--books", "nowhere"])
    assert "no file or folder nowhere" in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "complete", interrupted)
    with pytest.raises(SystemExit, match="the same command goes on"):
        command.main(["ledger"])
