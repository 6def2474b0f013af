"""Attacks: a memory planted by training is caught, a model without it is at chance, in both directions."""

import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_corpus, spans
from sklearn.metrics import roc_auc_score
from test_exposure import NAMES

import sani
from sani import Blacklist, encode, evaluate, load_model
from sani.attacks import relearn as relearning
from sani.attacks.as_it_is import as_it_is
from sani.attacks.graft import graft, grafted
from sani.attacks.infer_list import CALIPER, infer_list, matched, names
from sani.attacks.membership import at_false_positives, membership, token_scores
from sani.attacks.probe import probe
from sani.attacks.quantize import GROUP, rounded
from sani.attacks.reintroduce import reintroduce
from sani.attacks.relearn import parts, relearn, retie_relearn
from sani.attacks.retie import retie
from sani.attacks.rows import COLUMNS, auc, only, words_of
from sani.blocks import info, tensors
from sani.data.corpora import with_strangers
from sani.evaluation import remembered
from sani.models import clone
from sani.predictions import layout
from sani.training import default_learning_rate


@pytest.fixture(scope="module")
def made():
    """Some of the records that tiny-bert-leaky was trained on, others', and the models."""
    corpus, others, _ = with_strangers("synthetic-clinical", 200, 12, 0)  # that many were trained on
    corpus = corpus.select(range(30))
    base, tokenizer = load_model("tiny-bert")
    blacklist = Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)
    return {
        "corpus": corpus,
        "blocks": encode(corpus, tokenizer, blacklist, progress=False),
        "heldout": encode(others, tokenizer, Blacklist.from_annotations(others), progress=False),
        "base": base,
        "leaky": load_model("tiny-bert-leaky")[0],
        "counterfactual": load_model("tiny-bert-counterfactual")[0],
        "tokenizer": tokenizer,
    }


def value(rows, metric, setting="", kind="names", context=None):
    (found,) = [
        row["value"]
        for row in rows
        if (row["metric"], row["setting"], row["kind"]) == (metric, setting, kind) and context in (None, row["context"])
    ]
    return found


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_memory_alone_is_what_a_whole_evaluation_finds(family):
    model, tokenizer = load_model(f"tiny-{family}-leaky")
    corpus = sani.load_corpus("synthetic-clinical", records=6, seed=0)
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), progress=False)
    whole, part = evaluate(model, blocks, progress=False), remembered(model, blocks)
    for column in ("in_place_isolated", "exposure_isolated", "scored", "type"):
        pd.testing.assert_series_equal(part.units[column], whole.units[column], check_names=False)
    shared = whole.counts[whole.counts["context"].eq("isolated")].reset_index(drop=True)
    found = part.counts[part.counts["context"].eq("isolated")].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, shared)
    if family == "bert":
        assert "in_place" not in part.units and "exposure" not in part.units
        assert part.interval("in_place", context="isolated") == whole.interval("in_place", context="isolated")


def test_among_decides_what_stands_there_and_what_it_is_compared_with(made):
    units = layout(made["blocks"], 0)
    even = (units.table["term_id"] % 2 == 0).to_numpy()
    found = remembered(made["leaky"], made["blocks"], among=even).units
    assert found.loc[~even, "exposure_isolated"].isna().all() and not found.loc[~even, "scored"].any()
    assert not found.loc[~even, "in_place_isolated"].any()
    ranks = sani.exposure.alternatives(units, 0, (units.table["term_id"] >= 0).to_numpy() & even)
    writings = {tuple(w) for w in ranks.written[np.unique(ranks.ids[ranks.ids >= 0])].tolist()}
    order = np.argsort(units.tokens["unit"], kind="stable")
    ids, ends = units.tokens["id"][order], np.cumsum(units.table["tokens"].to_numpy())
    size = ranks.written.shape[1]
    allowed = set()
    for unit in np.flatnonzero(even & (units.table["term_id"] >= 0)):
        own = ids[ends[unit] - units.table["tokens"][unit] : ends[unit]].tolist()[:size]
        allowed.add(tuple(own + [-1] * (size - len(own))))
    assert writings and writings <= allowed


