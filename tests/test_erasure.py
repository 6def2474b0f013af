"""Erasure and pruning: which rows change, and that a saved model is the model."""

import re

import pytest
import torch
from conftest import make_model, make_roberta
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from sani import erase, prune
from sani.erasure import FILLS, TARGETS, layers


def make_distilbert():
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    return DistilBertForMaskedLM(config).eval()


def make_modernbert():
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return ModernBertForMaskedLM(config).eval()


def randomized(model, seed=1):
    """Every parameter different from zero and from its initial value, biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


MODELS = {
    "bert": lambda: make_model(40),
    "roberta": lambda: make_roberta(40),
    "distilbert": make_distilbert,
    "modernbert": make_modernbert,
}
INPUT = {"input_ids": torch.tensor([[1, 5, 9, 12, 2]]), "attention_mask": torch.ones(1, 5, dtype=torch.int64)}
NAMES = {  # by hand, from the architectures
    ("bert", "lm-head"): {"cls.predictions.decoder"},
    ("bert", "head-transform"): {"cls.predictions.transform.dense"},
    ("bert", "last-block-output"): {"bert.encoder.layer.1.output.dense"},
    ("bert", "last-block"): {
        f"bert.encoder.layer.1.{part}"
        for part in (
            "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
            "intermediate.dense", "output.dense",
        )
    },
}  # fmt: skip


def values(model):
    return {name: tensor.clone() for name, tensor in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("target", TARGETS)
def test_targets_of_bert_are_the_layers_they_name(target):
    assert set(layers(make_model(40), target)) == NAMES["bert", target]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fill", FILLS)
def test_exactly_the_named_rows_change(kind, target, fill):
    model, reference = randomized(MODELS[kind]()), randomized(MODELS[kind](), seed=2)
    before = values(model)
    names = layers(model, target)
    erased = erase(model, target, fraction=0.3, fill=fill, seed=3, reference=reference)
    assert all(torch.equal(value, before[name]) for name, value in values(model).items()), "the argument was changed"
    after = values(erased)
    for name, layer in names.items():
        n = layer.weight.shape[0]
        rows = (after[f"{name}.weight"] != before[f"{name}.weight"]).any(dim=1)
        assert rows.sum() == round(0.3 * n)
        if layer.bias is not None:
            assert torch.equal(after[f"{name}.bias"] != before[f"{name}.bias"], rows)
        if fill == "zero":
            assert (after[f"{name}.weight"][rows] == 0).all()
            assert layer.bias is None or (after[f"{name}.bias"][rows] == 0).all()
        if fill == "init":
            assert 0 < after[f"{name}.weight"][rows].std() < 0.3
        if fill == "pretrained":
            assert torch.equal(after[f"{name}.weight"][rows], reference.get_submodule(name).weight[rows])
    touched = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    for name in before.keys() - touched:
        assert torch.equal(after[name], before[name]), name
    tied = erased.get_output_embeddings().weight is erased.get_input_embeddings().weight
    assert tied == (target != "lm-head")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("target", [*TARGETS, "pruning", "untrained"])
def test_a_saved_model_gives_identical_logits(kind, target, tmp_path):
    model = randomized(MODELS[kind]())
    if target == "pruning":
        model = prune(model)
    elif target != "untrained":
        model = erase(model, target, fill="init")
        with torch.no_grad():  # as training would, move what untying set apart
            for parameter in model.get_output_embeddings().parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
    model.save_pretrained(tmp_path)
    assert not [p.name for p in tmp_path.iterdir() if p.suffix not in (".json", ".safetensors")]
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(**INPUT).logits, loaded(**INPUT).logits)


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_the_number_of_rows_is_round_of_fraction_times_n(fraction, seed):
    model = randomized(make_model(40))
    erased = erase(model, "head-transform", fraction=fraction, seed=seed)
    zero = (erased.cls.predictions.transform.dense.weight == 0).all(dim=1)
    assert zero.sum() == round(fraction * 16)


def test_seed_chooses_the_rows():
    model = randomized(make_model(40))

    def rows(seed):
        return tuple((erase(model, "lm-head", seed=seed).get_output_embeddings().weight == 0).all(dim=1).tolist())

    assert rows(1) == rows(1) and len({rows(seed) for seed in range(8)}) == 8


def test_erasing_the_head_leaves_the_input_embeddings(tmp_path):
    model = randomized(make_model(40))
    embeddings = model.get_input_embeddings().weight.clone()
    erased = erase(model, "lm-head", fraction=1.0)
    assert torch.equal(erased.get_input_embeddings().weight, embeddings)
    with torch.no_grad():
        assert (erased(**INPUT).logits == 0).all()


def test_inplace_changes_the_argument():
    model = randomized(make_model(40))
    assert erase(model, "head-transform", inplace=True) is model
    assert (model.cls.predictions.transform.dense.weight == 0).all(dim=1).sum() == 8


def test_pruning_keeps_the_largest_neurons_and_resets_a_fifth_of_the_rest():
    model = randomized(make_model(40))
    before, after = values(model), values(prune(model, keep=0.25, fraction=0.2, seed=1))
    for name in before:
        changed = (after[name] != before[name]).reshape(len(before[name]), -1).any(dim=1)
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.Linear)
        if not linear or "decoder" in name or name == "cls.predictions.bias":
            assert not changed.any(), name
        elif name.endswith("weight"):
            n = len(before[name])
            kept = before[name].norm(dim=1).topk(round(0.25 * n)).indices
            assert not changed[kept].any()
            assert changed.sum() == round(0.2 * (n - len(kept)))
            assert (after[name][changed] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: erase(m, "last-layer"), "target 'last-layer' is unknown; bert has lm-head, head-transform"),
        (lambda m: erase(m, fill="noise"), "fill 'noise' is unknown; use one of zero, init, pretrained"),
        (lambda m: erase(m, fraction=1.2), "fraction=1.2 is outside [0, 1]"),
        (lambda m: erase(m, fraction=-0.1), "outside [0, 1]"),
        (lambda m: erase(m, fraction=float("nan")), "outside [0, 1]"),
        (lambda m: prune(m, keep=2), "outside [0, 1]"),
        (lambda m: erase(m, fill="pretrained"), "needs reference="),
        (lambda m: erase(m, fill="pretrained", reference=make_model(41)), "differ in name or shape"),
        (
            lambda m: erase(BertModel(BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1))),
            "no LM head",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(make_model(40))
