"""The emotion classifier: what it takes over, that it learns, and that it leaves everything else as it was."""

import copy
import logging
import random

import numpy as np
import pytest
import torch
from conftest import make_model, make_roberta, make_tokenizer
from datasets import Dataset
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

import sani
from sani.checkpoints import model_fingerprint
from sani.erasure import TARGETS, erase, layers
from sani.study import downstream
from sani.study.downstream import _classifier, emotion_f1, seen_by_classifier

SECRET = "zanzibarius"


def make_distilbert(vocab_size):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=vocab_size, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    config.max_position_embeddings = 64
    return DistilBertForMaskedLM(config).eval()


def make_modernbert(vocab_size):
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return ModernBertForMaskedLM(config).eval()


MODELS = {"bert": make_model, "roberta": make_roberta, "distilbert": make_distilbert, "modernbert": make_modernbert}


@pytest.fixture(params=list(MODELS))
def model_and_tokenizer(request):
    tokenizer = make_tokenizer("byte-level-bpe" if request.param == "roberta" else "wordpiece")
    return MODELS[request.param](len(tokenizer)), tokenizer


def labelled(*pairs):
    texts, labels = zip(*pairs)
    return Dataset.from_dict({"text": texts, "label": labels, "record_id": [f"r{i}" for i in range(len(texts))]})


def separable(count, seed=0):
    """A word that tells the label, among others."""
    rng, words = random.Random(seed), {"joy": "good", "fear": "pain", "love": "home"}
    rows = []
    for _ in range(count):
        label = rng.choice(sorted(words))
        others = rng.choices(["patient", "was", "seen", "with", "and", "the"], k=5)
        others.insert(rng.randrange(6), words[label])
        rows.append((" ".join(others), label))
    return labelled(*rows)


def slow_f1(truth, found):
    """Weighted and macro F1 by counting."""
    scores, sizes = [], []
    for label in sorted(set(truth) | set(found)):
        hits = sum(t == f == label for t, f in zip(truth, found))
        wrong = sum((t == label) != (f == label) for t, f in zip(truth, found))
        scores.append(2 * hits / (2 * hits + wrong))
        sizes.append(truth.count(label))
    return {"weighted": np.average(scores, weights=sizes), "macro": np.mean(scores)}


def test_the_classifier_takes_over_the_encoder_and_nothing_else(model_and_tokenizer):
    model, _ = model_and_tokenizer
    ours = model.base_model.state_dict()
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(_classifier(model, 5))
    theirs = made[0].base_model.state_dict()
    assert ours.keys() == {name for name in theirs if not name.startswith("pooler.")}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]) and tensor.data_ptr() != theirs[name].data_ptr()
    new = {name: tensor for name, tensor in made[0].named_parameters() if name.partition(".")[2] not in ours}
    assert any(len(tensor) == 5 for tensor in new.values())
    same, other = made[1].state_dict(), made[2].state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in new.items())
    assert all(not torch.equal(t, other[name]) for name, t in new.items() if name.endswith("weight") and t.dim() == 2)
    # Nothing of the head either, even where its tensors have the same names (ModernBERT).
    head = {name: tensor for name, tensor in model.state_dict().items() if name in new and tensor.dim() == 2}
    assert all(not torch.equal(tensor, new[name]) for name, tensor in head.items())


def test_f1_is_that_of_one_record_at_a_time(model_and_tokenizer):
    """Batches, padding and truncation do not change a prediction; texts longer than the model are cut."""
    model, tokenizer = model_and_tokenizer
    train, test = separable(20), separable(40, seed=1)
    test = labelled(*zip(test["text"], test["label"]), ("patient was seen " * 60, "joy"), ("pain", "fear"))
    labels = sorted(set(train["label"]))
    got = emotion_f1(model, tokenizer, train, test, epochs=0, batch_size=16, seed=3)
    torch.manual_seed(3)
    classifier = _classifier(model, len(labels)).eval()
    found = []
    for text in test["text"]:
        ids = tokenizer(text, add_special_tokens=True)["input_ids"]
        ids = ids if len(ids) <= 64 else ids[:63] + ids[-1:]
        with torch.inference_mode():
            found.append(labels[classifier(torch.tensor([ids])).logits.argmax()])
    assert got == pytest.approx(slow_f1(list(test["label"]), found))


