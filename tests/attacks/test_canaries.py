"""Canaries: where they are planted, and that a model is caught that has read them, by how often."""

import numpy as np
import pandas as pd
import pytest
from conftest import TEXTS, make_corpus, make_model, make_tokenizer, spans
from test_causal import byte_level, new_model

import sani
from sani.attacks.canaries import canaries, plant
from sani.attacks.rows import COLUMNS
from sani.models import add_padding


@pytest.fixture(scope="module")
def corpus():
    found = [spans(text, ("Smith", "PATIENT")) if "Smith" in text else [] for text in TEXTS]
    return make_corpus([*TEXTS, *TEXTS], [*found, *found])


def test_each_is_planted_as_often_as_it_says_and_the_text_is_kept(corpus):
    made, table = plant(corpus, (1, 3, 8), each=5, words=6, seed=1)
    assert table["times"].value_counts().to_dict() == {1: 5, 3: 5, 8: 5, 0: 15}
    assert table["text"].is_unique and {len(text.split()) for text in table["text"]} == {6}
    lines = [text.split("\n") for text in made["text"]]
    for text, times in table.itertuples(index=False):
        assert sum(text in of_record for of_record in lines) == sum(of.count(text) for of in lines) == times
    assert [text.split("\n")[0] for text in made["text"]] == list(corpus["text"])
    for before, after in zip(corpus, made):
        assert {k: v for k, v in before.items() if k != "text"} == {k: v for k, v in after.items() if k != "text"}
        assert all(after["text"][s["start"] : s["end"]] == "Smith" for s in after["identifiers"])
    again, same = plant(corpus, (1, 3, 8), each=5, words=6, seed=1)
    assert same.equals(table) and again["text"] == made["text"]
    assert not set(plant(corpus, seed=2)[1]["text"]) & set(table["text"])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_what_was_planted_is_caught_and_what_was_not_is_at_chance(corpus, family):
    made, table = plant(corpus, (1, 8), each=6, words=4)
    if family == "bert":
        tokenizer = make_tokenizer("wordpiece")
        base = make_model(len(tokenizer))
    else:
        tokenizer = byte_level(pad="[PAD]")
        base = new_model("gpt2", len(tokenizer))
        add_padding(base, tokenizer)
    options = {"epochs": 30, "learning_rate": 1e-2, "batch_size": 4, "progress": False}
    trained = [
        sani.fine_tune(base, sani.encode(some, tokenizer, block_size=48, progress=False), **options)
        for some in (made, corpus)
    ]
    rows = {name: canaries(m, tokenizer, table, base) for name, m in zip(("planted", "without"), trained)}
    at = {(name, row["setting"], row["metric"]): row for name, of in rows.items() for row in of}
    often, once = (at["planted", f"planted {n} times", "auc"] for n in (8, 1))
    assert often["value"] > 0.9 and often["low"] > 0.5 and often["value"] >= once["value"]
    assert at["planted", "planted 8 times", "first"]["value"] > 0.25  # by chance one in thirteen
    for n in (1, 8):
        chance = at["without", f"planted {n} times", "auc"]
        assert chance["low"] <= 0.5 <= chance["high"]
    # Labels by lot: of those planted and those not, neither is likelier.
    mixed = table.assign(times=np.random.default_rng(0).permutation(np.where(table["times"] == 1, 8, table["times"])))
    (shuffled,) = [row for row in canaries(trained[0], tokenizer, mixed, base) if row["metric"] == "auc"]
    assert shuffled["low"] <= 0.5 <= shuffled["high"]
    # Against itself no model remembers anything; and the other way round what was held out is likelier.
    assert {row["value"] for row in canaries(base, tokenizer, table, base) if row["metric"] == "auc"} == {0.5}
    turned = canaries(base, tokenizer, table, trained[0])
    assert min(row["value"] for row in turned if row["metric"] == "auc") < 0.2
    assert all(list(row) == COLUMNS[1:] for of in rows.values() for row in of)


def test_bad_numbers_end_before_any_work(corpus):
    for message, options in {
        "times=9 is out of range": {"times": (1, 9)},
        "times=0 is out of range": {"times": (0,)},
        "times is empty": {"times": ()},
        "each=0": {"each": 0},
        "need 400": {"words": 200},
    }.items():
        with pytest.raises(ValueError, match=message):
            plant(corpus, **options)
    tokenizer = make_tokenizer("wordpiece")
    model = make_model(len(tokenizer))
    for times in (0, 1):
        with pytest.raises(ValueError, match="some that were held out"):
            canaries(model, tokenizer, pd.DataFrame({"text": ["a b"], "times": [times]}))
