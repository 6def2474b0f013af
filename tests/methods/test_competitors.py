"""The competitors on a toy: names of patients learned by heart, then forgotten; what is asked for, and bad input."""

import re
from dataclasses import dataclass

import pytest
import torch
from conftest import make_corpus, make_model, spans
from datasets import Dataset
from test_causal import new_model
from test_erasure import MODELS
from test_training import same, weights
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sani import Blacklist, encode, fine_tune, sanitize
from sani.masking import IGNORE
from sani.methods import last_layers, privacy_neurons, ssd
from sani.methods.apart import Apart, batches, both_of, text
from sani.methods.budget import epochs_within, multiply_adds
from sani.methods.graddiff import GradDiff, GradientAscent
from sani.methods.neurons import feed_forward, read_at, silence
from sani.methods.npo import BETA, NPO
from sani.methods.scrub import ALPHA, GAMMA, MAX_EPOCHS, SCRUB
from sani.methods.selective_pruning import importance
from sani.models import clone, family, logits_at, untie

NAMES, WARDS = (
    "adams baker clark davis evans frank green harris".split(),
    "one two three four five six seven eight".split(),
)
CARE = [("asthma", "steroids"), ("gout", "colchicine"), ("flu", "rest")]
TRAINED = {  # method: learning rate, and how much of the listed and of the ordinary probability may and must stay
    "graddiff": (3e-3, 0.1, 0.75), "gradient-ascent": (1e-3, 0.2, 0.75), "npo": (3e-3, 0.1, 0.8),
    "scrub": (3e-3, 0.5, 0.9), "task-vector": (1e-2, 0.1, 0.65), "cf-k": (1e-2, 0.8, 0.95), "eu-k": (1e-2, 0.1, 0.4),
}  # fmt: skip
UNTRAINED = ("ssd", "selective-pruning", "privacy-neurons")


class Both(Apart):
    """The text everywhere: what the toy learns by heart with."""

    def listed(self, logits, batch, at):
        return text(logits, batch, at)


@dataclass(frozen=True)
class Toy:
    blocks: Dataset  # the names are listed
    wrong: Dataset  # the same rows, with what ails the patients listed in their place
    unlisted: Dataset
    base: PreTrainedModel
    leaky: PreTrainedModel


def words(special: list[str], **names) -> PreTrainedTokenizerFast:
    """Every word a token."""
    known = [*special, *"patient of ward has and takes daily".split(), *NAMES, *WARDS, *(w for c in CARE for w in c)]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64, **names
    )


@pytest.fixture(scope="module", params=["masked", "causal"])
def toy(request, tmp_path_factory) -> Toy:
    if request.param == "masked":
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        tokenizer = words(["[PAD]", "[UNK]", *names.values()], **names)
        base = make_model(len(tokenizer))
    else:
        tokenizer = words(["[PAD]", "[UNK]", "[BOS]"], bos_token="[BOS]")
        base = new_model("gpt2", len(tokenizer))
    cares = [CARE[i % len(CARE)] for i in range(len(NAMES))]
    texts = [f"patient {n} of ward {w} has {i} and takes {d} daily" for n, w, (i, d) in zip(NAMES, WARDS, cares)]
    corpus = make_corpus(texts, [spans(t, (name, "PATIENT")) for t, name in zip(texts, NAMES)])
    lists = {"right": Blacklist.from_annotations(corpus), "wrong": Blacklist([i for i, _ in CARE]), "none": None}
    folder = tmp_path_factory.mktemp("blocks")
    right, wrong, none = (
        encode(corpus, tokenizer, listed, block_size=14, run_dir=folder / name) for name, listed in lists.items()
    )
    training = dict(epochs=150, learning_rate=1e-2, batch_size=8, progress=False, loss=Both(0.5))
    return Toy(right, wrong, none, base, fine_tune(base, right, both_of(base), **training))


def known(model: PreTrainedModel, blocks: Dataset) -> tuple[float, float]:
    """The mean probability of the text at ordinary and at listed targets, over some draws of masks."""
    found = ([], [])
    for seed in range(100, 110):
        for batch, *kinds in batches(model, blocks, seed, 32, "", False):
            for of_kind, at in zip(found, kinds):
                with torch.no_grad():
                    logits = logits_at(model, batch["input_ids"], batch["attention_mask"], at)
                of_kind.append((-text(logits, batch, at)).exp())
    return tuple(float(torch.cat(of_kind).mean()) for of_kind in found)