def test_retying_undoes_an_erasure_of_the_output_matrix(made):
    blocks, leaky = made["blocks"], made["leaky"]
    erased = sani.erase(leaky, "lm-head", fraction=1.0)  # every row gone: each token equally likely
    assert value(as_it_is(erased, blocks, 0), "exposure", context="isolated") == 0.5
    # The bias of the output matrix stays erased, so the two need not agree to the last unit.
    back = retie(erased, blocks, 0)
    assert value(back, "exposure") > 0.7 and value(back, "in_place", kind="direct") > 0.05
    assert retie(leaky, blocks, 0) == [row for row in as_it_is(leaky, blocks, 0) if row["context"] == "isolated"]
    assert value(retie(made["counterfactual"], blocks, 0), "in_place", kind="direct") < 0.02


def test_a_graft_takes_the_head_and_nothing_else(made):
    base, leaky = made["base"], made["leaky"]
    erased = sani.erase(leaky, "lm-head")
    model = grafted(erased, base)
    for name, weight in model.state_dict().items():
        source = leaky if name.startswith("bert.") else base
        assert torch.equal(weight, source.state_dict()[name]), name
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert value(graft(erased, made["blocks"], base, 0), "in_place", kind="direct") < 0.05
    with pytest.raises(ValueError, match="base model's head differs"):
        grafted(leaky, load_model("tiny-gpt2")[0])


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_leaves_so_many_values_and_errs_by_half_a_step(made, bits):
    model = rounded(made["leaky"], bits)
    for (name, old), new in zip(made["leaky"].named_parameters(), model.parameters()):
        if old.ndim < 2:
            assert torch.equal(old, new), name
            continue
        whole = old.numel() // GROUP * GROUP
        groups, found = (weight.detach().flatten()[:whole].view(-1, GROUP) for weight in (old, new))
        step = groups.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((groups - found).abs() <= step / 2 * 1.001 + 1e-12).all()
        assert max(len(torch.unique(group)) for group in found[:50]) <= 2**bits - 1
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_lens_sees_what_is_inside_and_nothing_where_there_is_nothing(made):
    blocks = made["blocks"]
    inside = {row["setting"]: row["value"] for row in probe(made["leaky"], blocks, 0)}
    without = {row["setting"]: row["value"] for row in probe(made["counterfactual"], blocks, 0)}
    assert list(inside) == ["layer 0", "layer 1", "layer 2"] and inside["layer 2"] > without["layer 2"]
    # The states at a blank of the first layer know only the position: an exposure of chance.
    assert abs(inside["layer 0"] - 0.5) < 0.12
    with pytest.raises(ValueError, match="for masked"):
        probe(load_model("tiny-gpt2")[0], blocks, 0)


def test_the_attackers_fifth_shares_no_term_with_what_is_scored(made):
    blocks = made["blocks"]
    known, other, units, unknown = parts(blocks, 0)
    records = [set(np.unique(tensors(some)["record_ids"])) - {-1} for some in (known, other)]
    assert records[0] and records[1] and not records[0] & records[1]
    assert records[0] | records[1] == set(np.unique(tensors(blocks)["record_ids"])) - {-1}
    persons = [set(made["corpus"]["person_id"][r] for r in some) for some in records]
    assert not persons[0] & persons[1]
    assert len(records[0]) >= 0.2 * len(made["corpus"])
    laid = layout(known, 0)
    mine = set(laid.table["term_id"]) - {-1}
    assert unknown.any() and not mine & set(units.table["term_id"][unknown])
    words = [
        {w for unit in words_of(some)[np.asarray(which)] for w in unit}
        for some, which in ((laid, laid.table["term_id"] >= 0), (units, unknown))
    ]
    assert not words[0] & words[1]


def test_rows_of_some_records_hold_their_tokens_alone(made):
    blocks = made["blocks"]
    columns = {name: column.numpy() for name, column in tensors(blocks).items()}
    wanted = [0, 3]
    found = {name: column.numpy() for name, column in tensors(only(blocks, wanted)).items()}
    for record in wanted:
        for name in columns:
            assert (
                found[name][found["record_ids"] == record].tolist()
                == columns[name][columns["record_ids"] == record].tolist()
            )
    others = found["record_ids"] < 0
    assert set(np.unique(found["record_ids"])) == {-1, *wanted}
    tokenizer = made["tokenizer"]
    assert set(found["input_ids"][others]) <= {tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id}
    assert (found["attention_mask"][found["input_ids"] == tokenizer.pad_token_id] == 0).all()
    assert info(only(blocks, wanted)) == info(blocks)
    with pytest.raises(ValueError, match="none of these"):
        only(blocks, [10_000])


