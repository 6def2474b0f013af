"""Exposure against a slow, obvious reference: which terms are compared, and how likely a model finds each."""

import itertools
import math
from collections import Counter, defaultdict
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_corpus, make_model, make_roberta, make_tokenizer, spans
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_causal import byte_level, new_model

import sani
import sani.exposure
from sani import Blacklist, encode, evaluate, sanitize
from sani.blocks import info, tensors
from sani.exposure import ALTERNATIVES, FEWEST, RARE, alternatives
from sani.predictions import layout

NAMES = ["".join(letters).capitalize() for letters in itertools.product("bdklmt", "aeiou", "bdklmt")]


def people(seed: int, records: int = 90, persons: int = 40):
    """A corpus of short records: each person's patient name in all of theirs, doctors shared, a shout now and then."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(NAMES)
    texts, found, who = [], [], []
    for _ in range(records):
        person = int(rng.integers(persons))
        patient, doctor = str(names[person]), str(names[persons + int(rng.integers(persons))])
        text = f"The patient {patient} was seen by Dr. {doctor} for chest pain."
        if rng.random() < 0.3:
            text += f" {patient.upper()} may return."
        texts.append(text)
        found.append(spans(text, (patient, "PATIENT"), (doctor, "DOCTOR")))
        who.append(f"p{person}")
    return make_corpus(texts, found, who)


def eligible(corpus, blacklist, tokenizer, blocks):
    """For each unit of a listed term, by unit id: its alternatives, each with the writing that stands for it."""
    columns, types = tensors(blocks), blacklist.terms()["type"].tolist()
    persons = list(dict.fromkeys(corpus["person_id"]))
    units = defaultdict(list)
    for row in range(len(blocks)):
        for place, unit in enumerate(columns["unit_ids"][row].tolist()):
            if unit >= 0 and columns["term_ids"][row, place] >= 0:
                units[unit].append((row, place))
    at = {}
    for unit, places in units.items():
        row, place = places[0]
        ids = tuple(int(columns["input_ids"][spot]) for spot in places)
        person = persons.index(corpus["person_id"][int(columns["record_ids"][row, place])])
        at[unit] = (int(columns["term_ids"][row, place]), ids, int(columns["styles"][row, place]), person)
    times = Counter(term for term, *_ in at.values())
    written, whose = defaultdict(Counter), defaultdict(set)
    for term, ids, style, person in at.values():
        written[term, len(ids), style][ids] += 1
        whose[term].add(person)
    found = {}
    for unit, (term, ids, style, person) in at.items():
        found[unit] = {
            other: written[other, len(ids), style]
            for other in times
            if other != term and types[other] == types[term] and (other, len(ids), style) in written
            and person not in whose[other] and times[term] / 2 <= times[other] <= 2 * times[term]
        }  # fmt: skip
    return at, times, found


def compared(blocks, seed=0):
    """What `alternatives` chose, by unit id: the unit's own writing, and those of its alternatives."""
    units = layout(blocks, seed)
    unknown = units.columns["input_ids"] == info(blocks)["unk_token_id"]
    unknown = set(units.columns["unit_ids"][unknown].tolist())
    chosen = alternatives(units, seed, ~units.table["unit_id"].isin(unknown).to_numpy())
    written = [tuple(int(i) for i in row if i >= 0) for row in chosen.written]
    found = {}
    for unit, ids in zip(chosen.unit, chosen.ids):
        own, *others = [written[i] for i in ids if i >= 0]
        found[int(units.table.loc[unit, "unit_id"])] = (own, others)
    return found


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), kind=st.sampled_from(["wordpiece", "byte-level-bpe", "sentencepiece"]))
@pytest.mark.parametrize("most", [ALTERNATIVES, 9])
def test_alternatives_are_alike_apart_and_the_nearest(seed, kind, most, tmp_path_factory):
    corpus, tokenizer = people(seed), make_tokenizer(kind)
    blacklist = Blacklist.from_annotations(corpus, ambiguous="everywhere")
    blocks = encode(corpus, tokenizer, blacklist, 48, run_dir=tmp_path_factory.mktemp("x") / "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sani.exposure, "ALTERNATIVES", most)
        chosen = compared(blocks, seed)
    at, times, possible = eligible(corpus, blacklist, tokenizer, blocks)
    unknown = tokenizer.unk_token_id
    possible = {
        unit: {t: kept for t, w in those.items() if (kept := {ids: n for ids, n in w.items() if unknown not in ids})}
        for unit, those in possible.items()
    }
    scored = {u for u, p in possible.items() if len(p) >= FEWEST and unknown not in at[u][1]}
    assert set(chosen) == scored
    for unit, (own, others) in chosen.items():
        term, ids, *_ = at[unit]
        assert own == ids and len(others) == min(most, len(possible[unit]))
        terms = set()
        for other in others:
            fits = [t for t, w in possible[unit].items() if w.get(other) == max(w.values()) and t not in terms]
            assert fits, "no term that may stand here is usually written so"
            terms.add(fits[0])

        def away(t, here=times[term]):
            return abs(math.log(times[t] / here))

        left = set(possible[unit]) - terms
        assert not left or max(map(away, terms)) <= min(map(away, left)) + 1e-12


def test_the_draw_is_the_same_for_every_model_and_differs_by_term():
    corpus = people(0)
    blocks = encode(corpus, make_tokenizer("wordpiece"), Blacklist.from_annotations(corpus), 48)
    assert compared(blocks) == compared(blocks) != compared(blocks, seed=1)


def exposure(likelihood, own, others):
    """The share of alternatives of a lower log-probability, ties by half."""
    true, found = likelihood(own), [likelihood(other) for other in others]
    return np.mean([(other < true) + (other == true) / 2 for other in found])


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level-bpe"])
def test_masked_models_equal_the_reference(kind):
    corpus, tokenizer = people(3), make_tokenizer(kind)
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus, ambiguous="everywhere"), 48)
    model = (make_model if kind == "wordpiece" else make_roberta)(len(tokenizer))
    report, laid, columns = evaluate(model, blocks), layout(blocks, 0), tensors(blocks)
    folds = dict(zip(laid.table["unit_id"], laid.folds))
    fold_of = torch.tensor([[folds.get(u, -1) for u in row] for row in columns["unit_ids"].tolist()])
    all_of_them = compared(blocks)
    some = dict(itertools.islice(all_of_them.items(), 0, None, 5))
    for context, column in (("visible", "exposure"), ("isolated", "exposure_isolated")):
        expected = {}
        for unit, (own, others) in some.items():
            row, places = (columns["unit_ids"] == unit).nonzero().T
            hidden = fold_of[row[0]] == folds[unit] if context == "visible" else columns["sensitive"][row[0]] > 0
            shown = columns["input_ids"][row[:1]].masked_fill(hidden, tokenizer.mask_token_id)
            with torch.no_grad():
                logits = model(shown, attention_mask=columns["attention_mask"][row[:1]]).logits[0].double()
            at = logits.log_softmax(-1)[places]
            expected[unit] = exposure(lambda ids, at=at: sum(at[k, i] for k, i in enumerate(ids)).item(), own, others)
        found = report.units.set_index("unit_id")[column].dropna()
        assert len(found) > 50 and set(found.index) == set(all_of_them)
        # A tie may break by rounding, which moves a unit by half an alternative.
        off = np.abs(found[list(some)] - np.array(list(expected.values())))
        assert (off < 1e-9).mean() > 0.95 and off.max() <= 1 / FEWEST
    counts = report.counts.query("metric == 'exposure' and spans == 'matched' and context == 'visible'").set_index(
        "kind"
    )
    of_type = report.units.groupby("type")["exposure"]
    for type_ in ("PATIENT", "DOCTOR"):
        assert counts.loc[type_, "value"] == pytest.approx(of_type.mean()[type_])
        assert counts.loc[type_, ["count", "total"]].tolist() == [of_type.count()[type_], of_type.size()[type_]]
    assert counts.loc["names", "value"] == pytest.approx(report.units["exposure"].mean())
    rare = report.units[report.units["iterations"] <= RARE]["exposure"]
    assert report.value("exposure_rare", "names", "matched") == pytest.approx(rare.mean(), nan_ok=True)
    low, high = report.interval("exposure", "names")
    assert low < report.value("exposure", "names") < high


