"""Erasure and pruning: which rows change, and that a saved model is the model."""

import re
from types import SimpleNamespace

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

import sani
from sani import Blacklist, encode, erase, evaluate, importance, sanitize
from sani.blocks import tensors
from sani.erasure import FILLS, NEURONS, TARGETS, block_targets, layers
from sani.importance import activation, magnitude
from sani.methods.pruning import prune


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


def spoiled(model):
    with torch.no_grad():
        model.cls.predictions.transform.dense.bias[3] = torch.nan
    return model


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


@pytest.mark.parametrize("kind", MODELS)
def test_blocks_are_targets_too_and_the_last_is_the_reading(kind):
    model = MODELS[kind]()
    assert block_targets(model) == ("block-0", "block-1")
    assert layers(model, "block-1").keys() == layers(model, "last-block").keys()
    assert not layers(model, "block-0").keys() & layers(model, "last-block").keys()
    assert len(layers(model, "block-0")) == len(layers(model, "block-1"))


def test_the_neurons_with_the_highest_scores_go():
    model = randomized(make_model(40))
    scores = {"cls.predictions.transform.dense": torch.tensor([3.0, 9, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2])}
    erased = erase(model, "head-transform", fraction=0.25, scores=scores)
    zero = (erased.cls.predictions.transform.dense.weight == 0).all(dim=1)
    assert zero.nonzero().squeeze(1).tolist() == [0, 1, 3, 15]


def test_magnitude_is_the_norm_of_each_row():
    model = make_model(40)
    dense = model.cls.predictions.transform.dense
    with torch.no_grad():
        dense.weight.zero_()
        dense.weight[2, :2] = torch.tensor([3.0, -4.0])
    (norms,) = magnitude(model, "head-transform").values()
    assert norms.tolist() == [0, 0, 5, *[0] * 13]


@pytest.mark.parametrize("target", [*TARGETS, "block-0"])
def test_activity_against_a_loop_over_positions(target, corpus, wordpiece):
    """Each unit masked with its fold; the whole model run by itself, outputs read at every masked token."""
    from sani.predictions import layout

    model = randomized(make_model(len(wordpiece)))
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32, progress=False)
    found = activation(model, blocks, target, batch_size=3, progress=False)
    laid = layout(blocks, -1)
    columns, units, tokens, folds = laid.columns, laid.table, laid.tokens, laid.folds
    rows, places = divmod(tokens["position"], 32)
    sums = {name: {True: [], False: []} for name in found}
    outputs = {}
    for name in found:
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o}))
    for row in range(len(blocks)):
        for fold in range(folds.max() + 1):
            here = [t for t in range(len(rows)) if rows[t] == row and folds[tokens["unit"][t]] == fold]
            inputs = columns["input_ids"][row].clone()
            inputs[places[here]] = wordpiece.mask_token_id
            with torch.no_grad():
                model(input_ids=inputs[None], attention_mask=columns["attention_mask"][row][None])
            for t in here:
                listed = units["kind"].iloc[tokens["unit"][t]] != "none"
                for name in found:
                    activation_of = name.endswith(("intermediate.dense", "transform.dense"))
                    output = outputs[name][0, places[t]]
                    sums[name][listed].append((torch.nn.functional.gelu(output) if activation_of else output).abs())
    for name, scores in found.items():
        means = {listed: torch.stack(values).mean(dim=0) for listed, values in sums[name].items()}
        torch.testing.assert_close(scores, means[True] / means[False].clamp(min=1e-12), rtol=1e-4, atol=1e-5)


def test_activity_finds_the_neuron_that_fires_on_listed_terms(corpus):
    """GPT-2, teacher forcing: the output of a block is read where the next token is a listed one."""
    from test_causal import byte_level, new_model

    from sani.models import add_padding

    tokenizer = byte_level()
    model = new_model("gpt2", len(tokenizer))
    add_padding(model, tokenizer)
    blocks = encode(corpus, tokenizer, Blacklist.from_annotations(corpus), block_size=32, progress=False)
    outputs = []
    layer = model.transformer.h[1].mlp.c_proj
    hook = layer.register_forward_hook(lambda m, i, o: outputs.append(o))
    columns = tensors(blocks)
    with torch.no_grad():
        model(input_ids=columns["input_ids"], attention_mask=columns["attention_mask"])
    hook.remove()
    text, listed = columns["unit_ids"][:, 1:] >= 0, columns["sensitive"][:, 1:] > 0
    before = outputs[0][:, :-1].abs()
    expected = before[text & listed].mean(dim=0) / before[text & ~listed].mean(dim=0)
    (scores,) = activation(model, blocks, "last-block-output", progress=False).values()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neurons", NEURONS)