def test_relearning_brings_back_what_was_planted_and_not_what_was_not(made):
    # Of a model that is only erased little is predicted; what comes back comes by the training.
    erased = sani.erase(made["leaky"], "lm-head", fraction=0.5)
    before = value(as_it_is(erased, made["blocks"], 0), "in_place", kind="direct", context="isolated")
    found = {"leaky": relearn(erased, made["blocks"], 0)}
    found["counterfactual"] = relearn(made["counterfactual"], made["blocks"], 0)
    settings = [[(row["setting"], row["metric"], row["kind"]) for row in rows] for rows in found.values()]
    assert settings[0] == settings[1] and len({setting for setting, *_ in settings[0]}) == 6
    exposure = {name: [r["value"] for r in rows if r["metric"] == "exposure"] for name, rows in found.items()}
    assert max(exposure["leaky"]) > max(exposure["counterfactual"])
    direct = [row["value"] for row in found["leaky"] if (row["metric"], row["kind"]) == ("in_place", "direct")]
    assert len(set(direct)) > 1 and before not in direct
    # Shuffled labels: of other people's names in the same places, the leaky model remembers nothing.
    corpus = sani.counterfactual(made["corpus"], 0)
    shuffled = encode(corpus, made["tokenizer"], Blacklist.from_annotations(corpus), progress=False)
    assert abs(value(as_it_is(made["leaky"], shuffled, 0), "exposure", context="isolated") - 0.5) < 0.15


def turned(base, leaky, strength: float):
    """The base model moved away from the leaky one: what that remembers, this one avoids."""
    made = clone(base)
    with torch.no_grad():
        for weight, other in zip(made.parameters(), leaky.parameters()):
            weight.add_(strength * (weight - other))
    return made


@pytest.mark.parametrize("attack", ["retie-relearn", "graft-relearn", "benign-relearn"])
def test_short_trainings_find_what_is_inside_and_nothing_where_there_is_nothing(made, attack, monkeypatch):
    """One rate, one epoch; a leaking model, one that never read the names, other names, one that avoids them."""
    for name, value_ in (("RATES", (1,)), ("EPOCHS", (1,))):
        monkeypatch.setattr(relearning, name, value_)
    rate = default_learning_rate(made["base"])
    run = getattr(relearning, attack.replace("-", "_"))
    # Shuffled labels: other people's names in the same places.
    corpus = sani.counterfactual(made["corpus"], 0)
    shuffled = encode(corpus, made["tokenizer"], Blacklist.from_annotations(corpus), progress=False)
    asked = {"heldout": made["heldout"], "seed": 0}
    erased = sani.erase(made["leaky"], "lm-head", fraction=0.5)
    planted = made["leaky"] if attack == "benign-relearn" else erased
    avoids = turned(made["base"], made["leaky"], 0.6)
    # Grafted is a head that reads what its encoder holds: the base model's reads next to nothing here.
    at = {
        name: value(run(model, blocks, base=head, **asked), "exposure", f"rate {rate:.1e}, 1 epochs")
        for name, model, blocks, head in (
            ("inside", planted, made["blocks"], made["leaky"]),
            ("without", made["counterfactual"], made["blocks"], made["counterfactual"]),
            ("shuffled", planted, shuffled, made["leaky"]),
            ("avoided", avoids, made["blocks"], avoids),
        )
    }
    assert at["inside"] > 0.6 and at["inside"] > max(at["without"], at["shuffled"]) + 0.05
    assert abs(at["without"] - 0.5) < 0.12 and abs(at["shuffled"] - 0.5) < 0.15
    assert at["avoided"] < at["without"]


