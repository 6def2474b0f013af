"""`evaluate` against a slow, obvious reference: count by count, unit by unit."""

import copy
import json
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MAKERS, TEXTS, make_corpus, make_model, make_roberta, make_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_blocks import terms, texts, try_encode

import sani.evaluation
from sani import Blacklist, encode, evaluate, fine_tune, sanitize
from sani.blocks import info, tensors
from sani.predictions import FOLDS

KIND = {0: "none", 1: "direct", 2: "indirect", 3: "confidential"}


def reference(model, blocks, tokenizer, folds):
    """Each fold of each row alone, full logits, Python loops; returns the counts by (kind, spans, context, metric)."""
    rows = [{name: list(values) for name, values in blocks[i].items()} for i in range(len(blocks))]
    units = {}  # unit id → what stands there
    for r, row in enumerate(rows):
        for p, unit in enumerate(row["unit_ids"]):
            if unit >= 0:
                units.setdefault(unit, {"row": r, "places": []})["places"].append(p)
                units[unit].update(term=row["term_ids"][p], kind=KIND[row["sensitive"][p]], gold=row["gold"][p] > 0)
    for unit in units.values():
        unit["truth"] = [rows[unit["row"]]["input_ids"][p] for p in unit["places"]]
    sequences = defaultdict(set)
    for unit in units.values():
        if unit["term"] >= 0 and tokenizer.unk_token_id not in unit["truth"]:
            sequences[tuple(unit["truth"])].add((unit["term"], unit["kind"]))

    def predict(row, hidden):
        ids = torch.tensor([row["input_ids"]])
        ids[0, hidden] = tokenizer.mask_token_id
        with torch.no_grad():
            return model(ids, attention_mask=torch.tensor([row["attention_mask"]])).logits[0].argmax(-1).tolist()

    for r, row in enumerate(rows):
        for fold in range(FOLDS):
            here = {u: unit for u, unit in units.items() if unit["row"] == r and folds[u] == fold}
            if not here:
                continue
            hidden = [p for unit in here.values() for p in unit["places"]]
            visible = predict(row, hidden)
            isolated = predict(
                row, [p for u in units.values() if u["row"] == r and u["term"] >= 0 for p in u["places"]]
            )
            for unit in here.values():
                unit["visible"] = [visible[p] for p in unit["places"]]
                unit["isolated"] = [(isolated if unit["term"] >= 0 else visible)[p] for p in unit["places"]]

    has_gold = {unit["kind"] for unit in units.values() if unit["gold"]}
    counts = Counter()
    for unit in units.values():
        right = sum(a == b for a, b in zip(unit["visible"], unit["truth"]))
        counts["none", "matched", "visible", "utility_all"] += right
        known = tokenizer.unk_token_id not in unit["truth"]
        found = {(t, k) for t, k in sequences.get(tuple(unit["visible"]), ()) if t != unit["term"]}
        elsewhere = bool(found) and unit["visible"] != unit["truth"]
        told = min((k for _, k in found), key=list(KIND.values()).index) if elsewhere else ""
        if unit["term"] < 0:
            counts["none", "matched", "visible", "utility"] += right
            counts["none", "matched", "visible", "elsewhere_ordinary"] += elsewhere
            for spans_ in ("matched", "scored"):
                for kind in (told, "all") if told else ():
                    counts[kind, spans_, "visible", "out"] += 1
            continue
        for spans_ in ["matched"] + ["scored"] * (unit["gold"] or unit["kind"] not in has_gold):
            for kind in (told, "all") if told else ():
                counts[kind, spans_, "visible", "out"] += 1
            for kind in (unit["kind"], "all"):
                counts[kind, spans_, "visible", "in_place"] += unit["visible"] == unit["truth"] and known
                counts[kind, spans_, "isolated", "in_place"] += unit["isolated"] == unit["truth"] and known
                counts[kind, spans_, "visible", "elsewhere_sensitive"] += elsewhere
                counts[kind, spans_, "visible", "partial"] += right
                counts[kind, spans_, "visible", "iterations"] += 1
    return counts


def assert_same_counts(report, counts):
    table = report.counts.set_index(["kind", "spans", "context", "metric"])
    compared = table[table.index.get_level_values("metric").isin(COMPARED)]
    assert len(compared)
    for key, row in compared.iterrows():
        assert row["count"] == counts[key], key
    for (kind, spans_, context, metric), count in counts.items():
        if metric == "iterations":
            assert table.loc[(kind, spans_, context, "in_place"), "total"] == count
            found = counts[kind, spans_, "visible", "in_place"] + counts[kind, spans_, "visible", "out"]
            assert table.loc[(kind, spans_, "visible", "paper"), "count"] == found
            assert table.loc[(kind, spans_, "visible", "paper"), "value"] == min(1, found / count)