def test_sanitize_erases_the_chosen_neurons(neurons, corpus, wordpiece):
    model = randomized(make_model(len(wordpiece)))
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32, progress=False)
    made = sanitize(model, blocks, epochs=0, target="head-transform", neurons=neurons, seed=3, progress=False)
    score = {"random": None, "magnitude": magnitude(model, "head-transform"),
             "activation": activation(model, blocks, "head-transform", progress=False)}[neurons]  # fmt: skip
    zero = (made.cls.predictions.transform.dense.weight == 0).all(dim=1)
    if score is None:
        assert values(made).keys() == values(model).keys() and zero.sum() == 8
    else:
        (scores,) = score.values()
        assert set(zero.nonzero().squeeze(1).tolist()) == set(scores.topk(8).indices.tolist())
    assert not evaluate(made, blocks, progress=False).units.empty


def test_activity_needs_listed_terms_and_others(corpus, wordpiece):
    blocks = encode(corpus, wordpiece, block_size=32, progress=False)
    with pytest.raises(ValueError, match="no listed term"):
        activation(make_model(len(wordpiece)), blocks, "lm-head", progress=False)


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
        (lambda m: erase(m, "last-layer"), "target 'last-layer' is unknown; this bert has lm-head, head-transform"),
        (lambda m: erase(m, "block-2"), "target 'block-2' is unknown; this bert has lm-head"),
        (lambda m: erase(m, "head-transform", scores={}), "one finite value per neuron"),
        (
            lambda m: erase(
                m, "head-transform", scores={"cls.predictions.transform.dense": torch.full((16,), torch.nan)}
            ),
            "one finite value per neuron",
        ),
        (
            lambda m: importance.scores_of(m, None, "lm-head", "best"),
            "neurons 'best' is unknown; use one of random, magnitude, activation",
        ),
        (lambda m: erase(m, fill="noise"), "fill 'noise' is unknown; use one of zero, init, pretrained"),
        (lambda m: erase(m, fraction=1.2), "fraction=1.2 is out of range: it must be at least 0 and at most 1"),
        (lambda m: erase(m, fraction=-0.1), "fraction=-0.1 is out of range"),
        (lambda m: erase(m, fraction=float("nan")), "fraction=nan is out of range"),
        (lambda m: erase(m, seed=-1), "seed=-1 is out of range"),
        (lambda m: prune(m, keep=2), "keep=2 is out of range"),
        (lambda m: prune(m, seed=1 << 32), "seed=4294967296 is out of range"),
        (lambda m: erase(m.half()), "the model's weights are torch.float16 (bert.embeddings"),
        (lambda m: prune(spoiled(m)), "no numbers (NaN or infinite, in cls.predictions.transform.dense.bias)"),
        (lambda m: erase(m, fill="pretrained", reference=spoiled(make_model(40))), "the reference's weights are no"),
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: erase(m, fraction="half"), "fraction must be a number, not a str"),
        (lambda m: erase(m, seed=None), "seed must be a whole number, not None"),
        (lambda m: erase(m, seed=1.5), "seed must be a whole number, not 1.5"),
        (lambda m: prune(m, fraction=True), "fraction must be a number, not True"),
        (lambda m: prune("tiny-bert"), "the model is a str; load it with sani.load_model"),
        (lambda m: erase(None), "the model is a NoneType; load it with sani.load_model"),
        (lambda m: erase(m, fill="pretrained", reference="tiny-bert"), "the reference is a str"),
        (lambda m: erase(SimpleNamespace(peft_config={})), "wrapped by PEFT; fold its adapter in first"),
    ],
)
def test_bad_kinds_are_named_and_nothing_is_erased(call, message, monkeypatch):
    monkeypatch.setattr(sani.erasure, "clone", None)
    monkeypatch.setattr(sani.erasure, "reset", None)
    with pytest.raises(TypeError, match=re.escape(message)):
        call(make_model(40))