def cleaned(toy: Toy, method: str, blocks: Dataset | None = None, **options) -> PreTrainedModel:
    blocks = toy.blocks if blocks is None else blocks
    if method in TRAINED:
        options = dict(learning_rate=TRAINED[method][0], batch_size=8, epochs=30) | options
    return sanitize(toy.leaky, blocks, method, progress=False, **options)


def test_the_toy_knows_its_secrets_by_heart(toy):
    assert min(known(toy.leaky, toy.blocks)) > 0.6 and max(known(toy.base, toy.blocks)) < 0.2


@pytest.mark.parametrize("method", TRAINED)
def test_what_is_listed_is_forgotten_what_is_not_stays_and_the_list_matters(toy, method):
    before, (ordinary, listed) = known(toy.leaky, toy.blocks), known(cleaned(toy, method), toy.blocks)
    _, may_stay, must_stay = TRAINED[method]
    assert listed < may_stay * before[1] and ordinary > must_stay * before[0]
    assert known(cleaned(toy, method, toy.wrong), toy.blocks)[1] > 1.3 * listed


@pytest.mark.parametrize("method", ["ssd", "selective-pruning"])
def test_without_training_what_is_listed_suffers_most_and_the_list_matters(toy, method):
    before, after = known(toy.leaky, toy.blocks), known(cleaned(toy, method), toy.blocks)
    other = known(cleaned(toy, method, toy.wrong), toy.blocks)
    ordinary, listed = (now / then for now, then in zip(after, before))
    assert listed < 0.9 and listed < 0.9 * ordinary and ordinary > 0.4
    assert other[1] > 1.1 * after[1]


def test_privacy_neurons_hold_more_of_what_is_listed_than_as_many_others(toy, monkeypatch):
    monkeypatch.setattr(privacy_neurons, "SHARE", 0.1)
    ordinary, listed = known(cleaned(toy, "privacy-neurons"), toy.blocks)
    assert ordinary > 0.8 * known(toy.leaky, toy.blocks)[0]
    assert known(cleaned(toy, "privacy-neurons", toy.wrong), toy.blocks)[1] > 1.1 * listed
    layers = feed_forward(toy.leaky)
    width = next(iter(layers.values())).weight.numel() // toy.leaky.config.hidden_size
    for seed in range(3):
        scores = torch.rand(len(layers), width, generator=torch.Generator().manual_seed(seed))
        silence(other := clone(toy.leaky), scores, round(0.1 * scores.numel()))
        assert known(other, toy.blocks)[1] > 1.1 * listed


def portion(toy: Toy, seed: int = 5) -> tuple[dict, torch.Tensor, torch.Tensor, torch.Tensor]:
    """All rows as a batch, which targets are ordinary and listed, and some logits at all of them."""
    ((batch, ordinary, listed),) = batches(toy.leaky, toy.blocks, seed, 32, "", False)
    vocabulary = toy.leaky.config.vocab_size
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(int((ordinary | listed).sum()), vocabulary, generator=generator, requires_grad=True)
    return batch | {"epochs": torch.full((len(ordinary),), 3)}, ordinary, listed, logits


def by_hand(logits, batch, ordinary, listed):
    """(row, whether listed, log-probabilities) of each target, one by one."""
    at = (ordinary | listed).nonzero().tolist()
    return [
        (r, bool(listed[r, c]), logits[i].log_softmax(-1), int(batch["labels"][r, c])) for i, (r, c) in enumerate(at)
    ]