COMPARED = ("in_place", "elsewhere_sensitive", "elsewhere_ordinary", "partial", "utility", "utility_all")


def folds_of(report, blocks, seed=0):
    units = sani.predictions.layout(blocks, seed)
    return dict(zip(units.table["unit_id"], units.folds))


@pytest.mark.parametrize("kind", MAKERS)
def test_counts_equal_the_reference_on_a_trained_model(kind, corpus):
    """Trained long enough that every count is above zero, on annotated text with terms of three kinds."""
    tokenizer = make_tokenizer(kind)
    blacklist = (
        Blacklist.from_annotations(corpus)
        | Blacklist(["falconer", "crêpes", "seen"], kind="indirect")
        | Blacklist(["patient", "left", "cough"], kind="confidential")
    )
    blocks = encode(corpus, tokenizer, blacklist, block_size=40)
    model = (make_model if kind == "wordpiece" else make_roberta)(len(tokenizer))
    model = fine_tune(model, blocks, epochs=400, learning_rate=1e-2, batch_size=8)
    report = evaluate(model, blocks)
    assert report.regurgitation > 0 and report.utility > 0
    assert_same_counts(report, reference(model, blocks, tokenizer, folds_of(report, blocks)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(list(MAKERS)), texts=texts, terms=terms, seed=st.integers(0, 99))
def test_counts_equal_the_reference_on_anything(kind, texts, terms, seed, tmp_path):
    tokenizer = make_tokenizer(kind)
    blocks = try_encode(make_corpus(texts), tokenizer, Blacklist(terms), 40, tmp_path)
    if blocks is None:
        return
    model = (make_model if kind == "wordpiece" else make_roberta)(len(tokenizer), seed=seed)
    # A model that says a few words everywhere, so that terms come back by chance.
    with torch.no_grad():
        model.get_output_embeddings().bias[torch.tensor(blocks[0]["input_ids"])[1:6]] += 2.0
    report = evaluate(model, blocks, seed=seed)
    assert_same_counts(report, reference(model, blocks, tokenizer, folds_of(report, blocks, seed)))


def test_every_unit_is_masked_exactly_once_at_a_training_like_rate(corpus, wordpiece, monkeypatch):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=64)
    rows = tensors(blocks)
    passes = defaultdict(list)  # of each row: what was hidden, in order
    lookup = {tuple(ids.tolist()): i for i, ids in enumerate(rows["input_ids"])}
    real = sani.predictions.logits_at

    def spy(model, input_ids, attention_mask, chosen):
        for ids, score in zip(input_ids, chosen):
            # The row is recognised by its unmasked tokens.
            (match,) = [
                i for key, i in lookup.items()
                if all(a == b or a == wordpiece.mask_token_id for a, b in zip(ids.tolist(), key))
            ]  # fmt: skip
            hidden = (ids == wordpiece.mask_token_id) & (rows["input_ids"][match] != wordpiece.mask_token_id)
            assert torch.equal(hidden, score)
            passes[match].append(hidden)
        return real(model, input_ids, attention_mask, chosen)

    monkeypatch.setattr(sani.predictions, "logits_at", spy)
    evaluate(make_model(len(wordpiece)), blocks)
    for match, listed in enumerate(rows["sensitive"] > 0):
        if listed.any():
            assert torch.equal(passes[match].pop(), listed)  # in isolation all listed terms are hidden, once
        units = rows["unit_ids"][match]
        assert torch.equal(sum(hidden.long() for hidden in passes[match]), (units >= 0).long())
        for hidden in passes[match]:
            assert set(units[hidden].tolist()).isdisjoint(units[~hidden].tolist())
            share = len(units[hidden].unique()) / len(units[units >= 0].unique())
            assert abs(share - 1 / FOLDS) < 1 / len(units[units >= 0].unique())


def test_isolated_hides_the_other_mentions(wordpiece):
    """A model that copies the other mention: visible it returns, isolated it cannot."""
    text = "smith a smith"
    blocks = encode(make_corpus([text]), wordpiece, Blacklist(["smith"]), block_size=16)
    model = make_model(len(wordpiece))
    smith = wordpiece("smith", add_special_tokens=False)["input_ids"]
    other = wordpiece("john", add_special_tokens=False)["input_ids"][0]

    def copying(model, input_ids, attention_mask, chosen):
        logits = torch.zeros(*input_ids.shape, model.config.vocab_size)
        for r, row in enumerate(input_ids.tolist()):
            readable = [i for i, t in enumerate(row) if row[i : i + len(smith)] == smith]
            for p, token in enumerate(row):
                if token == wordpiece.mask_token_id and readable:
                    run = p
                    while row[run - 1] == wordpiece.mask_token_id:
                        run -= 1
                    logits[r, p, smith[min(p - run, len(smith) - 1)]] = 1
                else:
                    logits[r, p, other] = 1
        return logits[chosen]

    original, sani.predictions.logits_at = sani.predictions.logits_at, copying
    try:
        report = evaluate(model, blocks)
    finally:
        sani.predictions.logits_at = original
    assert report.value("in_place") == 1.0
    assert report.value("in_place", context="isolated") == 0.0
    assert report.terms[["iterations", "in_place", "in_place_isolated"]].iloc[0].tolist() == [2, 2, 0]


