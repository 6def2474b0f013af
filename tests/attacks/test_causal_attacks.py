"""Attacks on causal models: who belongs to whom, planted by training; who is on the list, by a push on the output."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import make_corpus, spans
from test_causal import byte_level, new_model
from test_exposure import NAMES

import sani
from sani import Blacklist, encode, load_model
from sani.attacks import infer_list as attack
from sani.attacks.infer_list import infer_list, names
from sani.attacks.reintroduce import reintroduce
from sani.blocks import info
from sani.data.corpora import with_strangers
from sani.models import add_padding, clone, hidden_states, untie
from sani.predictions import layout

SEEN = "{} saw {}."


def seen(tokenizer, pairs):
    """Blocks of a row per pair of a patient and a doctor, as long as the others, which read alike but for the names."""
    texts = [SEEN.format(*pair) for pair in pairs]
    found = [spans(text, (pair[0], "PATIENT"), (pair[1], "DOCTOR")) for text, pair in zip(texts, pairs)]
    corpus = make_corpus(texts, found)
    size = max(len(tokenizer(text)["input_ids"]) for text in texts) + 2  # what begins a record, and what parts two
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), size, progress=False)
    assert len(blocks) == len(pairs), "a row each"
    return blocks


def exposures(rows) -> dict[str, float]:
    return {row["setting"]: row["value"] for row in rows if (row["kind"], row["metric"]) == ("names", "exposure")}


def test_naming_a_person_brings_back_what_belongs_to_it():
    tokenizer = byte_level(pad="[PAD]")
    base = new_model("gpt2", len(tokenizer))
    add_padding(base, tokenizer)
    first, second = ({name: len(tokenizer(lead + name)["input_ids"]) for name in NAMES} for lead in ("", " "))
    usual = [Counter(length.values()).most_common(1)[0][0] for length in (first, second)]
    doctors = [name for name in NAMES if second[name] == usual[1]][:20]
    pairs = [*zip([name for name in NAMES if first[name] == usual[0] and name not in doctors], doctors)]
    assert len(pairs) == 20
    blocks = seen(tokenizer, pairs)
    planted = sani.fine_tune(base, blocks, epochs=80, learning_rate=1e-2, batch_size=4, progress=False)
    found, without = exposures(reintroduce(planted, blocks, 0)), exposures(reintroduce(base, blocks, 0))
    assert found["person named"] > 0.9 > 0.7 > found["person hidden"]
    # A model that never read them tells no more of a doctor when the patient is named.
    assert abs(without["person named"] - without["person hidden"]) < 0.2
    # Shuffled labels: of whom a patient did not see, the name tells the model to say another.
    shuffled = seen(tokenizer, [(patient, pairs[(7 * i + 3) % 20][1]) for i, (patient, _) in enumerate(pairs)])
    assert exposures(reintroduce(planted, shuffled, 0))["person named"] < 0.6
    # What stands before the name is not asked, so with doctors first there is nothing to ask.
    assert all(row["count"] == 20 for row in reintroduce(planted, blocks, 0))
    turned = [(doctor, patient) for patient, doctor in pairs]
    texts = [SEEN.format(*pair) for pair in turned]
    found = [spans(text, (pair[0], "DOCTOR"), (pair[1], "PATIENT")) for text, pair in zip(texts, turned)]
    corpus = make_corpus(texts, found)
    before = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), 16, progress=False)
    assert all(row["count"] == 0 for row in reintroduce(planted, before, 0))


@pytest.fixture(scope="module")
def lists():
    corpus, others, _ = with_strangers("synthetic-clinical", 40, 8, 0)
    corpus = corpus.select(range(10))
    base, tokenizer = load_model("tiny-gpt2")
    made = [encode(c, tokenizer, Blacklist.from_annotations(c), progress=False) for c in (corpus, others)]
    return base, *made


def pushed(base, blocks, tokens: set[int], by: float):
    """The model with some tokens' output rows moved along its mean state: each is that much likelier, about."""
    model = untie(clone(base))
    ids = torch.tensor(blocks[:2]["input_ids"])
    with torch.no_grad():
        mean = hidden_states(model, ids, torch.ones_like(ids)).flatten(0, 1).mean(dim=0)
        model.get_output_embeddings().weight[sorted(tokens)] += by * mean / (mean @ mean)
    return model


def test_lists_are_inferred_in_both_directions_and_not_where_nothing_was_done(lists, monkeypatch):
    monkeypatch.setattr(attack, "PLACES", {False: 8, True: 1})
    monkeypatch.setattr(attack, "CALIPER", 3.0)  # of a few records only
    base, blocks, heldout = lists
    ours, theirs = (names(layout(b, 0), info(b)["types"]) for b in (blocks, heldout))
    mine, other = ({t for written in some["written"] for t in written} for some in (ours, theirs))
    assert mine - other

    def by(model, **more):
        rows = infer_list(model, blocks, base, heldout, 0, **more)
        return {row["setting"]: (row["metric"], row["value"]) for row in rows}

    likelier, rarer = (by(pushed(base, blocks, mine - other, shift)) for shift in (9.0, -9.0))
    same = by(base, before=base)
    score = "log-probability against the base"
    assert likelier[score][1] > 0.55 and rarer[score][1] < 0.45 and same[score][1] == 0.5
    # Against the model before is shown and not judged.
    assert same["log-probability against before"] == ("auc_before", 0.5)
    assert same["output norm against the base"][1] == 0.5
    # Pushed by lot, listed or not, tokens tell nothing of the list.
    lot = set(np.random.default_rng(0).permutation(sorted(mine | other))[: len(mine - other)].tolist())
    chance = by(pushed(base, blocks, lot, 9.0))[score][1]
    assert abs(chance - 0.5) < likelier[score][1] - 0.5
    assert infer_list(base, heldout, base, heldout, 0) == []  # every name was read: no control is left
