"""The methods and controls by name: what each one does, and what it refuses."""

import re

import pytest
import torch
from conftest import make_model
from test_training import same, weights

import sani.training
from sani import Blacklist, counterfactual, encode, erase, evaluate, fine_tune, prune, repair, sanitize
from sani.sanitizing import METHODS

OPTIONS = dict(learning_rate=1e-2, batch_size=2, progress=False)


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
    expected = {
        "sani": repair(erase(leaky, "lm-head", 0.5, "zero", 3), blocks, 2, seed=3, **OPTIONS),
        "repair-only": repair(leaky, blocks, 2, seed=3, **OPTIONS),
        "pruning": repair(prune(leaky, seed=3), blocks, 2, seed=3, **OPTIONS),
        "base": base,
        "retrain-at-equal-cost": fine_tune(base, blocks, "ppmlm", 2, seed=3, **OPTIONS),
        "counterfactual": fine_tune(base, other, "mlm", 5, seed=3, **OPTIONS),
        "logit-filter": leaky,
    }
    assert expected.keys() == METHODS.keys()
    before = weights(leaky)
    for method, model in expected.items():
        done = sanitize(
            leaky,
            blocks,
            method,
            epochs=2,
            seed=3,
            base=base,
            counterfactual_blocks=other,
            training_epochs=5,
            **OPTIONS,
        )
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
    filtered.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} - {"home"} == {"config.json", "model.safetensors"}
    assert "filter" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "snai"}, "method 'snai' is unknown; use one of sani, repair-only, pruning, base"),
        ({"method": "base"}, "needs base="),
        ({"method": "retrain-at-equal-cost"}, "needs base="),
        ({"method": "counterfactual"}, "needs base="),
        ({"method": "counterfactual", "base": True}, "needs counterfactual_blocks="),
        ({"target": "head"}, "target 'head' is unknown"),
        ({"fraction": 2}, "outside [0, 1]"),
        ({"fill": "pretrained"}, "needs reference="),
    ],
)
def test_bad_arguments_are_named_before_any_training(options, message, blocks, base, monkeypatch):
    monkeypatch.setattr(sani.training, "logits_at", None)
    if "base" in options:
        options = options | {"base": base}
    with pytest.raises(ValueError, match=re.escape(message)):
        sanitize(base, blocks, **options)