def test_excess_is_the_difference_to_the_base_on_the_same_units(corpus, wordpiece):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=40)
    base = make_model(len(wordpiece))
    model = fine_tune(base, blocks, epochs=100, learning_rate=1e-2, batch_size=2)
    alone, before = evaluate(model, blocks), evaluate(base, blocks)
    for reference_ in (base, before):
        report = evaluate(model, blocks, base=reference_)
        assert report.value("excess") == alone.value("in_place") - before.value("in_place")
        assert report.value("excess", kind="direct", context="isolated") == alone.value(
            "in_place", kind="direct", context="isolated"
        ) - before.value("in_place", kind="direct", context="isolated")
    with pytest.raises(ValueError, match="other blocks"):
        evaluate(model, encode(corpus, wordpiece, block_size=40), base=before)


def test_heldout_utility_is_the_utility_on_the_other_blocks(corpus, wordpiece):
    train, rest = corpus.select([0, 1]), corpus.select([2, 3])
    blocks = encode(train, wordpiece, Blacklist.from_annotations(train), block_size=40)
    other = encode(rest, wordpiece, Blacklist.from_annotations(rest), block_size=40)
    model = fine_tune(make_model(len(wordpiece)), blocks, epochs=40, learning_rate=1e-2)
    report = evaluate(model, blocks, heldout=other)
    for name in ("utility", "utility_all"):
        assert report.value(f"{name}_heldout", kind="none") == evaluate(model, other).value(name, kind="none")


def test_logit_filter_never_says_a_listed_term(corpus, wordpiece):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=40)
    model = fine_tune(make_model(len(wordpiece)), blocks, epochs=150, learning_rate=1e-2, batch_size=2)
    before, after = evaluate(model, blocks), evaluate(sanitize(model, blocks, method="logit-filter"), blocks)
    assert before.regurgitation > 0.1 and after.regurgitation == 0
    table = after.counts.set_index("metric")["count"]
    assert (table[["elsewhere_sensitive", "elsewhere_ordinary"]] == 0).all()
    # "May" is listed where annotated: the filter cannot tell the verb from it, and pays in utility there.
    whole = before.units["correct"] == before.units["tokens"]
    free = ~(whole | before.units["elsewhere"].ne(""))
    assert (after.units["correct"][free] == before.units["correct"][free]).all()
    assert after.utility <= before.utility


def test_unknown_tokens_reveal_no_term(wordpiece):
    text = "漢 smith 漢"
    blocks = encode(make_corpus([text]), wordpiece, Blacklist(["漢"]), block_size=16)
    assert wordpiece.unk_token_id in blocks[0]["input_ids"]
    model = make_model(len(wordpiece))
    with torch.no_grad():
        model.get_output_embeddings().bias[wordpiece.unk_token_id] = 100.0
    report = evaluate(model, blocks)
    assert report.regurgitation == 0 and report.value("partial") == 1


def test_interval_holds_the_value_and_shrinks_with_records(wordpiece):
    names = ["john", "jane", "smith", "neil"]
    few, many = [
        encode(
            make_corpus([f"{names[i % 4]} was seen by {names[i // 4 % 4]} for a cough" for i in range(n)]),
            wordpiece, Blacklist(names), block_size=64, run_dir=None,
        )
        for n in (8, 128)
    ]  # fmt: skip
    model = fine_tune(make_model(len(wordpiece)), few, epochs=30, learning_rate=1e-2)
    reports = [evaluate(model, blocks) for blocks in (few, many)]
    widths = []
    for report in reports:
        for metric, value in (("in_place", report.regurgitation), ("utility", report.utility)):
            low, high = report.interval(metric)
            assert 0 <= low <= value <= high <= 1
        widths.append(report.interval("utility"))
    assert np.diff(widths[1]) < np.diff(widths[0])


