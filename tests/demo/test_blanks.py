"""Which blank is shown, what is predicted in it with a filter and while repairing; the rows of an erased matrix."""

import numpy as np
import pytest
import torch
from conftest import make_model

import sani
from sani import Blacklist, encode
from sani.demo import blanks
from sani.demo.answers import ANSWERS, Listed, compare
from sani.demo.blanks import Blank, ask, choose, while_repairing
from sani.demo.rows import ROWS, row_norms

TEXT = "Dr. [MASK] was seen ."


@pytest.fixture
def made():
    """A corpus, its list, its blocks, a model, and the reports of two models, whose units a test may change."""
    corpus = sani.load_corpus("synthetic-clinical", records=3, seed=0)
    model, tokenizer = sani.load_model("tiny-bert")
    other, _ = sani.load_model("tiny-bert-counterfactual")
    blacklist = Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)
    blocks = encode(corpus, tokenizer, blacklist, 64, progress=False)
    reports = [sani.evaluate(one, blocks, progress=False) for one in (model, other)]
    return corpus, Listed(blacklist, tokenizer), blocks, model, *reports


def candidates(corpus, listed, units):
    """By unit, those that may be chosen, looked at one by one."""
    fits = {}
    for unit in units.to_dict("records"):
        if unit["kind"] == "direct" and unit["gold"] and unit["tokens"] == 1:
            term = listed.blacklist.terms(reveal=True).set_index("term_id").loc[unit["term_id"]]
            if term["match"] == "everywhere":
                fits[unit["unit_id"]] = unit
    return fits


def test_what_is_chosen_is_the_best_of_what_may_be(made, monkeypatch):
    """Against ranks by hand, for random outcomes; also the same each time."""
    corpus, listed, _, model, report, base = made
    monkeypatch.setattr(blanks, "compare", lambda *_: {"prediction": ["nothing of the kind"]})
    fits, chosen = candidates(corpus, listed, report.units), set()
    direct = report.units["kind"].eq("direct")
    assert len(fits) >= 3 and len(fits) < direct.sum(), "some direct identifiers are excluded"
    for seed in range(40):
        rng = np.random.default_rng(seed)
        for one in (report, base):
            for column in ("in_place", "in_place_isolated"):
                one.units[column] = rng.random(len(one.units)) < 0.4

        def rank(i):
            whole, isolated = (report.units.set_index("unit_id").loc[i, c] for c in ("in_place", "in_place_isolated"))
            guessed, alone = (base.units.set_index("unit_id").loc[i, c] for c in ("in_place", "in_place_isolated"))
            if whole and isolated and not guessed and not alone:
                return 0
            return 1 if whole and not guessed else 2 if whole else 3

        found = choose(corpus, listed, model, report, base)
        assert found == choose(corpus, listed, model, report, base)
        assert found.unit_id == min(fits, key=lambda i: (rank(i), fits[i]["iterations"], i))
        chosen.add(found.unit_id)
        assert listed.blacklist.key(found.truth) in listed.keys
        line = corpus[found.record]["text"]
        assert found.text.replace("[MASK]", found.truth) in line and found.text.count("[MASK]") == 1
    assert len(chosen) > 1


def test_a_line_that_brings_the_term_out_comes_before_one_that_does_not(made, monkeypatch):
    corpus, listed, _, model, report, base = made
    for one, value in ((report, True), (base, False)):
        one.units[["in_place", "in_place_isolated"]] = value
    monkeypatch.setattr(blanks, "compare", lambda *_: {"prediction": ["nothing of the kind"]})
    first, asked = choose(corpus, listed, model, report, base), []

    def right_at_the_third(_, __, text, *___):
        asked.append(text)
        line = next(line for line in "\n".join(corpus["text"]).split("\n") if fits(text, line))
        before, after = text.split("[MASK]")
        return {"prediction": [line[len(before) : len(line) - len(after)].upper() if len(asked) == 3 else "nothing"]}

    def fits(text, line):
        before, after = text.split("[MASK]")
        return line.startswith(before) and line.endswith(after) and len(line) > len(before) + len(after)

    monkeypatch.setattr(blanks, "compare", right_at_the_third)
    found = choose(corpus, listed, model, report, base)
    assert asked[0] == first.text and len(asked) == 3 and found.text == asked[2] != first.text


def test_nothing_to_choose_and_reports_of_other_blocks_are_told_without_terms(made):
    corpus, listed, _, model, report, base = made
    short = sani.evaluate(model, encode(corpus, listed.tokenizer, listed.blacklist, 32, progress=False), progress=False)
    with pytest.raises(ValueError, match="other blocks"):
        choose(corpus, listed, model, report, short)
    report.units["tokens"] = 2
    with pytest.raises(ValueError, match="no annotated direct identifier of one token") as error:
        choose(corpus, listed, model, report, base)
    terms = listed.blacklist.terms(reveal=True).query("kind == 'direct'")["term"]
    assert not [term for term in terms if term.lower() in str(error.value).lower()]