def test_rows_fill_the_model_and_no_more(model_and_tokenizer, monkeypatch):
    """Where the tokenizer tells no limit, the model's positions do: RoBERTa has two fewer than it says."""
    model, tokenizer = model_and_tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 10**30
    lengths, measure = [], downstream._logits
    monkeypatch.setattr(
        downstream, "_logits", lambda *given: lengths.append(given[1]["input_ids"].shape[1]) or measure(*given)
    )
    emotion_f1(model, tokenizer, separable(20), labelled(("patient was seen " * 60, "joy")), epochs=0)
    assert lengths == [78 if model.config.model_type == "roberta" else 64]


def test_it_learns_and_leaves_all_else_as_it_was(model_and_tokenizer, tmp_path, monkeypatch, capfd, caplog):
    model, tokenizer = model_and_tokenizer
    train, test = separable(96), separable(30, seed=1)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    before = model_fingerprint(model), model.config.to_dict(), tokenizer._tokenizer.to_str(), model.training
    torch.manual_seed(11)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    settings = dict(epochs=12, learning_rate=1e-2, batch_size=8)
    got = emotion_f1(model, tokenizer, train, test, **settings)
    assert got.keys() == {"weighted", "macro"} and got["weighted"] > 0.9 and got["macro"] > 0.9
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()
    assert before == (model_fingerprint(model), model.config.to_dict(), tokenizer._tokenizer.to_str(), model.training)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not list(tmp_path.iterdir())
    said = capfd.readouterr()
    assert not any(word in said.out + said.err + caplog.text for word in ("patient", "pain"))


def logits_of(monkeypatch, *arguments, **settings):
    """The logits that a call measures."""
    seen = []
    measure = downstream._logits

    def spy(classifier, batch):
        logits = measure(classifier, batch)
        if not classifier.training:
            seen.append(logits)
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(downstream, "_logits", spy)
        emotion_f1(*arguments, **settings)
    return torch.cat(seen)


def test_a_seed_decides_everything_and_the_order_of_labels_nothing(monkeypatch, wordpiece):
    model = make_model(len(wordpiece), dropout=0.1)
    train, test = separable(40), separable(10, seed=1)
    settings = dict(epochs=2, batch_size=8, learning_rate=1e-3)
    first = logits_of(monkeypatch, model, wordpiece, train, test, seed=1, **settings)
    torch.manual_seed(99)
    assert torch.equal(first, logits_of(monkeypatch, model, wordpiece, train, test, seed=1, **settings))
    assert not torch.equal(first, logits_of(monkeypatch, model, wordpiece, train, test, seed=2, **settings))
    turned = train.select(range(len(train))[::-1])
    assert list(dict.fromkeys(turned["label"])) != list(dict.fromkeys(train["label"]))
    settings["epochs"] = 0  # the order of the data matters to training
    first = logits_of(monkeypatch, model, wordpiece, train, test, seed=1, **settings)
    assert torch.equal(first, logits_of(monkeypatch, model, wordpiece, turned, test, seed=1, **settings))


def test_learning_rate_rises_over_a_tenth_of_the_steps_and_falls_to_zero(monkeypatch, wordpiece):
    rates, step = [], torch.optim.AdamW.step

    def spy(optimizer, *arguments, **options):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    emotion_f1(make_model(len(wordpiece)), wordpiece, separable(50), separable(5), batch_size=2)
    peak = 2e-5 * 768 / 16
    assert len(rates) == 4 * 25
    expected = [peak * min(k / 10, (100 - k) / 90) for k in range(100)]
    assert rates == pytest.approx(expected)