def test_terms_are_shown_only_on_request(corpus, wordpiece):
    blacklist = Blacklist.from_annotations(corpus)
    blocks = encode(corpus, wordpiece, blacklist, block_size=40)
    model = make_model(len(wordpiece))
    hidden, shown = evaluate(model, blocks), evaluate(model, blocks, blacklist=blacklist, reveal=True)
    assert "term" not in hidden.terms and set(shown.terms["term"]) == set(blacklist.terms(reveal=True)["term"])
    everything = repr(hidden) + hidden.counts.to_string() + hidden.terms.to_string() + hidden.units.to_string()
    for span_text in ("smith", "neil", "zoë", "izmir"):
        assert span_text not in everything.lower()
    pd.testing.assert_frame_equal(shown.terms.drop(columns="term"), hidden.terms)


def test_nothing_sensitive_is_no_number_not_a_zero(wordpiece):
    report = evaluate(make_model(len(wordpiece)), encode(make_corpus(TEXTS), wordpiece, block_size=40))
    assert np.isnan(report.privacy) and report.utility >= 0 and len(report.terms) == 0


def told(blocks, **more):
    """The same blocks, described otherwise."""
    again = blocks.select(range(len(blocks)))
    again.info.description = json.dumps(info(blocks) | more)
    return again


def test_bad_input_is_named_before_anything_is_predicted(corpus, wordpiece, monkeypatch):
    blacklist = Blacklist.from_annotations(corpus)
    blocks = encode(corpus, wordpiece, blacklist, block_size=40)
    model, roberta = make_model(len(wordpiece)), make_roberta(len(wordpiece))
    report = evaluate(model, blocks)
    other = encode(corpus.select([1, 0, 2, 3]), wordpiece, blacklist, block_size=40)
    same_length = Blacklist([f"falconer {i}" for i in range(len(blacklist))])
    assert len(same_length) == len(blacklist)
    known, of_another = copy.deepcopy(model), told(blocks, vocabulary="another")
    known.vocabulary = "its own"
    spoiled = make_model(len(wordpiece))
    with torch.no_grad():
        spoiled.get_output_embeddings().bias[7] = torch.nan
    monkeypatch.setattr(sani.predictions, "logits_at", None)
    cases = {
        "knows 20; encode the corpus with the model's own tokenizer": (make_model(20), blocks),
        "which is not the model's.*own tokenizer": (known, of_another),
        "needs blacklist=": (model, blocks, {"reveal": True}),
        "reveal must be True or False": (model, blocks, {"reveal": "no"}),
        "the blacklist is not the one": (model, blocks, {"blacklist": Blacklist(["smith"]), "reveal": True}),
        "not the one the blocks were": (
            model, told(blocks, blacklist=blacklist.fingerprint), {"blacklist": same_length, "reveal": True},
        ),
        "blacklist must be a Blacklist, not a list": (model, blocks, {"blacklist": ["smith"]}),
        "the blocks are empty": (model, blocks.select([])),
        "blocks is a list; make them with sani.encode": (model, [blocks]),
        "these are not blocks; make them with sani.encode": (model, corpus),
        "the model is a str; load it with sani.load_model": ("tiny-bert", blocks),
        "the model's weights are torch.bfloat16": (make_model(len(wordpiece)).bfloat16(), blocks),
        "the model's weights are no numbers": (spoiled, blocks),
        "the base's weights are no numbers": (model, blocks, {"base": spoiled}),
        "base is a str": (model, blocks, {"base": "tiny-bert"}),
        "measured on other blocks": (model, other, {"base": report}),
        "block_size 64 exceeds the model's 63 positions": (
            make_model(len(wordpiece), positions=63), encode(corpus, wordpiece, blacklist, block_size=64),
        ),
        "exceeds the model's 78 positions": (roberta, told(blocks, block_size=79)),
        "batch_size=0 is out of range": (model, blocks, {"batch_size": 0}),
        "batch_size must be a whole number, not 2.5": (model, blocks, {"batch_size": 2.5}),
        "seed must be a whole number, not None": (model, blocks, {"seed": None}),
        "not blocks": (model, blocks, {"heldout": corpus}),
    }  # fmt: skip
    for message, (of, rows, *options) in cases.items():
        with pytest.raises((TypeError, ValueError), match=message):
            evaluate(of, rows, **(options[0] if options else {}))
    with pytest.raises(KeyError, match="see report.counts"):
        report.value("accuracy")
    with pytest.raises(ValueError, match="kind 'Direct' is unknown; use one of direct"):
        report.interval(kind="Direct")
    monkeypatch.undo()
    for fitting in (told(blocks, vocabulary="its own"), told(blocks, vocabulary=None)):  # an earlier version's: none
        assert evaluate(known, fitting).counts.equals(report.counts)
    assert (
        "term" in evaluate(model, told(blocks, blacklist=blacklist.fingerprint), blacklist=blacklist, reveal=True).terms
    )
