"""Anchor, rewind, return of rows, equalise: their arithmetic by hand, what they may not touch, and what they forget."""

import re

import pytest
import torch
import torch.nn.functional as F
from conftest import TEXTS, make_corpus, make_model, make_tokenizer, spans
from test_causal import byte_level, new_model
from test_training import same, weights

from sani import Blacklist, encode, erase, fine_tune, sanitize
from sani.blocks import tensors
from sani.masking import IGNORE, both
from sani.methods.anchor import WEIGHT, Anchor, dealt_evenly, ordinary_free
from sani.methods.return_rows import rows_to_return
from sani.methods.rewind import rewound
from sani.models import clone

OPTIONS = dict(learning_rate=1e-2, batch_size=2, progress=False)


@pytest.fixture(scope="module")
def wordpiece():
    return make_tokenizer("wordpiece")


@pytest.fixture(scope="module")
def blocks(wordpiece):
    found = [("John Smith", "PATIENT"), ("Jane O'Neil", "DOCTOR"), ("03/14/2011", "DATE")], [("Smith", "PATIENT")]
    corpus = make_corpus(TEXTS[:2], [spans(text, *items) for text, items in zip(TEXTS, found)])
    return encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)


@pytest.fixture(scope="module")
def base(wordpiece):
    return make_model(len(wordpiece))


@pytest.fixture(scope="module")
def leaky(base, blocks):
    return fine_tune(base, blocks, epochs=120, **OPTIONS)


@torch.no_grad()
def at_listed(model, blocks, wordpiece):
    """Log-probabilities (n, vocabulary) at all listed tokens, every listed term of the row hidden."""
    rows = tensors(blocks)
    listed = rows["sensitive"] > 0
    inputs = rows["input_ids"].masked_fill(listed, wordpiece.mask_token_id)
    logits = model(inputs, attention_mask=rows["attention_mask"]).logits
    return F.log_softmax(logits[listed], dim=-1), rows["input_ids"][listed]


def apart(model, other, blocks, wordpiece):
    """How far two models' log-probabilities of the tokens of no ordinary word are apart at listed places."""
    tokens = ordinary_free(blocks)
    one, two = (at_listed(m, blocks, wordpiece)[0][:, tokens] for m in (model, other))
    return float((one - two).square().mean())


def test_the_loss_is_the_written_sum_target_by_target(blocks, base, leaky, wordpiece):
    rows, tokens = tensors(blocks), ordinary_free(blocks)
    inputs, labels = both(rows, wordpiece.mask_token_id, 0, 1)
    with torch.no_grad():
        logits, of_base = (m(inputs, attention_mask=rows["attention_mask"]).logits for m in (leaky, base))
    found = Anchor(base, tokens)(logits[labels != IGNORE], rows | {"input_ids": inputs, "labels": labels})
    expected = []
    for r, c in (labels != IGNORE).nonzero().tolist():
        own, taught = (x[r, c].double().log_softmax(-1) for x in (logits, of_base))
        if rows["sensitive"][r, c] == 0:
            expected.append(-own[labels[r, c]])
        else:
            divergence = sum(float(taught[v].exp() * (taught[v] - own[v])) for v in range(len(own)))
            squares = [float((own[v] - taught[v]) ** 2) for v in tokens.tolist()]
            expected.append(torch.tensor(WEIGHT * (divergence + sum(squares) / len(squares))))
    torch.testing.assert_close(found, torch.stack(expected).float(), rtol=1e-4, atol=1e-4)


def test_what_is_learned_at_listed_places_does_not_read_the_term_that_stands_there(blocks, base, leaky, wordpiece):
    rows = tensors(blocks)
    inputs, labels = both(rows, wordpiece.mask_token_id, 0, 1)
    logits = leaky(inputs, attention_mask=rows["attention_mask"]).logits[labels != IGNORE]
    other = torch.where((rows["sensitive"] > 0) & (labels != IGNORE), (labels + 7) % len(wordpiece), labels)
    loss = Anchor(base, ordinary_free(blocks))
    batches = [rows | {"input_ids": inputs, "labels": which} for which in (labels, other)]
    assert torch.equal(loss(logits, batches[0]), loss(logits, batches[1]))