def test_tiny_bert_learns_something_of_the_synthetic_emotions():
    model, tokenizer = sani.load_model("tiny-bert")
    train = sani.load_corpus("synthetic-emotions", records=400)
    test = sani.load_corpus("synthetic-emotions", records=200, seed=1, split="public")
    before = emotion_f1(model, tokenizer, train, test, epochs=0)
    settings = dict(epochs=6, learning_rate=3e-3, batch_size=16, progress=False)
    after = emotion_f1(model, tokenizer, train, test, **settings)
    assert after["weighted"] > before["weighted"] + 0.2


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_classifier_sees_of_an_erasure(model_and_tokenizer, target):
    model, _ = model_and_tokenizer
    after = erase(model, target, seed=1)
    seen = seen_by_classifier(model, after)
    if target in ("lm-head", "head-transform"):
        assert seen == []
    else:
        assert {name.rpartition(".")[0] for name in seen} == set(layers(model, target))
        assert set(seen) <= set(model.state_dict())
    assert seen_by_classifier(model, copy.deepcopy(model)) == []


def test_what_the_classifier_does_not_see_does_not_change_it(wordpiece):
    model, train, test = make_model(len(wordpiece)), separable(24), separable(12, seed=1)
    settings = dict(epochs=1, learning_rate=1e-3)
    for target in ("lm-head", "head-transform"):
        erased = erase(model, target, fraction=1.0)
        assert emotion_f1(erased, wordpiece, train, test, **settings) == emotion_f1(
            model, wordpiece, train, test, **settings
        )


def gpt2(vocab_size):
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_embd=16, n_layer=1, n_head=2, n_positions=64))


def test_errors_come_before_training_and_show_no_text(wordpiece, monkeypatch):
    monkeypatch.setattr(downstream, "_train", lambda *_: pytest.fail("trained"))
    model, good = make_model(len(wordpiece)), separable(8)
    other = labelled((SECRET, "joy"), (f"{SECRET} again", SECRET))
    for arguments, settings, message in (
        ((gpt2(len(wordpiece)), wordpiece, good, good), {}, "gpt2 predicts the next token and has no encoder"),
        ((model.bert, wordpiece, good, good), {}, "no LM head"),
        ((make_model(50), wordpiece, good, good), {}, "tokens, the model knows 50"),
        ((model, wordpiece, good.remove_columns("label"), good), {}, "train has no column label; load an emotion"),
        ((model, wordpiece, good, good.remove_columns("text")), {}, "test has no column text"),
        ((model, wordpiece, good, other), {}, r"test has 1 records with a label that train lacks \(the first: 'r1'\)"),
        ((model, wordpiece, good, other.remove_columns("record_id")), {}, r"train lacks \(the first: row 1\)"),
        ((model, wordpiece, labelled((SECRET, "joy")), good), {}, "train has one label only"),
        ((model, wordpiece, labelled((SECRET, "joy"), (" ", "fear")), good), {}, "train has 1 records whose text .*r1"),
        ((model, wordpiece, good, labelled((SECRET, None))), {}, "test has 1 records whose label .*'r0'"),
        ((model, wordpiece, good, good.select([])), {}, "test is empty"),
        ((model, wordpiece, good, good), {"batch_size": 0}, "batch_size ≥ 1"),
        ((model, wordpiece, good, good), {"epochs": -1}, "epochs ≥ 0"),
        ((model, wordpiece, good, good), {"learning_rate": float("nan")}, "positive learning rate"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            emotion_f1(*arguments, **settings)
        assert SECRET not in str(caught.value)


def test_models_that_cannot_be_compared(wordpiece):
    model = make_model(len(wordpiece))
    with pytest.raises(ValueError, match="no encoder to classify with"):
        seen_by_classifier(model, gpt2(len(wordpiece)))
    for other in (make_model(len(wordpiece) + 1), make_roberta(len(wordpiece))):
        with pytest.raises(ValueError, match="different tensors"):
            seen_by_classifier(model, other)


def test_a_loss_that_is_no_number_stops_the_training(wordpiece):
    model = make_model(len(wordpiece))
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="in epoch 1, step 1 of 1; lower learning_rate"):
        emotion_f1(model, wordpiece, separable(8), separable(8))