@pytest.mark.parametrize(("family", "masks"), [("gpt2", True), ("llama", True), ("gpt2", False)])
def test_causal_models_equal_the_reference(family, masks, tmp_path):
    """All alternatives of a unit in one row, or each in its own where a model cannot be told what to read."""
    corpus, tokenizer = people(5), byte_level(pad="<pad>")
    new_model(family, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = sani.load_model(tmp_path)
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus, ambiguous="everywhere"), 48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sani.exposure, "SAMPLE", 12)
        patch.setattr(sani.exposure, "PLACES", 5)
        patch.setattr(sani.exposure, "takes_masks", lambda *_: masks)
        report = evaluate(model, blocks)
    columns, all_of_them = tensors(blocks), compared(blocks)
    for context, column in (("visible", "exposure"), ("isolated", "exposure_isolated")):
        found = report.units.set_index("unit_id")[column].dropna()
        assert len(found) == 12

        def find(unit, ids, context=context):
            row, places = (columns["unit_ids"] == unit).nonzero().T
            before = columns["input_ids"][row[0], : places[0]]
            if context == "isolated":
                same = columns["term_ids"][row[0], : places[0]] == columns["term_ids"][row[0], places[0]]
                before = before.masked_fill(same, tokenizer.pad_token_id)
            whole = torch.cat((before, torch.tensor(ids)))[None]
            with torch.no_grad():
                logits = model(whole, attention_mask=(whole != tokenizer.pad_token_id).long()).logits[0].double()
            return sum(logits.log_softmax(-1)[places[0] - 1 + k, i] for k, i in enumerate(ids)).item()

        expected = [exposure(partial(find, unit), *all_of_them[unit]) for unit in found.index]
        off = np.abs(found - np.array(expected))
        assert (off < 1e-9).mean() > 0.9 and off.max() <= 1 / FEWEST


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("masks", [True, False])
def test_texts_in_one_row_are_as_likely_as_alone(size, masks, monkeypatch):
    monkeypatch.setattr(sani.exposure, "takes_masks", lambda *_: masks)
    random, model, pad = torch.Generator().manual_seed(0), new_model("gpt2", 40), 39
    before = [torch.randint(0, 39, (length,), generator=random) for length in (1, 9, 4)]
    before[1][[2, 5]] = pad
    written = torch.randint(0, 39, (3, 6, size), generator=random)
    with torch.no_grad():
        found = sani.exposure.continued(model, before, written, pad)
        for place, texts, values in zip(before, written, found):
            for text, value in zip(texts, values):
                whole = torch.cat((place, text))[None]
                logits = model(whole, attention_mask=(whole != pad).long()).logits[0, len(place) - 1 : -1]
                expected = logits.log_softmax(dim=-1).gather(1, text[:, None]).sum()
                torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_knows_nothing_scores_a_half_and_one_that_avoids_scores_none(monkeypatch):
    corpus, tokenizer = people(7), make_tokenizer("wordpiece")
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), 48)
    model = make_model(len(tokenizer))
    with torch.no_grad():
        for weight in model.cls.parameters():
            weight.zero_()
    report = evaluate(model, blocks)
    assert set(report.units["exposure"].dropna()) == set(report.units["exposure_isolated"].dropna()) == {0.5}
    listed = tensors(blocks)
    truth = listed["input_ids"]

    def knows(sign):
        def logits(model, input_ids, attention_mask, chosen):
            rows = [next(r for r in range(len(truth)) if ((truth[r] == ids) | (ids == tokenizer.mask_token_id)).all())
                    for ids in input_ids]  # fmt: skip
            right = torch.nn.functional.one_hot(truth[rows], model.config.vocab_size).float()
            return sign * right[chosen]

        return logits

    for sign, value in ((1, 1.0), (-1, 0.0)):
        monkeypatch.setattr(sani.predictions, "logits_at", knows(sign))
        found = evaluate(model, blocks).units["exposure"].dropna()
        # Two terms may be written alike, or share tokens; those apart are ranked as the model knows them.
        assert len(found) and (found.round(9) == value).mean() > 0.9