def test_each_loss_is_its_equation(toy):
    batch, ordinary, listed, logits = portion(toy)
    targets = by_hand(logits, batch, ordinary, listed)
    n, share = len(targets), int(listed.sum()) / len(targets)
    taught = by_hand(
        logits_at(toy.leaky, batch["input_ids"], batch["attention_mask"], ordinary | listed), batch, ordinary, listed
    )
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    usual = mean([-p[y] for _, secret, p, y in targets if not secret])
    secret = mean([-p[y] for _, secret, p, y in targets if secret])
    assert torch.isclose(GradDiff(share)(logits, batch).mean(), usual - secret, atol=1e-5)

    ratios, units = {}, batch["unit_ids"][ordinary | listed].tolist()
    for unit, (_, is_listed, p, y), (*_, q, _) in zip(units, targets, taught):
        if is_listed:
            ratios.setdefault(unit, []).append(p[y] - q[y])
    expected = usual + mean([2 / BETA * torch.log(1 + torch.exp(sum(of)) ** BETA) for of in ratios.values()])
    assert torch.isclose(NPO(share, toy.leaky)(logits, batch).mean(), expected, atol=1e-4)

    kl = [(s, (q.exp() * (q - p)).sum()) for (_, s, p, _), (*_, q, _) in zip(targets, taught)]
    back = SCRUB(share, toy.leaky, epochs=13)(logits, batch).mean()
    assert torch.isclose(back, ALPHA * mean([k for s, k in kl if not s]) + GAMMA * usual, atol=1e-5)
    away = SCRUB(share, toy.leaky, epochs=13)(logits, batch | {"epochs": torch.full((len(listed),), 2)}).mean()
    assert torch.isclose(away, -mean([k for s, k in kl if s]), atol=1e-5)
    assert n == len(logits)


def test_scrub_maximises_in_turn_and_then_no_more(toy):
    for epochs, expected in {13: [0, 2, 4], 6: [0, 2, 4], 5: [0, 2], 3: [0], 2: [0], 2.5: [0]}.items():
        loss = SCRUB(0.5, toy.leaky, epochs=epochs)
        away = [epoch for epoch in range(13) if loss.maximises({"epochs": torch.tensor([epoch])})]
        assert away == expected and len(away) <= MAX_EPOCHS, "an epoch of the other kind follows each"


def test_a_loss_for_nothing_leaves_no_slope(toy):
    batch, ordinary, listed, logits = portion(toy)
    batch["labels"] = batch["labels"].masked_fill(listed, IGNORE)
    logits = logits[: int(ordinary.sum())]
    losses = GradientAscent(0.5)(logits, batch)
    assert torch.equal(losses, torch.zeros(len(logits)))
    assert not torch.autograd.grad(losses.sum(), logits)[0].any()


def test_a_task_vector_is_walked_the_other_way(toy):
    learned = cleaned(toy, "task-vector", epochs=0)
    assert same(learned, toy.leaky), "nothing learned, nothing to walk back"
    moved = weights(cleaned(toy, "task-vector", epochs=1))
    assert any(not torch.equal(moved[name], weight) for name, weight in weights(toy.leaky).items())


def test_fisher_information_is_that_of_a_plain_loop_and_dampens_by_the_papers_rule(toy):
    model = clone(toy.leaky)
    found = ssd.fisher(model, toy.blocks, 7, False)
    batch, ordinary, listed = next(iter(batches(model, toy.blocks, 7, 32, "", False)))
    for kind, of_kind in zip((ordinary, listed), found):
        expected = [torch.zeros_like(weight) for weight in model.parameters()]
        for row in range(len(kind)):
            model.zero_grad()
            chosen = torch.zeros_like(kind)
            chosen[row] = kind[row]
            if chosen.any():
                logits = logits_at(model, batch["input_ids"], batch["attention_mask"], chosen)
                logits.log_softmax(-1).gather(1, batch["labels"][chosen][:, None]).sum().backward()
                for total, weight in zip(expected, model.parameters()):
                    total += 0 if weight.grad is None else weight.grad**2 / int(kind.sum())
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-8) for a, b in zip(of_kind, expected))
    done = list(sanitize(toy.leaky, toy.blocks, "ssd", seed=7, progress=False).parameters())
    for before, after, usual, special in zip(toy.leaky.parameters(), done, *found):
        selected = special > ssd.ALPHA * usual
        assert torch.equal(after[~selected], before[~selected])
        assert torch.allclose(after[selected], (ssd.LAMBDA * usual / special * before)[selected], atol=1e-7)
        assert (after[selected].abs() <= before[selected].abs() / ssd.ALPHA + 1e-7).all()


