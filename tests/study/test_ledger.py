"""The ledger as a file, and a command that writes what it says."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_claims import DELTAS, made_up

from sani import Blacklist, load_corpus
from sani.results import matrix
from sani.results.statistics import MEASURES, VERDICTS, holm
from sani.results.tables import deciding
from sani.study import __main__ as command
from sani.study import audit_claims, audits, ledger, method_claims, prepare
from sani.study import runs as study
from sani.study.audit_claims import AUDITED
from sani.study.claims import CLAIMS, claims_of
from sani.study.ledger import LEDGER, verdicts
from sani.study.method_claims import FORGETTING
from sani.study.setting import SETTINGS

TINY = SETTINGS["tiny"]
MARKERS = "".join(
    f"<!-- {name}: written by python -m sani.study ledger -->\n\n<!-- end of {name} -->\n"
    for name in ("claims-matrix", "claims")
)
ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_ledger_is_whole():
    table = pd.read_csv(ROOT / "figures" / "claims.csv")
    assert list(table.columns) == LEDGER
    assert set(table["verdict"]) <= set(VERDICTS) and set(table["measure"]) == {*MEASURES, "–"}
    judged = deciding(table)
    assert judged["holm"].tolist() == pytest.approx(holm(judged["p"]).tolist(), abs=1e-3, nan_ok=True)
    assert "small" in set(table["setting"]) and (table["seeds"] >= 5).all()
    for name in set(table["setting"]) & set(SETTINGS):
        there, setting = set(table.loc[table["setting"] == name, "id"]), SETTINGS[name]
        studies = [{*claims_of(setting)}, {*AUDITED} - (set() if setting.causal else {"D6"}), {*FORGETTING}]
        assert any(of <= there for of in studies) and all(of <= there or not of & there for of in studies)


def test_the_results_name_what_is_contradicted_and_nothing_else():
    text = (ROOT / "figures" / "README.md").read_text(encoding="utf-8")
    section = text.split("**What is contradicted in `small`")[1].split("**What the controls add")[0]
    named = re.findall(r"^- \*\*(\w+)\*\*:", section, re.M)
    table = pd.read_csv(ROOT / "figures" / "claims.csv").query("setting == 'small' and verdict == 'contradicted'")
    assert named == sorted(set(table["id"]) & set(CLAIMS))


def test_tables_are_put_between_the_markers(home):
    folder = home / "figures"
    folder.mkdir(parents=True)
    path, table = folder / "README.md", verdicts(made_up(), TINY, DELTAS)
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
    tiny = verdicts(made_up(), TINY, DELTAS)
    ledger.write(tiny.assign(setting="court"))
    both = ledger.write(tiny)
    assert list(both["setting"].unique()) == ["tiny", "court"] and len(both) == 2 * len(tiny)
    # The correction is for all verdicts of the file: as many again make the least p twice what it was.
    one, whole = deciding(tiny), deciding(both)
    assert whole["holm"].max() <= 1 and len(whole) == 2 * len(one)
    assert whole["holm"].tolist() == pytest.approx(
        holm(pd.concat([one["p"]] * 2, ignore_index=True)).tolist(), abs=1e-4
    )
    again = ledger.write(tiny.assign(setting="court", verdict="undecided"))
    assert len(again) == len(both) and set(again.loc[again["setting"] == "court", "verdict"]) == {"undecided"}


def test_the_first_edition_is_not_mixed_with_the_second(home):
    (home / "figures").mkdir(parents=True)
    old = verdicts(made_up(), TINY, DELTAS).query("measure == 'in_place'").assign(setting="court")
    old.drop(columns=["measure", "p", "holm"]).to_csv(home / "figures" / "claims.csv", index=False)
    new = verdicts(made_up(), TINY, DELTAS)
    table = ledger.write(new)
    assert list(table.columns) == LEDGER and set(table["setting"]) == {TINY.name} and len(table) == len(new)
    table = ledger.write(new.assign(setting="court"))  # of this edition the other settings are kept
    assert set(table["setting"]) == {TINY.name, "court"} and len(table) == 2 * len(new)


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
        ('{"text": "Ann was seen.", "record_id": "%d"}', [], "4 records to train on by seed 10, none has annotated"),
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
    ledger.write(verdicts(made_up(), TINY, DELTAS))
    monkeypatch.setattr(study, "complete", None)
    parse = command._parser().parse_args
    assert command._setting(parse(["audit", "--seeds", "7"])) == TINY  # claims D: there are none yet
    ledger.write(verdicts(made_up(), TINY, DELTAS).assign(id="D1"))
    for name in ("ledger", "audit"):
        with pytest.raises(SystemExit):
            command.main([name, "--seeds", "7"])
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
    names = [*SETTINGS, "my records", "my books"]
    rows = [
        {"setting": name, "measure": m, "lost": 0.1, "delta": 0.01, "seeds": "0"} for name in names for m in MEASURES
    ]
    pd.DataFrame(rows).to_csv(home / "figures" / "margins.csv", index=False)
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
    names |= {f"claims.{end}" for end in ("csv", "svg", "png")} | {"README.md", "margins.csv", "measured"}
    assert {path.name for path in (home / "figures").iterdir()} == names
    command.main(["ledger", "--seeds", "3"])
    assert "0 runs made" in capsys.readouterr().out


def test_the_commands_of_the_audit_and_of_the_methods(home, monkeypatch, capsys):
    small_study(monkeypatch, home)
    enough = replace(SETTINGS["tiny"], records=24, heldout_records=6, epochs=1, repair_epochs=1, batch_size=16)
    monkeypatch.setattr(command, "SETTINGS", {"tiny": enough})
    # The other attacks have tests of their own.
    monkeypatch.setattr(audits, "ASKED", ("as-it-is", "retie", "membership"))
    some = ("unprotected", "counterfactual", "base", "sani lm-head", "untied-repair-only", "ppmlm")
    of_all = audits.models
    monkeypatch.setattr(audits, "models", lambda s: {name: run for name, run in of_all(s).items() if name in some})
    monkeypatch.setattr(audit_claims, "readings", lambda _: ("lm-head",))
    monkeypatch.setattr(method_claims, "others", lambda _: ("sani", "ssd", "retrain-at-equal-cost"))
    monkeypatch.setattr(audit_claims, "AUDITED", {id: audit_claims.AUDITED[id] for id in ("D1", "D2", "D5")})
    command.main(["audit", "--seeds", "3", "--jobs", "1"])
    command.main(["forgetting", "--seeds", "3", "--jobs", "1"])
    assert "no rate was swept in tiny for graddiff, npo" in capsys.readouterr().out
    table = pd.read_csv(home / "figures" / "claims.csv")
    assert set(table["id"].str[:2]) == {"D1", "D2", "D5", "E1", "E2", "E3", "E4", "E5"}
    assert set(table["verdict"]) == {"undecided"} and set(table["seeds"]) == {1}
    assert (home / "figures" / "use_case_a_audit.png").exists() and (
        home / "figures" / "use_case_a_methods.png"
    ).exists()


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
    at = home / "runs" / "figures"
    table = pd.read_csv(at / "claims.csv")
    assert set(table["setting"]) == {"my records"} and "undecided" in (at / "README.md").read_text(encoding="utf-8")
    assert (at / "use_case_a_my_records_frame.png").exists()
    # What git tracks is as it was.
    assert {path.name for path in (home / "figures").iterdir()} == {"README.md", "margins.csv"}
    assert (home / "figures" / "README.md").read_text(encoding="utf-8") == MARKERS and "SANI_FIGURES" not in os.environ
    terms = set(Blacklist.from_annotations(load_corpus(path)).terms(reveal=True)["term"])
    written = "".join(p.read_text(encoding="utf-8") for p in at.glob("*.csv"))
    assert written and not [term for term in terms if len(term) > 4 and term in written]


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
        "--tracked",
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


def test_an_interrupted_command_says_how_to_go_on(home, monkeypatch):
    small_study(monkeypatch, home)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "complete", interrupted)
    with pytest.raises(SystemExit, match="the same command goes on"):
        command.main(["ledger"])
