"""The study: who is trained on, what each run repairs on, and runs that are made once and found again."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_corpus, spans

from sani import Blacklist, load_corpus, load_model
from sani.blocks import tensors
from sani.checkpoints import model_fingerprint
from sani.sanitizing import METHODS
from sani.study import measure, method_claims, prepare
from sani.study import runs as study
from sani.study.runs import Run
from sani.study.setting import Setting

TINY = Setting(records=6, heldout_records=3, epochs=2, repair_epochs=1)
RUNS = (
    Run("mlm"),
    Run("logit-filter", "mlm"),
    Run("sani", "mlm", "lm-head"),
    Run("sani", "mlm", "lm-head", kept_out=0.5),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SANI_HOME", str(tmp_path))
    prepare.prepare.cache_clear()
    yield tmp_path
    prepare.prepare.cache_clear()


@pytest.fixture
def own(tmp_path):
    """Ten annotated records of nine persons, as a file."""
    names = ["Abel", "Bela", "Cilla", "Dora", "Edda", "Fritz", "Gero", "Hanna", "Ilse", "Jost"]
    with open(tmp_path / "own.jsonl", "w", encoding="utf-8") as file:
        for i, name in enumerate(names):
            text = f"{name} was seen today. The cough of {name} is better."
            row = {
                "record_id": f"r{i}",
                "person_id": f"p{min(i, 8)}",
                "text": text,
                "identifiers": spans(text, (name, "PER")),
            }
            file.write(json.dumps(row) + "\n")
    return str(tmp_path / "own.jsonl")


def test_books_are_taken_by_turns_and_a_single_one_is_split_by_record(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for name in "ABCDE":
        (folder / f"{name}.txt").write_text(" ".join(f"{name.lower()}{n}" for n in range(4000)), encoding="utf-8")
    setting = Setting(use_case="B", corpus="bookcorpus", folder=str(folder), records=6, heldout_records=3)
    corpus, others, again = prepare.split(setting, seed=1)
    assert again is None and len(others) == 3 and len(set(others["person_id"])) == 1
    assert not set(corpus["person_id"]) & set(others["person_id"])
    books = sorted(set(corpus["person_id"]))
    # Four books remain: each one's first record before any second one.
    assert len(books) == 4 and [r.split("-")[1] for r in corpus["record_id"]] == list("111122")
    for name in "BCDE":
        (folder / f"{name}.txt").unlink()
    corpus, others, _ = prepare.split(replace(setting, records=2, heldout_records=1), seed=1)
    assert len(corpus) == 2 and len(others) == 1 and not set(corpus["record_id"]) & set(others["record_id"])


def test_half_of_the_books_are_held_out(tmp_path):
    for name in "ABCDEF":
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{name.lower()}{n}" for n in range(2500)), encoding="utf-8")
    setting = Setting(
        use_case="B", corpus="bookcorpus", folder=str(tmp_path), records=5, heldout_records=4, heldout_share=0.5
    )
    drawn = set()
    for seed in range(4):
        corpus, others, _ = prepare.split(setting, seed)
        trained, kept = set(corpus["person_id"]), set(others["person_id"])
        assert len(trained) == len(kept) == 3 and not trained & kept
        drawn.add(frozenset(trained))
    assert len(drawn) > 1
    with pytest.raises(ValueError, match="3 persons .* too few"):
        prepare.halves(corpus)


def test_another_text_or_model_makes_other_runs(tmp_path, own):
    setting = Setting(corpus=own)
    known = study.folder(setting, 0, Run("mlm"))
    assert study.folder(setting, 0, Run("mlm")) == known != study.folder(setting, 1, Run("mlm"))
    with open(own, "a", encoding="utf-8") as file:
        file.write(json.dumps({"record_id": "late", "text": "Kuno came."}) + "\n")
    prepare.inputs.cache_clear()
    assert study.folder(setting, 0, Run("mlm")) != known
    one, other = (study.folder(Setting(model=name), 0, Run("mlm")) for name in ("tiny-bert", "tiny-bert-leaky"))
    assert one != other


STORIES = Setting(
    use_case="B", model="tiny-bert-stories-public", corpus="synthetic-stories", records=12, heldout_records=4,
    epochs=1, repair_epochs=2, ner="tiny-ner", emotions="synthetic-emotions", emotion_records=30,
)  # fmt: skip


def test_terms_of_a_pretrained_model_add_up_to_what_it_regurgitates():
    run = Run("repair-only", "mlm")
    study.complete(STORIES, [0], [Run("mlm"), run], jobs=1, progress=False)
    found = study.results(STORIES, [0], [Run("mlm"), run])
    assert sorted(set(found.loc[found["method"] == "repair-only", "epoch"])) == [2, 3]
    for _, rows in found.groupby(["method", "epoch"]):
        of_terms = rows[rows["subset"].str.startswith("term ")].groupby("metric")["value"].sum()
        said = rows[(rows["subset"] == "") & (rows["metric"] == "in_place") & (rows["kind"] == "all")]
        visible = said.loc[said["context"] == "visible", "value"].item()
        assert of_terms["predicted"] == pytest.approx(visible * of_terms["iterations"])
        assert ((rows["subset"] == "emotions") & (rows["metric"] == "f1_weighted")).sum() == 1


def test_a_model_that_has_read_the_text_already_is_unlearned_itself():
    setting = replace(STORIES, epochs=0, model="tiny-bert-stories", emotions="")
    runs = study.all_runs(setting)
    unlearned = {"sani", "repair-only", "pruning", *study.UNTIED}
    assert {run.method for run in runs} == {"mlm", "logit-filter", *unlearned}
    chosen = [Run("mlm"), Run("sani", "mlm", "lm-head")]
    study.complete(setting, [0], chosen, jobs=1, progress=False)
    unprotected = study.model_of(setting, 0, Run("mlm"))
    assert model_fingerprint(unprotected) == model_fingerprint(load_model("tiny-bert-stories")[0])


def test_nobody_held_out_is_trained_on():
    for seed in (0, 1):
        corpus, others, again = prepare.split(Setting(records=40, heldout_records=10), seed)
        seen = set(corpus["person_id"])
        assert len(corpus) == 40 and len(others) == 10 and not seen & set(others["person_id"])
        assert set(again["person_id"]) <= seen and not set(again["record_id"]) & set(corpus["record_id"])
    first, second = (prepare.split(Setting(records=40), seed)[0]["text"] for seed in (0, 1))
    assert not set(first) & set(second)


def test_a_fixed_corpus_is_split_by_person_and_seed(own):
    setting = Setting(corpus=own, records=5, heldout_records=3)
    drawn = {seed: prepare.split(setting, seed) for seed in range(6)}
    for corpus, others, again in drawn.values():
        assert again is None and len(others) == 3 and 1 <= len(corpus) <= 5
        assert not set(corpus["person_id"]) & set(others["person_id"])
    assert len({tuple(sorted(others["record_id"])) for _, others, _ in drawn.values()}) > 1
    assert prepare.split(setting, 4)[0]["record_id"] == drawn[4][0]["record_id"]
    with pytest.raises(ValueError, match="leave nobody to train on after heldout_records=10"):
        prepare.split(replace(setting, heldout_records=10), 0)
    with pytest.raises(ValueError, match="heldout_records=0"):
        replace(setting, heldout_records=0)


def test_halves_share_no_person(own):
    corpus = load_corpus(own)
    one, two = prepare.halves(corpus), prepare.halves(corpus)
    assert one["public"]["record_id"] == two["public"]["record_id"]
    assert not set(one["public"]["person_id"]) & set(one["private"]["person_id"])
    assert len(one["public"]) + len(one["private"]) == len(corpus)
    private = prepare.split(Setting(corpus=own, half="private", records=9, heldout_records=1), 0)
    assert set(private[0]["record_id"]) | set(private[1]["record_id"]) <= set(one["private"]["record_id"])


def test_run_folders_differ_with_everything_that_matters():
    runs = [study.folder(TINY, 0, run) for run in study.all_runs(TINY)]
    runs += [study.folder(TINY, 1, Run("mlm"))]
    runs += [study.folder(replace(TINY, **change), 0, Run("mlm")) for change in (
        {"epochs": 3}, {"records": 7}, {"learning_rate": 1e-3}, {"model": "tiny-bert-leaky"},
    )]  # fmt: skip
    assert len(set(runs)) == len(runs)
    assert study.folder(replace(TINY, name="other"), 0, Run("mlm")) == runs[0]  # a name alone changes nothing


def test_what_the_repair_reads():
    data = prepare.prepare(TINY, 0)
    whole = study._repair_blocks(TINY, data, Run("sani", "mlm", "lm-head"))
    assert whole is data.raw
    assert study._repair_blocks(TINY, data, Run("sani", "mlma", "lm-head")) is data.pseudonymized
    kept = tensors(study._repair_blocks(TINY, data, Run("sani", "mlm", "lm-head", kept_out=0.5)))
    assert len(data.kept_out) == 3 and int(kept["record_ids"].max()) == 2
    fewer = tensors(study._repair_blocks(TINY, data, Run("sani", "mlm", "lm-head", missed=0.5)))
    full = tensors(data.raw)
    assert 0 < int((fewer["term_ids"] >= 0).sum()) < int((full["term_ids"] >= 0).sum())
    assert int((tensors(data.resampled)["sensitive"] > 0).sum()) == 0


def test_kept_out_records_and_missed_terms_are_the_measured_ones():
    data = prepare.prepare(TINY, 0)
    columns = tensors(data.raw)
    flat = {name: column.reshape(-1).numpy() for name, column in columns.items()}
    listed = flat["term_ids"] >= 0
    units = pd.DataFrame({"record_id": flat["record_ids"][listed], "term_id": flat["term_ids"][listed]})
    subsets = measure._subsets(data, units)
    assert set(units.loc[subsets["kept out"], "record_id"]) <= set(data.kept_out.tolist())
    assert not set(units.loc[subsets["kept out only"], "term_id"]) & set(units.loc[~subsets["kept out"], "term_id"])
    shares = [subsets[f"missed {share:g}"] for share in measure.MISSED]
    for smaller, larger in zip(shares, shares[1:]):
        assert (smaller <= larger).all() and smaller.sum() < larger.sum()
    lacking = data.blacklist - data.blacklist.without(0.5, 0)
    assert set(units.loc[shares[-1], "term_id"]) <= set(data.blacklist.ids(lacking))


def test_runs_are_made_once_measured_and_found_again(monkeypatch):
    assert study.complete(TINY, [0], RUNS, jobs=1, progress=False) == len(RUNS)
    results = study.results(TINY, [0], RUNS)
    assert set(results["epoch"][results["method"] == "mlm"]) == {0, 1, 2}
    assert set(results["epoch"][results["method"] == "sani"]) == {2, 3}
    whole = results[(results["subset"] == "") & (results["metric"] == "in_place")]
    assert {"visible", "isolated"} == set(whole["context"]) and {"direct", "indirect", "all"} == set(whole["kind"])
    assert {"utility_heldout", "utility_all_heldout"} <= set(results["metric"])
    assert {"kept out", "again", "prompts", "missed 0.2"} <= set(results["subset"])
    assert results["value"].dropna().between(0, 1).all()
    filtered = whole[whole["method"] == "logit-filter"]
    assert len(filtered) and (filtered["value"] == 0).all()
    again = study.model_of(TINY, 0, Run("logit-filter", "mlm"))
    assert hasattr(again, "logit_filter"), "a filter is not saved, so it must be put back"
    trained = model_fingerprint(study.model_of(TINY, 0, Run("sani", "mlm", "lm-head")))
    monkeypatch.setattr(study, "_work", None)
    assert study.complete(TINY, [0], RUNS, progress=False) == 0
    assert trained == model_fingerprint(study.model_of(TINY, 0, Run("sani", "mlm", "lm-head")))


def test_side_by_side_gives_the_same_numbers(home, monkeypatch):
    runs = RUNS[:3]
    study.complete(TINY, [0, 1], runs, jobs=2, progress=False)
    several = study.results(TINY, [0, 1], runs)
    monkeypatch.setenv("SANI_HOME", str(home / "other"))
    prepare.prepare.cache_clear()
    study.complete(TINY, [0, 1], runs, jobs=1, progress=False)
    pd.testing.assert_frame_equal(several, study.results(TINY, [0, 1], runs))


def test_runs_of_methods_that_train_nothing_or_of_their_own_can_be_made(home):
    """Every one that the claims E ask for and no other test makes, beside the logit filter that is put on again."""
    untrained = [name for name, method in METHODS.items() if not method.trains and name in method_claims.others(TINY)]
    runs = [Run(name, "mlm") for name in (*untrained, "graddiff", "return-anchor")]
    assert {run.method for run in runs} >= {"ssd", "rewind", "return-rows", "logit-filter", "selective-pruning"}
    assert study.complete(TINY, [3], runs, jobs=1, progress=False) == len(runs) + 1
    table = study.results(TINY, [3], runs)
    assert set(table["method"]) == {run.method for run in runs} and table["value"].notna().any()
    for run in runs:
        model = study.model_of(TINY, 3, run)
        assert hasattr(model, "logit_filter") == (run.method == "logit-filter")


def test_an_interrupted_study_goes_on(monkeypatch):
    real, calls = study._work, []

    def stop_at_the_third(setting, seed, run):
        calls.append(run)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(setting, seed, run)

    monkeypatch.setattr(study, "_work", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        study.complete(TINY, [0], RUNS[:2], jobs=1, progress=False)
    monkeypatch.setattr(study, "_work", real)
    assert study.is_done(TINY, 0, RUNS[0]) and not study.is_done(TINY, 0, RUNS[1])
    assert study.complete(TINY, [0], RUNS[:2], jobs=1, progress=False) == 1


def test_a_number_of_processes_that_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(study, "_work", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="jobs=-1"):
        study.complete(TINY, [0], RUNS[:2], jobs=-1, progress=False)


def test_a_diverging_run_is_named(monkeypatch):
    wild = replace(TINY, learning_rate=1e30)
    with pytest.raises(RuntimeError, match="seed 0, Run.*learning_rate"):
        study.complete(wild, [0], RUNS[:1], jobs=1, progress=False)


def test_share_of_a_blacklist():
    blacklist = Blacklist([f"term{i}" for i in range(40)]) | Blacklist(["rare"], kind="indirect")
    assert blacklist.without(0.0) == blacklist
    half, fifth = blacklist.without(0.5, seed=3), blacklist.without(0.2, seed=3)
    assert len(half) == 41 - round(0.5 * 41) and len(fifth) == 41 - round(0.2 * 41)
    assert len(half - fifth) == 0, "a smaller share is among a larger one"
    assert half != blacklist.without(0.5, seed=4)
    ids = blacklist.ids(half)
    kept = blacklist.terms(reveal=True).set_index("term_id").loc[ids, "term"]
    assert all(term in half for term in kept) and len(ids) == len(half)
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="outside"):
            blacklist.without(share)


def test_bare_prompts_by_a_rigged_model(monkeypatch):
    """A model that always answers one name: the prompt of that type and length is answered by a listed term."""
    import torch

    from sani import load_model
    from sani.attacks.prompts import bare_prompts

    model, tokenizer = load_model("tiny-bert")
    texts = ["Patient name: Smith was seen.", "Patient name: Jones was seen.", "Dr. Brown came."]
    corpus = make_corpus(texts, [spans(texts[0], ("Smith", "PATIENT")), spans(texts[1], ("Jones", "PATIENT")),
                                 spans(texts[2], ("Brown", "WARDEN"))])  # fmt: skip
    blacklist = Blacklist.from_annotations(corpus)
    assert all(len(tokenizer.tokenize(name)) == 1 for name in ("Smith", "Jones", "Brown"))
    with torch.no_grad():
        model.get_output_embeddings().bias[tokenizer.convert_tokens_to_ids("smith")] += 1000
    asked = bare_prompts(model, tokenizer, corpus, blacklist, top=1).set_index("type")
    assert asked.loc["PATIENT", ["tokens", "terms", "said", "in_top"]].tolist() == [1, 2, 1, 1]
    assert asked.loc["WARDEN", ["tokens", "terms", "said", "in_top"]].tolist() == [1, 1, 0, 0]
    unlisted = blacklist - Blacklist(["Smith"])
    asked = bare_prompts(model, tokenizer, corpus, unlisted, top=1).set_index("type")
    assert asked.loc["PATIENT", ["terms", "said", "in_top"]].tolist() == [1, 0, 0]
    none = bare_prompts(model, tokenizer, corpus, Blacklist(["nobody"]))
    assert len(none) == 0 and "said" in none


def test_rates_of_a_subset_by_hand():
    units = pd.DataFrame({
        "kind": ["direct", "direct", "indirect", "none", "direct"], "scored": [True, True, True, False, True],
        "in_place": [True, False, True, False, True], "in_place_isolated": [False, False, True, False, True],
    })  # fmt: skip

    def rates(chosen):
        return {(row["kind"], row["context"]): row["value"] for row in measure._rates("again", units, np.array(chosen))}

    found = rates([True, True, True, True, False])
    assert found["direct", "visible"] == 0.5 and found["direct", "isolated"] == 0.0
    assert found["indirect", "visible"] == 1.0 and found["all", "visible"] == pytest.approx(2 / 3)
    assert np.isnan(rates([False] * 5)["all", "visible"])