def test_a_filter_hides_the_answer_not_the_rank():
    corpus, tokenizer = people(9), make_tokenizer("wordpiece")
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), 48)
    model = make_model(len(tokenizer))
    one, other = evaluate(model, blocks), evaluate(sanitize(model, blocks, "logit-filter"), blocks)
    assert one.units["exposure"].equals(other.units["exposure"])


def test_nothing_listed_or_nothing_alike_is_no_number():
    corpus, tokenizer = people(11), make_tokenizer("wordpiece")
    for blacklist in (Blacklist(), Blacklist(["pain"])):
        report = evaluate(make_model(len(tokenizer)), encode(corpus, tokenizer, blacklist, 48, allow_no_match=True))
        assert report.units["exposure"].isna().all()
        found = report.counts[report.counts["metric"] == "exposure"]
        assert (found["count"] == 0).all() and found["value"].isna().all()
        assert np.isnan(report.interval("exposure")).all()


def test_types_travel_with_blacklist_and_blocks(tmp_path):
    corpus = people(13)
    blacklist = Blacklist.from_annotations(corpus) | Blacklist(["pain"], kind="indirect")
    blacklist.save(tmp_path / "list.csv")
    again = Blacklist.load(tmp_path / "list.csv")
    assert again == blacklist and again.terms().equals(blacklist.terms())
    blocks = encode(corpus, make_tokenizer("wordpiece"), again, 48)
    assert set(info(blocks)["types"]) == {"", "PATIENT", "DOCTOR"}
    units = evaluate(make_model(len(make_tokenizer("wordpiece"))), blocks).units
    types = blacklist.terms().set_index("term_id")["type"]
    listed = units[units["term_id"] >= 0]
    assert (listed["type"] == types.loc[listed["term_id"]].to_numpy()).all()
    named = blacklist.terms(reveal=True).query("type == 'PATIENT'")["term"].iloc[0]
    other = Blacklist([named]) | Blacklist.from_annotations(corpus)
    assert other.terms(reveal=True).set_index("term").loc[named, "type"] == "PATIENT"