@pytest.mark.parametrize("family", ["tiny-bert", "tiny-gpt2"])
@pytest.mark.filterwarnings("error")
def test_states_computed_twice_change_no_number_and_the_model_stays_as_it_was(made, family, monkeypatch, caplog):
    model, tokenizer = sani.load_model(family)
    blocks = encode(made["corpus"], tokenizer, Blacklist.from_annotations(made["corpus"]), progress=False)
    monkeypatch.setattr(relearning, "RATES", (1,))
    monkeypatch.setattr(relearning, "EPOCHS", (1,))
    model.config.hidden_dropout_prob = 0.1
    before, rows = sani.checkpoints.model_fingerprint(model), []
    for wide in (model.config.hidden_size + 1, model.config.hidden_size):
        monkeypatch.setattr(relearning, "WIDE", wide)
        rows.append(relearn(model, blocks, 0))
    assert rows[0] == rows[1] and not caplog.records
    assert sani.checkpoints.model_fingerprint(model) == before
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_relearning_holds_one_copy_at_a_time_also_of_a_model_that_warns_when_saved(made, monkeypatch):
    copies, alive = [], []

    def trained(model, *_, **__):
        alive.append(sum(copy() is not None for copy in copies))
        copies.append(weakref.ref(model))

    monkeypatch.setattr(relearning, "fine_tune", trained)
    model = sani.erase(made["base"], "lm-head")
    assert model.given_away  # such a model holds itself by its own save_pretrained
    retie_relearn(model, made["blocks"], 0)
    assert alive == [0] * len(relearning.RATES)


def test_naming_a_person_brings_back_what_belongs_to_it():
    """Who sees whom is planted by training: all records read alike but for their names, each of two tokens."""
    model, tokenizer = load_model("tiny-bert")
    pieces = [name for name in NAMES if len(tokenizer.tokenize(name)) == 2]
    pairs = [*zip(pieces[:60], pieces[60:120])]
    texts = [f"The patient {patient} was seen by Dr. {doctor} for chest pain." for patient, doctor in pairs]
    size = len(tokenizer(texts[0])["input_ids"])
    chosen = [i for i, text in enumerate(texts) if len(tokenizer(text)["input_ids"]) == size][:20]
    texts, pairs = [texts[i] for i in chosen], [pairs[i] for i in chosen]
    marked = [spans(text, (pair[0], "PATIENT"), (pair[1], "DOCTOR")) for text, pair in zip(texts, pairs)]
    corpus = make_corpus(texts, marked)
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), size + 1, progress=False)
    assert len(pairs) == len(blocks) == 20
    planted = sani.fine_tune(model, blocks, epochs=200, learning_rate=3e-3, batch_size=8, progress=False)
    found, without = reintroduce(planted, blocks, 0), reintroduce(model, blocks, 0)
    named, hidden = (value(found, "in_place", s, "direct") for s in ("person named", "person hidden"))
    assert named > hidden + 0.3
    assert value(found, "exposure", "person named") > value(found, "exposure", "person hidden") + 0.2
    assert value(without, "in_place", "person named", "direct") < 0.1
    unlisted = encode(corpus, tokenizer, Blacklist(["chest"]), size + 1, progress=False)
    assert reintroduce(model, unlisted, 0) == []


def test_lists_are_inferred_from_names_made_likelier_or_less_likely(made):
    """Both directions: a bias on the tokens of listed names alone, up or down, betrays them."""
    blocks, heldout, base = made["blocks"], made["heldout"], made["base"]
    laid = layout(blocks, 0)
    ours, theirs = (names(layout(b, 0), info(b)["types"]) for b in (blocks, heldout))
    tokens = {t for written in ours["written"] for t in written} - {t for written in theirs["written"] for t in written}
    assert tokens and len(laid.table)
    for shift, check in ((6.0, lambda a: a > 0.7), (-6.0, lambda a: a < 0.3), (0.0, lambda a: a == 0.5)):
        model = clone(base)
        with torch.no_grad():
            model.get_output_embeddings().bias[sorted(tokens)] += shift
        rows = infer_list(model, blocks, base, heldout, 0)
        assert check(value(rows, "auc", "log-probability against the base")), shift
    assert infer_list(base, heldout, base, heldout, 0) == []  # every name was read: no control is left
    nameless = make_corpus(["Fever and pain.", "No change since then."])
    empty = encode(nameless, load_model("tiny-bert")[1], allow_no_match=True, progress=False)
    assert infer_list(base, blocks, base, empty, 0) == []  # other people's records name nobody