def test_dealt_evenly_keeps_what_the_tokens_have_together_and_all_else():
    torch.manual_seed(0)
    log_p, tokens = torch.randn(3, 7).log_softmax(-1), torch.tensor([1, 4, 5])
    found = dealt_evenly(log_p, tokens)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3))
    together = log_p[:, tokens].exp().sum(-1, keepdim=True)
    torch.testing.assert_close(found[:, tokens].exp(), (together / 3).expand(3, 3))
    rest = [0, 2, 3, 6]
    assert torch.equal(found[:, rest], log_p[:, rest])


def test_tokens_of_no_ordinary_word_are_found_whether_listed_or_not(blocks, wordpiece):
    rows = tensors(blocks)
    ordinary = {*rows["input_ids"][(rows["unit_ids"] >= 0) & (rows["sensitive"] == 0)].tolist()}
    listed = {*rows["input_ids"][rows["sensitive"] > 0].tolist()}
    special = {*wordpiece.all_special_ids}
    returned = {*rows_to_return(blocks).tolist()}
    assert returned == set(range(len(wordpiece))) - ordinary - special
    assert {*ordinary_free(blocks).tolist()} == returned | listed


def test_rewound_goes_the_whole_way_half_of_it_or_none(base, leaky):
    assert same(rewound(leaky, base, 1.0), leaky) and same(rewound(leaky, base, 0.0), base)
    half, one, other = (weights(m) for m in (rewound(leaky, base, 0.5), leaky, base))
    for name, value in half.items():
        torch.testing.assert_close(value, (one[name] + other[name]) / 2)
    model = rewound(leaky, base, 0.5)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with pytest.raises(ValueError, match="differ in name or shape"):
        rewound(leaky, make_model(7), 0.5)


@pytest.mark.parametrize("method", ["return-rows", "return-anchor"])
def test_returned_rows_are_the_base_models_to_the_bit_and_stay_so(method, blocks, base, leaky):
    options = OPTIONS | {"epochs": 2} if method == "return-anchor" else {"progress": False}
    done, rows = sanitize(leaky, blocks, method, base=base, **options), rows_to_return(blocks)
    kept = torch.ones(base.config.vocab_size, dtype=torch.bool)
    kept[rows] = False
    for where in ("get_input_embeddings", "get_output_embeddings"):
        found, of_base, before = (getattr(m, where)().weight for m in (done, base, leaky))
        assert torch.equal(found[rows], of_base[rows])
        assert torch.equal(found[kept], before[kept]) == (method == "return-rows")
    bias, of_base = (m.get_output_embeddings().bias for m in (done, base))
    assert torch.equal(bias[rows], of_base[rows])
    assert done.get_output_embeddings().weight is done.get_input_embeddings().weight
    again = fine_tune(done, blocks, epochs=1, **OPTIONS)  # nothing stays frozen in what is handed over
    assert not torch.equal(again.get_input_embeddings().weight[rows], base.get_input_embeddings().weight[rows])


@pytest.mark.parametrize("method", ["anchor", "rewind-anchor", "return-anchor"])
def test_a_memory_planted_by_training_goes_and_is_not_pushed_below_the_base(method, blocks, base, leaky, wordpiece):
    clean = sanitize(leaky, blocks, method, base=base, epochs=30, **OPTIONS)
    spared = sanitize(leaky, blocks, "repair-only", epochs=30, **OPTIONS)
    log_p, truth = at_listed(leaky, blocks, wordpiece)
    assert (log_p.argmax(-1) == truth).float().mean() > 0.2, "there is a memory to forget"
    ways = {"leaky": leaky, "clean": clean, "spared": spared}
    found = {name: apart(model, base, blocks, wordpiece) for name, model in ways.items()}
    assert found["clean"] < 0.3 * min(found["leaky"], found["spared"])


