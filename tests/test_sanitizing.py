"""The methods and controls by name: what each one does, and what it refuses."""

import re

import pytest
import torch
from conftest import make_model, make_tokenizer
from test_training import same, weights

import sani.training
from sani import Blacklist, counterfactual, encode, erase, evaluate, fine_tune, repair, sanitize
from sani.methods import logit_filter
from sani.methods.pruning import prune
from sani.models import clone, untie
from sani.sanitizing import METHODS

OPTIONS = dict(learning_rate=1e-2, batch_size=2, progress=False)
FILTER = {"method": "logit-filter", "blacklist": Blacklist(["chest"]), "tokenizer": make_tokenizer("wordpiece")}


@pytest.fixture
def blocks(corpus, wordpiece):
    return encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)


@pytest.fixture
def base(wordpiece):
    return make_model(len(wordpiece))


@pytest.fixture
def leaky(base, blocks):
    return fine_tune(base, blocks, epochs=200, **OPTIONS)


def test_each_method_is_the_steps_it_names(corpus, wordpiece, blocks, base, leaky):
    other = encode(counterfactual(corpus, seed=1), wordpiece, block_size=32)
    tied = repair(erase(leaky, "lm-head", 0.5, "zero", 3), blocks, 2, seed=3, **OPTIONS)
    with torch.no_grad():
        tied.get_output_embeddings().weight.copy_(tied.get_input_embeddings().weight)
    expected = {
        "sani": repair(erase(leaky, "lm-head", 0.5, "zero", 3), blocks, 2, seed=3, **OPTIONS),
        "repair-only": repair(leaky, blocks, 2, seed=3, **OPTIONS),
        "pruning": repair(prune(leaky, seed=3), blocks, 2, seed=3, **OPTIONS),
        "untied-repair-only": repair(untie(clone(leaky)), blocks, 2, seed=3, **OPTIONS),
        "untied-pruning": repair(prune(untie(clone(leaky)), seed=3), blocks, 2, seed=3, **OPTIONS),
        "sani-tied": tied,
        "base": base,
        "retrain-at-equal-cost": fine_tune(base, blocks, "ppmlm", 2, seed=3, **OPTIONS),
        "counterfactual": fine_tune(base, other, "mlm", 5, seed=3, **OPTIONS),
        "logit-filter": leaky,
    }
    apart = (
        "graddiff",
        "npo",
        "scrub",
        "task_vector",
        "last_layers",
        "ssd",
        "selective_pruning",
        "privacy_neurons",
        "anchor",
        "rewind",
        "return_rows",
    )
    elsewhere = {f"sani.methods.{name}" for name in apart}  # tests/methods
    assert expected.keys() == {name for name, method in METHODS.items() if method.module not in elsewhere}
    before = weights(leaky)
    for method, model in expected.items():
        options = OPTIONS if method not in ("base", "logit-filter") else {"progress": False}
        options = options | dict(seed=3, base=base, counterfactual_blocks=other, training_epochs=5)
        done = sanitize(leaky, blocks, method, epochs=2, **options)
        assert same(done, model), method
        assert done is not leaky and done is not base
    assert all(torch.equal(before[name], value) for name, value in weights(leaky).items())


def test_sani_forgets_what_the_leaky_model_predicts(blocks, base, leaky):
    before = evaluate(leaky, blocks)
    after = evaluate(sanitize(leaky, blocks, epochs=10, **OPTIONS), blocks)
    assert before.regurgitation > 0.15
    assert after.regurgitation < 0.5 * before.regurgitation


def test_the_filter_is_not_saved(blocks, leaky, tmp_path, wordpiece):
    filtered = sanitize(leaky, blocks, method="logit-filter")
    with torch.no_grad(), pytest.warns(UserWarning, match="filter is not saved: whoever loads this model must filter"):
        trained = clone(filtered)
        trained.get_output_embeddings().bias.add_(1)
        trained.save_pretrained(tmp_path)
    saved = type(leaky).from_pretrained(tmp_path)
    assert same(saved, trained) and not same(saved, filtered), "a copy saves itself"
    assert {p.name for p in tmp_path.iterdir()} - {"home"} == {"config.json", "model.safetensors"}
    assert "filter" not in (tmp_path / "config.json").read_text()