def test_a_blank_keeps_its_text_out_of_its_repr():
    assert "Smith" not in repr(Blank(1, 2, "PATIENT", 3, "Mr. [MASK] Smith", "Smith"))


def test_a_causal_model_is_asked_for_one_word_after_the_text_before_it():
    corpus = sani.load_corpus("synthetic-clinical", records=3, seed=0)
    model, tokenizer = sani.load_model("tiny-gpt2")
    blacklist = Blacklist.from_annotations(corpus)
    report = sani.evaluate(model, encode(corpus, tokenizer, blacklist, 128, progress=False), progress=False)
    found = choose(corpus, Listed(blacklist, tokenizer), model, report)
    assert len(blacklist.key(found.truth)) == 1 and found.text and found.text == found.text.rstrip()
    assert f"{found.text} {found.truth}" in corpus[found.record]["text"]


def test_a_filter_lets_no_listed_term_through_and_keeps_the_others_in_order(made):
    corpus, listed, blocks, model, *_ = made
    filtered = sani.sanitize(model, blocks, "logit-filter", progress=False)
    text, k = TEXT, 6
    table = ask({"plain": model, "filter": filtered}, listed, text, k)
    assert list(table.columns) == ANSWERS and table["model"].tolist() == ["plain"] * k + ["filter"] * k
    whole = compare({"": model}, listed.tokenizer, text, listed, 10_000)
    left = whole[whole["listed"] != "term"]
    found = table[table["model"] == "filter"]
    assert found["prediction"].tolist() == left["prediction"].tolist()[:k] and found["rank"].tolist() == [*range(1, 7)]
    rest = 1 - whole["mass"].iloc[0]
    assert 0 < rest < 1 and (found["mass"] == 0).all()
    assert found["probability"].tolist() == pytest.approx((left["probability"] / rest).tolist()[:k], rel=1e-4)
    assert whole[whole["listed"] == "term"]["probability"].sum() > 0


def test_asking_on_the_way_does_not_change_the_repair(made):
    _, listed, blocks, model, *_ = made
    erased = sani.erase(model, seed=1)
    options = {"learning_rate": 1e-3, "batch_size": 2, "seed": 3, "progress": False}
    repaired, table = while_repairing(erased, blocks, listed, TEXT, 2, [0, 1, 2], k=3, **options)
    assert list(dict.fromkeys(table["model"])) == ["just erased", "after 1 epoch", "after 2 epochs"]
    plain = sani.repair(erased, blocks, 2, **options)
    assert all(torch.equal(a, b) for a, b in zip(repaired.state_dict().values(), plain.state_dict().values()))
    last = ask({"after 2 epochs": plain}, listed, TEXT, 3)
    at = table[table["model"] == "after 2 epochs"].reset_index(drop=True)
    assert at.drop(columns="seconds").equals(last.drop(columns="seconds"))


@pytest.mark.parametrize("target, name", [("lm-head", "output matrix"), ("head-transform", "transform")])
def test_rows_are_those_of_the_matrices(wordpiece, target, name):
    """Half of the rows are zero afterwards, the lengths are those of the weights, the input embeddings stay."""
    model = make_model(len(wordpiece))
    model.get_input_embeddings().weight.data[0] = 1.0  # the padding's, zero in a model just made
    erased = sani.erase(model, target, seed=2)
    table = row_norms(model, erased, target, sample=7)
    assert list(table.columns) == ROWS
    matrix, inputs = (part for _, part in table.groupby("matrix", sort=False))
    assert name in matrix["matrix"].iloc[0] and (inputs["matrix"] == "input embeddings").all()
    layer = "cls.predictions.decoder" if target == "lm-head" else "cls.predictions.transform.dense"
    for column, one in (("before", model), ("after", erased)):
        for rows, weights in ((matrix, one.get_submodule(layer).weight), (inputs, one.get_input_embeddings().weight)):
            assert len(rows) == 7 and rows["row"].iloc[0] == 0 and rows["row"].iloc[-1] == len(weights) - 1
            for row in rows.to_dict("records"):
                assert row[column] == pytest.approx(weights[row["row"]].norm().item(), rel=1e-6)
                assert row["rows"] == len(weights)
                assert row[f"zero_{column}"] == sum(not w.any() for w in weights)
    assert matrix["zero_after"].iloc[0] == round(0.5 * matrix["rows"].iloc[0])
    assert (inputs["before"] == inputs["after"]).all()