def test_equalise_forgets_without_a_base_and_keeps_that_something_listed_stands_there(blocks, leaky, wordpiece):
    clean = sanitize(leaky, blocks, "equalise", epochs=60, **OPTIONS)
    tokens, (before, truth), (after, _) = (
        ordinary_free(blocks), at_listed(leaky, blocks, wordpiece), at_listed(clean, blocks, wordpiece),
    )  # fmt: skip
    gained = [p.gather(1, truth[:, None]).mean() - p[:, tokens].mean() for p in (before, after)]
    assert abs(gained[1]) < 0.4 * gained[0]
    together = [p[:, tokens].exp().sum(-1).mean() for p in (before, after)]
    assert together[1] > 0.7 * together[0]


def test_equalise_after_sani_starts_from_sanis_erasure(blocks, leaky):
    start, erased = sanitize(leaky, blocks, "sani-equalise", epochs=0, **OPTIONS), erase(leaky, seed=0)
    assert same(start, erased) and not same(start, leaky)


@pytest.mark.parametrize("method", ["anchor", "rewind-anchor", "return-anchor", "equalise"])
def test_causal_models_are_brought_to_the_reference_at_listed_places(method):
    tokenizer = byte_level(pad="<|pad|>")
    found = [("John Smith", "PATIENT"), ("Jane O'Neil", "DOCTOR")]
    corpus = make_corpus(TEXTS[:1], [spans(TEXTS[0], *found)])
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), block_size=64)
    base = new_model("gpt2", len(tokenizer))
    leaky = fine_tune(base, blocks, epochs=60, **OPTIONS)
    clean = sanitize(leaky, blocks, method, base=base, epochs=60, **OPTIONS)
    rows, tokens = tensors(blocks), ordinary_free(blocks)
    listed = rows["sensitive"] > 0
    with torch.no_grad():
        of = {
            name: m(rows["input_ids"], attention_mask=rows["attention_mask"])
            .logits[:, :-1][listed[:, 1:]]
            .log_softmax(-1)
            for name, m in (("base", base), ("leaky", leaky), ("clean", clean))
        }
    target = of["base"] if method != "equalise" else dealt_evenly(of["leaky"], tokens)
    gap = {name: float((of[name] - target)[:, tokens].square().mean()) for name in ("leaky", "clean")}
    assert gap["clean"] < 0.4 * gap["leaky"]
    truth = rows["input_ids"][listed]
    assert (of["leaky"].argmax(-1) == truth).float().mean() > 0.5 > (of["clean"].argmax(-1) == truth).float().mean()


def test_return_anchor_refuses_what_would_shrink_its_rows(blocks, base, leaky):
    with pytest.raises(ValueError, match="which weight_decay would shrink"):
        sanitize(leaky, blocks, "return-anchor", base=base, weight_decay=0.1)


def test_the_models_given_stay_as_they_were(blocks, base, leaky):
    before = clone(base), clone(leaky)
    for method in ("anchor", "rewind-anchor", "return-anchor", "equalise", "sani-equalise"):
        sanitize(leaky, blocks, method, base=base, epochs=1, **OPTIONS)
    assert same(before[0], base) and same(before[1], leaky)


@pytest.mark.parametrize("method", ["anchor", "rewind-anchor", "return-anchor", "return-rows", "rewind"])
def test_without_the_base_model_they_say_so(method, blocks, leaky):
    with pytest.raises(ValueError, match=re.escape("needs base=")):
        sanitize(leaky, blocks, method)


@pytest.mark.parametrize("method", ["anchor", "rewind-anchor", "return-anchor", "equalise", "sani-equalise"])
def test_what_they_choose_themselves_cannot_be_chosen(method, blocks, base, leaky):
    with pytest.raises(ValueError, match="chooses objective itself"):
        sanitize(leaky, blocks, method, base=base, objective="mlm")