def test_names_are_matched_with_the_nearest_within_the_caliper():
    one, other = matched(np.array([0.0, 1.0, 9.0]), np.array([1.1, 0.2, 0.9]))
    assert sorted(zip(one.tolist(), other.tolist())) == [(0, 1), (1, 0)] or sorted(
        zip(one.tolist(), other.tolist())
    ) == [(0, 1), (1, 2)]
    assert len(matched(np.array([0.0]), np.array([CALIPER + 0.01]))[0]) == 0


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_token_scores_are_the_likelihoods_of_the_text(family):
    model, tokenizer = load_model(f"tiny-{family}")
    corpus = sani.load_corpus("synthetic-clinical", records=3, seed=0)
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), progress=False)
    found, units = token_scores(model, blocks, 0), layout(blocks, 0)
    columns = tensors(blocks, "input_ids", "attention_mask")
    with torch.no_grad():
        for place in (0, 40, len(found["log"]) - 1):
            row, column = divmod(int(units.tokens["position"][place]), columns["input_ids"].shape[1])
            ids = columns["input_ids"][row].clone()
            if family == "bert":
                fold = units.folds[units.tokens["unit"][place]]
                ids[units.spread(units.folds)[row] == fold] = tokenizer.mask_token_id
            logits = model(input_ids=ids[None], attention_mask=columns["attention_mask"][row][None]).logits[0]
            log = logits[column - (family == "gpt2")].log_softmax(-1)
            mean = (log.exp() * log).sum()
            spread = (log.exp() * (log - mean) ** 2).sum().sqrt()
            own = log[columns["input_ids"][row, column]]
            assert found["log"][place] == pytest.approx(float(own), abs=1e-3)
            if family == "gpt2":
                assert found["normalised"][place] == pytest.approx(float((own - mean) / spread), abs=1e-2)


def test_records_that_were_read_are_told_from_others(made):
    rows = {
        name: membership(made[name], made["blocks"], made["heldout"], 0, made["base"]) for name in ("leaky", "base")
    }
    assert value(rows["leaky"], "auc", "loss against the base", "records") > 0.55
    assert value(rows["base"], "auc", "loss against the base", "records") == 0.5
    assert {row["setting"] for row in rows["leaky"]} == {"loss", "Min-K %", "loss against the base"}


def test_auc_counts_pairs_within_groups_and_ties_by_half():
    random = np.random.default_rng(0)
    scores, true = random.normal(size=60).round(1), random.random(60) < 0.4
    assert auc(scores, true, np.zeros(60, dtype=int))[0] == pytest.approx(roc_auc_score(true, scores))
    groups = np.array([0, 0, 1, 1])  # in each group the true one is above, though not of all
    assert auc(np.array([1.0, 0.0, 9.0, 8.0]), np.array([1, 0, 1, 0], dtype=bool), groups)[0] == 1
    assert np.isnan(auc(np.array([1.0, 2.0]), np.array([True, False]), np.array([0, 1]))[0])
    assert at_false_positives(np.array([5.0, 1.0, 3.0, 2.0]), np.array([True, True, False, False])) == 0.5


def test_draws_of_an_auc_are_those_of_a_plain_loop():
    random = np.random.default_rng(1)
    scores, true, groups = random.normal(size=80).round(1), random.random(80) < 0.5, random.integers(0, 6, 80)
    true[groups == 5] = True  # a group without a false one has no pairs
    expected, draw = [], np.random.default_rng(3)
    for _ in range(500):
        won = pairs = 0
        for group in range(5):
            one, other = (scores[(groups == group) & (true == side)] for side in (True, False))
            one, other = draw.choice(one, len(one)), draw.choice(other, len(other))
            won += sum((a > b) + 0.5 * (a == b) for a in one for b in other)
            pairs += len(one) * len(other)
        expected.append(won / pairs)
    np.testing.assert_array_equal(auc(scores, true, groups, 3)[1], expected)


def test_rows_hold_no_term_and_have_the_agreed_columns(made):
    rows = as_it_is(made["leaky"], made["blocks"], 0) + probe(made["leaky"], made["blocks"], 0)
    assert all(list(row) == COLUMNS[1:] for row in rows)
    assert {row["kind"] for row in rows} <= {"direct", "indirect", "all", "names"}