def test_alternatives_are_remembered_of_the_same_units_only(monkeypatch):
    corpus, tokenizer = people(1), make_tokenizer("byte-level-bpe")
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), block_size=48)
    found = alternatives(layout(blocks, 0), 0, (listed := layout(blocks, 0).table["term_id"] >= 0).to_numpy())
    monkeypatch.setattr(sani.exposure, "KEPT", {})
    asked = sani.exposure.alternatives_of
    for _ in range(2):
        again = asked(layout(blocks, 0), 0, listed.to_numpy())
        assert all(np.array_equal(one, other) for one, other in zip(found, again))
    assert len(sani.exposure.KEPT) == 1
    fewer = listed & (np.arange(len(listed)) % 2 == 0)
    for other in (asked(layout(blocks, 0), 1, listed.to_numpy()), asked(layout(blocks, 0), 0, fewer.to_numpy())):
        assert not np.array_equal(other.ids, found.ids)
    others = blocks.select(range(len(blocks) // 2))
    assert len(asked(layout(others, 0), 0, (layout(others, 0).table["term_id"] >= 0).to_numpy()).unit) < len(found.unit)
    for seed in range(20):
        asked(layout(blocks, 0), seed, listed.to_numpy())
    assert len(sani.exposure.KEPT) == sani.exposure.MOST_KEPT