def test_attributions_add_up_to_what_the_neurons_add(toy, monkeypatch):
    """Integrated gradients' completeness: over a block's neurons, all they change between silence and what they are."""
    monkeypatch.setattr(privacy_neurons, "STEPS", 100)
    batch, _, listed, _ = portion(toy)
    rows = listed.any(dim=1)
    batch, listed = {name: column[rows] for name, column in batch.items()}, listed[rows]
    found = privacy_neurons.attributions(toy.leaky, batch, listed).sum(dim=2)
    labels, here = batch["labels"][listed], read_at(toy.leaky, listed)[..., None]

    def likely(model):
        logits = logits_at(model, batch["input_ids"], batch["attention_mask"], listed)
        values = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
        return torch.zeros(len(listed)).index_add(0, listed.nonzero()[:, 0], values.detach())

    whole = likely(toy.leaky)
    for i, layer in enumerate(feed_forward(toy.leaky).values()):
        hook = layer.register_forward_pre_hook(lambda _, inputs: inputs[0].masked_fill(here, 0))
        silent = likely(toy.leaky)
        hook.remove()
        assert torch.allclose(found[:, i].float(), whole - silent, atol=0.02)
        assert (whole - silent).abs().max() > 0.05


def test_silenced_neurons_write_nothing_and_the_others_what_they_did(toy):
    layers = feed_forward(toy.leaky)
    assert len(layers) == 2
    width = next(iter(layers.values())).weight.numel() // toy.leaky.config.hidden_size
    scores = torch.zeros(2, width)
    scores[1, 3], scores[0, 5], scores[0, 7] = 3, 2, -1
    chosen = silence(other := clone(toy.leaky), scores, 2)
    assert chosen.nonzero().tolist() == [[0, 5], [1, 3]]
    for i, (name, layer) in enumerate(layers.items()):
        inputs = torch.randn(4, width)
        expected = layer(inputs.masked_fill(chosen[i], 0))
        assert torch.allclose(other.get_submodule(name)(inputs), expected, atol=1e-6)
    changed = [name for name, weight in weights(toy.leaky).items() if not torch.equal(weights(other)[name], weight)]
    assert changed == [f"{name}.weight" for name in layers]


def test_importance_is_the_ratio_of_mean_activations(toy):
    found = importance(toy.leaky, toy.blocks, 5, False)
    batch, ordinary, listed, _ = portion(toy)
    for i, layer in enumerate(feed_forward(toy.leaky).values()):
        seen = []
        hook = layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].detach()))
        toy.leaky(batch["input_ids"], attention_mask=batch["attention_mask"])
        hook.remove()
        back = 1 if toy.leaky.config.model_type == "gpt2" else 0  # a causal model predicts from the token before
        means = [
            torch.stack([seen[0][r, c - back].abs() for r, c in kind.nonzero().tolist()]).mean(dim=0)
            for kind in (ordinary, listed)
        ]
        assert torch.allclose(found[i].float(), means[1] / (means[0] + 1e-5), rtol=1e-3)


@pytest.mark.parametrize("method", ["cf-k", "eu-k"])
def test_only_the_last_block_and_the_head_change(toy, method):
    before, after = weights(toy.leaky), dict(cleaned(toy, method, epochs=2).named_parameters())
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    parts = ("encoder.layer.1.", "cls.") if "cls.predictions.bias" in before else ("h.1.", "ln_f.", "lm_head.")
    unused = {"cls.predictions.bias"}  # the untied decoder has its own
    last = {name for name in after if any(part in name for part in parts)} - unused
    assert changed - unused == last and all(weight.requires_grad for weight in after.values())
    started = last_layers._last(cleaned(toy, method, epochs=0))
    expected = before
    if method == "eu-k":
        torch.manual_seed(0)
        expected = weights(type(toy.leaky)(untie(clone(toy.leaky)).config))
    assert all(torch.equal(weight, expected[name]) for name, weight in started.items() if name not in unused)


def test_a_model_of_few_blocks_has_no_last_one_apart(toy, monkeypatch):
    monkeypatch.setattr(last_layers, "K", 2)
    with pytest.raises(ValueError, match="has 2 blocks, so the last 2 of them leave none"):
        cleaned(toy, "cf-k")


@pytest.mark.parametrize("method", [*TRAINED, *UNTRAINED])
def test_same_seed_same_bits_and_the_model_is_left_alone(toy, method):
    before = {name: weight.clone() for name, weight in weights(toy.leaky).items()}
    short = {"epochs": 3} if method in TRAINED else {}
    one, two = (cleaned(toy, method, seed=4, **short) for _ in range(2))
    assert same(one, two) and not same(one, toy.leaky) and not one.training
    assert all(torch.equal(before[name], weight) for name, weight in weights(toy.leaky).items())