def test_the_filter_bans_what_is_listed_and_stands_in_no_block(corpus, wordpiece, blocks, base):
    """A model that says one word of three tokens in every blank: free where it is not listed, gone where it is."""
    said = wordpiece("Oxygen", add_special_tokens=False)["input_ids"]
    assert len(said) > 1 and "oxygen" not in Blacklist.from_annotations(corpus)
    units = torch.zeros(len(said), dtype=torch.int64)
    logits = torch.full((len(said), len(wordpiece)), -9.0)
    logits[torch.arange(len(said)), torch.tensor(said)] = 0.0
    plain = sanitize(base, blocks, "logit-filter").logit_filter
    assert plain.argmax(logits, units).tolist() == said
    more = Blacklist.from_annotations(corpus) | Blacklist(["OXYGEN"])
    whole = sanitize(base, blocks, "logit-filter", blacklist=more, tokenizer=wordpiece).logit_filter
    assert whole.argmax(logits, units).tolist()[:-1] == said[:-1] and whole.argmax(logits, units)[-1] != said[-1]
    assert {tuple(s) for s in plain.sequences} < {tuple(s) for s in whole.sequences}
    # "May" counts only where it is annotated, so on a list that stands in no block nothing is banned for it.
    elsewhere = encode(corpus, wordpiece, Blacklist(["Smith"]), block_size=32)
    apart = sanitize(base, elsewhere, "logit-filter", blacklist=more, tokenizer=wordpiece).logit_filter
    may = wordpiece("May", add_special_tokens=False)["input_ids"]
    assert may in plain.sequences and may not in apart.sequences


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "snai"}, "method 'snai' is unknown; use one of sani, repair-only, pruning, "),
        ({"method": "base"}, "needs base="),
        ({"method": "retrain-at-equal-cost"}, "needs base="),
        ({"method": "counterfactual"}, "needs base="),
        ({"method": "counterfactual", "base": True}, "needs counterfactual_blocks="),
        ({"target": "head"}, "target 'head' is unknown"),
        ({"fraction": 2}, "fraction=2 is out of range"),
        ({"fraction": "half", "neurons": "activation"}, "fraction must be a number, not a str"),
        ({"fill": "pretrained"}, "needs reference="),
        ({"neurons": "best"}, "neurons 'best' is unknown; use one of random, magnitude, activation"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"epochs": -1, "method": "pruning"}, "epochs=-1 is out of range"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"learnin_rate": 1e-3}, "unexpected keyword argument 'learnin_rate'"),
        ({"method": "pruning", "fraction": 0.3, "fill": "init"}, "method 'pruning' ignores fill, fraction; leave it"),
        ({"method": "logit-filter", "learning_rate": 1e-3}, "method 'logit-filter' ignores learning_rate"),
        ({"blacklist": Blacklist(["chest"])}, "method 'sani' ignores blacklist"),
        ({"method": "logit-filter", "blacklist": Blacklist(["chest"])}, "needs blacklist= and tokenizer= together"),
        (FILTER | {"blacklist": ["chest"]}, "blacklist must be a Blacklist, not a list"),
        (FILTER | {"tokenizer": "tiny-bert"}, "tokenizer must be a PreTrainedTokenizerBase, not a str"),
        (FILTER | {"tokenizer": make_tokenizer("byte-level-bpe")}, "not the one the blocks were encoded with"),
        ({"base": "tiny-bert"}, "the base is a str; load it with sani.load_model"),
        ({"model": "tiny-bert"}, "the model is a str; load it with sani.load_model"),
    ],
)
def test_bad_arguments_are_named_before_any_work(options, message, blocks, base, monkeypatch):
    for module, name in ((sani.erasure, "reset"), (sani.importance, "portions"), (sani.training, "logits_at")):
        monkeypatch.setattr(module, name, None)
    if options.get("base") is True:
        options = options | {"base": base}
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        sanitize(**{"model": base, "blocks": blocks} | options)


@pytest.mark.parametrize("method", ["sani", "repair-only", "pruning", "retrain-at-equal-cost", "logit-filter"])
def test_blocks_that_list_nothing_are_refused_before_any_work(method, corpus, wordpiece, base, monkeypatch):
    monkeypatch.setattr(sani.erasure, "clone", None)
    monkeypatch.setattr(logit_filter, "clone", None)
    with pytest.raises(ValueError, match="no term, so nothing would be forgotten|hold no listed term"):
        sanitize(base, encode(corpus, wordpiece, block_size=32), method, base=base)