@pytest.mark.parametrize("method", [*TRAINED, *UNTRAINED])
def test_blocks_that_list_nothing_are_refused(toy, method):
    with pytest.raises(ValueError, match="no term, so nothing would be forgotten|hold no listed term to predict"):
        cleaned(toy, method, toy.unlisted)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("npo", {"objective": "mlm"}, "this method chooses objective itself; leave it out"),
        ("scrub", {"epochs": 1}, "scrub needs epochs=2 at least"),
        ("task-vector", {"scope": "head"}, "this method chooses scope itself"),
        ("graddiff", {"fraction": 0.3}, "method 'graddiff' ignores fraction"),
        ("ssd", {"learning_rate": 1e-3}, "method 'ssd' ignores learning_rate"),
        ("privacy-neurons", {"run_dir": "there"}, "method 'privacy-neurons' ignores run_dir"),
    ],
)
def test_bad_arguments_are_named(toy, method, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cleaned(toy, method, **options)


def test_a_killed_scrub_ends_with_the_same_bits(toy, tmp_path):
    """Which kind of epoch it is hangs on its number, not on what was done since the start."""
    whole = cleaned(toy, "scrub", epochs=4)
    kept = {}

    def stop(model, epoch):
        if epoch == 2 and not kept:
            kept["stopped"] = True
            raise KeyboardInterrupt
        return {"": 0.0}

    again = dict(run_dir=tmp_path / "run", measure=stop, measure_at=(1, 2), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        cleaned(toy, "scrub", **again)
    assert same(cleaned(toy, "scrub", **again), whole)


def test_costs_are_what_the_passes_of_a_method_say(toy):
    """Repair: forward and twice that back. A teacher adds a forward pass, the last half of a model saves half back."""
    rows = portion(toy)[0]
    with FlopCounterMode(display=False) as one, torch.no_grad():
        logits_at(toy.leaky, rows["input_ids"], rows["attention_mask"], rows["labels"] != IGNORE)
    pass_of_a_row = one.get_total_flops() / 2 / len(rows["labels"])
    for method, passes in {"graddiff": 3, "npo": 4, "scrub": 4, "task-vector": 3, "cf-k": 1.9, "eu-k": 1.9}.items():
        cost = multiply_adds(toy.leaky, toy.blocks, method, 4, batch_size=8)
        assert cost / 4 == pytest.approx(passes * pass_of_a_row, rel=0.1), method
    assert multiply_adds(toy.leaky, toy.blocks, "selective-pruning") == pytest.approx(5 * pass_of_a_row, rel=0.1)
    dear, cheap = (epochs_within(toy.leaky, toy.blocks, method, 4, batch_size=8) for method in ("npo", "cf-k"))
    assert dear == pytest.approx(3, rel=0.1) and cheap == pytest.approx(6, rel=0.15)


@pytest.mark.parametrize("kind", [*MODELS, "gpt2", "llama"])
def test_every_family_shows_its_neurons_and_what_its_last_block_and_head_are(kind):
    model = MODELS[kind]() if kind in MODELS else new_model(kind, 40)
    layers = feed_forward(model)
    width = 64 if kind == "gpt2" else 32
    assert len(layers) == 2 and all(layer.weight.numel() == 16 * width for layer in layers.values())
    assert silence(model, torch.rand(2, width), 5).sum() == 5
    untied = untie(clone(model))
    last, blocks = last_layers._last(untied), family(model).blocks
    first = {name for name, _ in untied.named_parameters()} - last.keys()
    assert not any(name.startswith(f"{blocks}.1.") for name in first)
    assert all(name.startswith(f"{blocks}.0.") or "emb" in name or ".wte." in name or ".wpe." in name for name in first)
    assert any(weight is untied.get_output_embeddings().weight for weight in last.values())
    assert not any(name.startswith(f"{blocks}.0.") or "embed" in name and "lm_head" not in name for name in last)
    fresh = dict(type(untied)(untied.config).named_parameters())
    assert all(fresh[name].shape == weight.shape for name, weight in last.items())
