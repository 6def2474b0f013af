"""GPT-2 and Llama-like models take the same road: padding of their own, CLM and PPCLM, erasure, teacher forcing."""

import itertools

import numpy as np
import pytest
import torch
from conftest import TEXTS, make_corpus, make_model, make_tokenizer, spans
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import sani
from sani.attacks.generation import free_generation
from sani.attacks.prompts import bare_prompts
from sani.blocks import info, tensors
from sani.erasure import layers, targets
from sani.masking import IGNORE, DataCollatorForPPCLM, clm, ppclm
from sani.methods.pruning import prune
from sani.models import FAMILIES, PAD, clone, logits_at
from sani.predictions import layout, passes, portions, predict, takes_masks
from sani.study.setting import Setting

KINDS = ("gpt2", "llama")


def byte_level(bos: str = "<|endoftext|>", eos: str = "<|endoftext|>", pad: str | None = None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(filter(None, (bos, eos, pad))))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, model_max_length=64
    )


def new_model(kind: str, vocabulary: int, dropout: float = 0.0, tied: bool = True, seed: int = 0):
    torch.manual_seed(seed)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return GPT2LMHeadModel(config).eval()
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2, attention_dropout=dropout,
        tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def loaded(kind, tmp_path):
    """A model and tokenizer as `load_model` reads them from a folder that knows no padding."""
    tokenizer = byte_level()
    folder = tmp_path / "there"
    new_model(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sani.load_model(folder)


def rows_of(tokenizer, corpus, **options):
    blacklist = options.pop("blacklist", None) or sani.Blacklist.from_annotations(corpus)
    return sani.encode(corpus, tokenizer, blacklist, block_size=options.pop("block_size", 48), **options)


# --- padding


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_a_model_without_padding_of_its_own_gets_one(kind, pad, tmp_path):
    tokenizer = byte_level(pad=pad)
    before = new_model(kind, len(tokenizer))
    before.save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    state = torch.random.get_rng_state()
    model, known = sani.load_model(tmp_path / "a")
    assert torch.equal(state, torch.random.get_rng_state())
    assert known.pad_token == PAD and known.pad_token_id == len(tokenizer) == model.config.pad_token_id
    matrix = model.get_input_embeddings().weight
    assert torch.equal(matrix[:-1], before.get_input_embeddings().weight)
    assert torch.allclose(matrix[-1], matrix[:-1].mean(dim=0))
    assert model.get_output_embeddings().weight is matrix

    model.save_pretrained(tmp_path / "b")
    known.save_pretrained(tmp_path / "b")
    again, told = sani.load_model(tmp_path / "b")
    assert len(told) == len(known) and told.pad_token_id == known.pad_token_id
    ids = torch.randint(0, len(known), (2, 9))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_padding_of_its_own_is_kept(tmp_path):
    tokenizer = byte_level(pad="<pad>")
    new_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    model, known = sani.load_model(tmp_path / "a")
    assert known.pad_token == "<pad>" and len(known) == len(tokenizer) == model.config.vocab_size


def test_a_vocabulary_with_spare_rows_is_not_widened(tmp_path):
    tokenizer = byte_level()
    new_model("llama", len(tokenizer) + 20, tied=False).save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    model, known = sani.load_model(tmp_path / "a")
    assert known.pad_token_id == len(tokenizer) and model.config.vocab_size == len(tokenizer) + 20


def test_the_config_tells_the_family(loaded, tmp_path):
    assert Setting(model=str(tmp_path / "there")).causal
    assert not Setting(model="tiny-bert").causal


# --- rows and objectives


def test_rows_and_their_records_begin_with_bos(loaded):
    _, tokenizer = loaded
    corpus = make_corpus(
        ["The patient May Smith was seen.", "Call May Smith."],
        [spans("The patient May Smith was seen.", ("May Smith", "PATIENT")), []],
    )
    blocks = rows_of(tokenizer, corpus)
    told, columns = info(blocks), tensors(blocks)
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    first, second = (tokenizer(text)["input_ids"] for text in corpus["text"])
    content = [bos, *first, bos, *second]
    assert columns["input_ids"][0].tolist() == content + [pad] * (48 - len(content))
    assert columns["attention_mask"][0].tolist() == [1] * len(content) + [0] * (48 - len(content))
    assert columns["unit_ids"][0, 0] == columns["unit_ids"][0, 1 + len(first)] == -1
    assert told["causal"] and told["bos_token_id"] == bos and told["mask_token_id"] is None


@pytest.mark.parametrize("size", [8, 17, 33])
def test_no_text_is_lost_or_doubled_whatever_the_row(loaded, corpus, size):
    _, tokenizer = loaded
    blocks = sani.encode(corpus, tokenizer, block_size=size)
    columns = tensors(blocks)
    text = columns["unit_ids"] >= 0
    expected = list(itertools.chain.from_iterable(tokenizer(t)["input_ids"] for t in corpus["text"]))
    assert columns["input_ids"][text].tolist() == expected
    assert (columns["input_ids"][:, 0] == tokenizer.bos_token_id).all()


def test_clm_and_ppclm_by_hand():
    rows = {
        "input_ids": torch.tensor([[0, 11, 12, 13, 14, 0, 15, 9]]),
        "word_ids": torch.tensor([[-1, 0, 1, 1, 2, -1, 3, -1]]),
        "unit_ids": torch.tensor([[-1, 0, 1, 1, 2, -1, 3, -1]]),
        "sensitive": torch.tensor([[-1, 0, 1, 1, 0, -1, 0, -1]]),
    }
    ids, labels = clm(rows, 9)
    assert ids.tolist() == rows["input_ids"].tolist()
    assert labels.tolist() == [[IGNORE, 11, 12, 13, 14, IGNORE, 15, IGNORE]]
    ids, labels = ppclm(rows, 9)
    assert ids.tolist() == [[0, 11, 9, 9, 14, 0, 15, 9]]
    assert labels.tolist() == [[IGNORE, 11, IGNORE, IGNORE, 14, IGNORE, 15, IGNORE]]


def test_logits_at_are_those_of_the_token_before(loaded):
    model, tokenizer = loaded
    ids, mask = torch.randint(1, len(tokenizer), (3, 10)), torch.ones(3, 10, dtype=torch.int64)
    chosen = torch.rand(3, 10) < 0.4
    chosen[:, 0] = False
    with torch.no_grad():
        few = logits_at(model, ids, mask, chosen)
        assert torch.allclose(few, model(ids, attention_mask=mask).logits[:, :-1][chosen[:, 1:]], atol=1e-6)


@pytest.mark.parametrize("target", ["lm-head", "last-block-output", None])
def test_repair_cannot_tell_which_terms_were_listed(loaded, target):
    """The guarantee of PPCLM: other terms of as many tokens in their place end with the same weights, bit for bit."""
    model, tokenizer = loaded
    digits = [f"{n:04d}" for n in range(1000, 10000, 7)]
    by_length = {}
    for value in digits:
        by_length.setdefault(len(tokenizer(" " + value)["input_ids"]), []).append(value)
    names = max(by_length.values(), key=len)
    pattern = "The record {} of John was seen in May, and {} again with a cough at the hospital."

    def blocks(values):
        texts, found = [], []
        for a, b in zip(values[::2], values[1::2]):
            texts.append(pattern.format(a, b))
            found.append([span for value in (a, b) for span in spans(texts[-1], (value, "ID"))])
        corpus = make_corpus(texts, found)
        blacklist = sani.Blacklist.from_annotations(corpus, ambiguous="span")
        return sani.encode(corpus, tokenizer, blacklist, block_size=48, progress=False)

    one, other = blocks(names[:8]), blocks(names[8:16])
    listed = tensors(one, "sensitive")["sensitive"] > 0
    assert listed.any() and not torch.equal(
        tensors(one, "input_ids")["input_ids"], tensors(other, "input_ids")["input_ids"]
    )
    start = sani.erase(model, target) if target else model
    options = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 2, "progress": False}
    ends = [sani.repair(start, rows, **options).state_dict() for rows in (one, other)]
    assert any(not torch.equal(ends[0][name], tensor) for name, tensor in start.state_dict().items())
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name
    raw = [sani.fine_tune(start, rows, **options).state_dict() for rows in (one, other)]
    assert any(not torch.equal(raw[0][name], raw[1][name]) for name in raw[0])


def test_a_model_read_back_repairs_like_the_one_in_memory(loaded, corpus, tmp_path):
    model, tokenizer = loaded
    blocks = rows_of(tokenizer, corpus)
    model.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    ends = [
        sani.repair(start, blocks, epochs=2, learning_rate=1e-2, progress=False).state_dict()
        for start in (model, AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32))
    ]
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name


def test_objective_and_rows_must_fit_the_model(loaded, corpus, monkeypatch):
    model, tokenizer = loaded
    blocks = rows_of(tokenizer, corpus)
    monkeypatch.setattr(sani.training, "logits_at", None)  # no training may start
    with pytest.raises(ValueError, match="'mlm' is not for a .*use clm or ppclm"):
        sani.fine_tune(model, blocks, "mlm", epochs=1)
    wordpiece = make_tokenizer("wordpiece")
    masked = sani.encode(corpus, wordpiece, sani.Blacklist.from_annotations(corpus), block_size=64)
    with pytest.raises(ValueError, match="model's own tokenizer"):
        sani.fine_tune(model, masked, epochs=1)
    with pytest.raises(ValueError, match="model's own tokenizer"):
        sani.evaluate(make_model(1000), blocks)
    with pytest.raises(ValueError, match="'clm' is not for a bert"):
        sani.fine_tune(make_model(len(wordpiece)), masked, "clm", epochs=1)


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_a_tokenizer_without_padding_of_its_own_is_refused(corpus, pad):
    with pytest.raises(ValueError, match="sani.load_model"):
        sani.encode(corpus, byte_level(pad=pad))
    with pytest.raises(ValueError, match="sani.load_model"):
        DataCollatorForPPCLM(byte_level(pad=pad))


def test_collator_in_a_trainer(loaded, corpus, tmp_path):
    model, tokenizer = loaded
    blocks = rows_of(tokenizer, corpus)
    collator = DataCollatorForPPCLM(tokenizer)
    batch = collator([blocks[0]])
    listed = tensors(blocks)["sensitive"][:1] > 0
    assert (batch["input_ids"][listed] == tokenizer.pad_token_id).all() and not batch["attention_mask"][listed].any()
    assert (batch["labels"][listed] == IGNORE).all() and (batch["labels"] != IGNORE).any()
    options = {"max_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    arguments = TrainingArguments(tmp_path / "t", remove_unused_columns=False, **options)
    Trainer(model, arguments, train_dataset=blocks, data_collator=collator).train()
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        Trainer(
            model, TrainingArguments(tmp_path / "u", **options), train_dataset=blocks, data_collator=collator
        ).train()


# --- erasure


def test_targets_of_the_family(loaded):
    model, _ = loaded
    assert targets(model) == ("lm-head", "last-block-output", "last-block")
    with pytest.raises(ValueError, match="not in a .* has lm-head, last-block-output, last-block"):
        sani.erase(model, "head-transform")


def test_unless_another_target_is_asked_for_the_last_block_is_erased(loaded):
    model = loaded[0]
    erased, asked = sani.erase(model, seed=3), sani.erase(model, "last-block", seed=3)
    assert all(torch.equal(one, other) for one, other in zip(erased.parameters(), asked.parameters(), strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(erased.parameters(), model.parameters()))


@pytest.mark.parametrize("target", ["lm-head", "last-block-output", "last-block"])
@pytest.mark.parametrize("fill", ["zero", "init", "pretrained"])
def test_erasure_resets_half_of_the_neurons_and_nothing_else(loaded, kind, target, fill, tmp_path):
    model, tokenizer = loaded
    reference = new_model(kind, len(tokenizer), seed=1)
    erased = sani.erase(model, target, 0.5, fill, seed=3, reference=reference)
    touched = {f"{name}.{part}" for name in layers(model, target) for part in ("weight", "bias")}
    before, after = model.state_dict(), erased.state_dict()
    for name, tensor in before.items():
        if name not in touched:
            assert torch.equal(tensor, after[name]), name
    for name, layer in layers(erased, target).items():
        old, new = before[f"{name}.weight"], layer.weight.detach()
        like = reference.get_submodule(name).weight.detach()
        if kind == "gpt2" and target != "lm-head":  # Conv1D: a neuron is a column
            old, new, like = old.T, new.T, like.T
        changed = (old != new).any(dim=1)
        assert changed.sum() == round(0.5 * len(old)), name
        if fill == "zero":
            assert not new[changed].any()
        if fill == "pretrained":
            assert torch.equal(new[changed], like[changed])
        if fill == "init":
            assert 0 < new[changed].std() < 0.3
    if target == "lm-head":
        assert torch.equal(erased.get_input_embeddings().weight, model.get_input_embeddings().weight)

    erased.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, _ = sani.load_model(tmp_path / "saved")
    ids = torch.randint(0, len(tokenizer), (2, 11))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, erased(ids).logits)


def test_pruning_reaches_conv1d(loaded):
    model, _ = loaded
    pruned = prune(model)
    output = model.get_output_embeddings().weight
    assert torch.equal(pruned.get_output_embeddings().weight, output)
    for name, layer in layers(pruned, "last-block").items():
        matrix = layer.weight.T if type(layer).__name__ == "Conv1D" else layer.weight
        others = len(matrix) - max(1, round(0.01 * len(matrix)))
        assert (~matrix.any(dim=1)).sum() == round(0.2 * others), name


# --- evaluation


def reference_predictions(model, blocks, context):
    """One token at a time, each from the true tokens before it, as the context shows them.

    And whether `isolated` takes one pass: because the n-th mentions, a pass over their rows for each n, take more.
    """
    columns, told = tensors(blocks), info(blocks)
    term, unit = columns["term_ids"], columns["unit_ids"]
    mentions = [{t: unit[row][term[row] == t].unique().tolist() for t in set(term[row].tolist()) - {-1}}
                for row in range(len(blocks))]  # fmt: skip
    at_once = sum(max((len(units) for units in of.values()), default=1) - 1 for of in mentions) > len(blocks)
    found = {}
    for row, of in enumerate(mentions):
        ids = columns["input_ids"][row]
        for at in range(1, len(ids)):
            if unit[row, at] < 0 or (context == "isolated" and term[row, at] < 0):
                continue
            hide = torch.zeros(len(ids), dtype=torch.bool)
            if context == "padded":
                hide = columns["sensitive"][row] > 0
            elif context == "isolated":
                rank = of[int(term[row, at])].index(int(unit[row, at]))
                for units in of.values():
                    before = units[:rank] if rank < len(units) else []
                    if at_once:
                        before = [u for u in units if u < unit[row, at]] if rank > 0 and len(units) > 1 else []
                    hide |= torch.isin(unit[row], torch.tensor(before, dtype=torch.int64))
            inputs = ids.masked_fill(hide, told["pad_token_id"])[None, :at]
            mask = (columns["attention_mask"][row] * ~hide)[None, :at]
            with torch.no_grad():
                found[row, at] = model(inputs, attention_mask=mask).logits[0, -1].argmax().item()
    return found, at_once


# Mentions side by side, of one term and of two; more of them than there are rows, or rows without any besides.
MENTIONS = "John Smith saw Jane. Jane saw John Smith and May; John Smith left Jane at 71. Jane Jane John Smith John."
NAMED = sani.Blacklist(["John Smith", "Jane", "John"])


@pytest.mark.parametrize(("context", "rows_besides"), [("visible", 0), ("padded", 0), ("isolated", 0), ("isolated", 9)])
def test_evaluation_equals_predicting_token_by_token(loaded, context, rows_besides):
    model, tokenizer = loaded
    texts = [MENTIONS, MENTIONS[20:], *["The cough went on."] * 9 * rows_besides]
    blocks = rows_of(tokenizer, make_corpus(texts), block_size=64, blacklist=NAMED)
    model = sani.fine_tune(model, blocks.select([0, 1]), epochs=30, learning_rate=2e-2, batch_size=1, progress=False)
    report = sani.evaluate(model, blocks, progress=False)
    expected, at_once = reference_predictions(model, blocks, context)
    assert at_once == (not rows_besides)
    columns = tensors(blocks)
    right = {}
    for (row, at), best in expected.items():
        unit = columns["unit_ids"][row, at].item()
        right.setdefault(unit, []).append(best == columns["input_ids"][row, at].item())
    units = report.units.set_index("unit_id")
    listed = units[units["term_id"] >= 0].index
    column = {"visible": "in_place", "padded": "in_place_padded", "isolated": "in_place_isolated"}[context]
    assert units.loc[listed, column].tolist() == [all(right[unit]) for unit in listed]
    assert 0 < units.loc[listed, "in_place"].sum()
    if context != "isolated":
        name = "correct" if context == "visible" else "correct_padded"
        assert units[name].tolist() == [sum(right[unit]) for unit in units.index]
        ordinary = [flag for unit in units.index if unit not in listed for flag in right[unit]]
        assert report.value("utility", "none", context=context) == pytest.approx(np.mean(ordinary))


def test_mentions_hidden_from_each_other_in_one_pass_as_in_one_pass_each(loaded):
    """Every token of a later mention, by its logits: what a pass of its own without the earlier ones gives."""
    model, tokenizer = loaded
    blocks = rows_of(tokenizer, make_corpus([MENTIONS] * 2), block_size=64, blacklist=NAMED)
    units = layout(blocks, 0)
    (work,) = passes(units, True, ("isolated",))
    assert work.alone is not None and work.chosen.any()
    (part,) = portions(model, blocks, [work], 32)
    columns, pad, at = units.columns, tokenizer.pad_token_id, part.chosen.nonzero()
    assert len(at) == len(part.output)
    for (row, position), logits in zip(at.tolist(), part.output):
        own = columns["unit_ids"][row, position]
        term, unit = columns["term_ids"][row], columns["unit_ids"][row]
        often = torch.tensor([t for t in term.unique() if t >= 0 and len(unit[term == t].unique()) > 1])
        earlier = torch.isin(term, often) & (unit < own)
        ids = columns["input_ids"][row].masked_fill(earlier, pad)[None, :position]
        with torch.no_grad():
            alone = model(ids, attention_mask=(ids != pad).long()).logits[0, -1]
        torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


def test_evaluation_takes_three_passes_at_most(loaded):
    """However often a row repeats its terms."""
    model, tokenizer = loaded
    text = "Jane saw May. " * 12
    corpus, blacklist = make_corpus([text, "The cough went on."]), sani.Blacklist(["Jane", "May"])
    blocks = rows_of(tokenizer, corpus, block_size=64, blacklist=blacklist)
    rows = []
    model.base_model.register_forward_pre_hook(lambda *call: rows.append(len(call[2]["input_ids"])), with_kwargs=True)
    units = layout(blocks, 0)
    predict(model, units, blocks, 1, False)
    assert units.table.groupby("term_id").size().max() > 10
    assert sum(rows) <= 3 * len(blocks)


@pytest.mark.parametrize("window", [8, 64])
def test_a_window_smaller_than_the_row_is_kept_to(window):
    """Mistral's layers read no further back than its window; where rows are longer, each mention has its own pass."""
    tokenizer = byte_level(pad="<pad>")
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, sliding_window=window, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    masks = takes_masks(MistralForCausalLM(config), 64)
    assert masks == (window == 64)
    units = layout(rows_of(tokenizer, make_corpus([MENTIONS]), block_size=64, blacklist=NAMED), 0)
    found = passes(units, True, ("isolated",), masks)
    assert (found[0].alone is not None) == masks and len(found) == (1 if masks else 4)


def test_few_logits_at_once_change_nothing(loaded, corpus, monkeypatch):
    model, tokenizer = loaded
    blocks = rows_of(tokenizer, corpus)
    whole = sani.evaluate(model, blocks, progress=False)
    monkeypatch.setattr(sani.predictions, "LOGITS", 1)
    assert sani.evaluate(model, blocks, progress=False).counts.equals(whole.counts)


PARROTS = {}  # by kind: each is trained once


@pytest.fixture
def parrot(kind, loaded):
    """A model that knows four records by heart, and what it was trained on."""
    if kind not in PARROTS:
        PARROTS[kind] = new_parrot(*loaded)
    model, *rest = PARROTS[kind]
    return clone(model), *rest


def new_parrot(model, tokenizer):
    corpus = make_corpus(
        [f"The patient {name} was seen at Saint-Luke Hospital." for name in ("John Smith", "Jane O'Neil")],
        [
            spans(f"The patient {name} was seen at Saint-Luke Hospital.", (name, "PATIENT"))
            for name in ("John Smith", "Jane O'Neil")
        ],
    )
    blacklist = sani.Blacklist.from_annotations(corpus)
    blocks = sani.encode(corpus, tokenizer, blacklist, block_size=48)
    model = sani.fine_tune(model, blocks, epochs=150, learning_rate=1e-2, batch_size=1, progress=False)
    return model, tokenizer, corpus, blacklist, blocks


def test_free_generation_finds_what_a_model_knows_by_heart(parrot):
    model, tokenizer, corpus, blacklist, blocks = parrot
    options = {"prefix": 3, "samples": 6, "length": 24, "seed": 1}
    before = torch.random.get_rng_state()
    told = free_generation(model, tokenizer, blacklist, corpus["text"], **options)
    assert torch.equal(before, torch.random.get_rng_state())
    assert told["hits"].sum() > 0 and 0 < told.attrs["terms"] <= 2 and set(told["text"]) == {0, 1}
    assert told.equals(free_generation(model, tokenizer, blacklist, corpus["text"], **options))
    # A term that the prefix holds was given, not told.
    given = ["John Smith Jane O'Neil The patient"]
    long = {"prefix": len(tokenizer(given[0])["input_ids"]), "samples": 4, "length": 24}
    assert free_generation(model, tokenizer, blacklist, given, **long)["hits"].sum() == 0
    nothing = free_generation(model, tokenizer, blacklist, samples=5, length=24, batch_size=2)
    assert len(nothing) == 5 and nothing["text"].eq(-1).all()

    filtered = sani.sanitize(model, blocks, "logit-filter")
    silent = free_generation(filtered, tokenizer, blacklist, corpus["text"], **options)
    assert silent["hits"].sum() == 0
    cases = {
        "is for causal models": {"model": make_model(100)},
        "none of the 2 texts has 999 tokens": {"prefix": 999},
        "make 65 tokens, the model has 64 positions; lower length=": {"prefix": 3, "length": 61},
        "make 66 tokens": {"texts": [], "length": 65},
        "texts must be a list of texts": {"texts": "The patient"},
        "the model is a str": {"model": "tiny-gpt2"},
        "weights are torch.bfloat16": {"model": new_model("gpt2", len(tokenizer)).bfloat16()},
        "blacklist must be a Blacklist, not a list": {"blacklist": ["John Smith"]},
        "seed must be a whole number, not None": {"seed": None},
        "length must be a whole number, not 2.5": {"length": 2.5},
    } | {f"{name}=0 is out of range": {name: 0} for name in ("prefix", "samples", "length", "top_k", "batch_size")}
    usual = {"model": model, "tokenizer": tokenizer, "blacklist": blacklist, "texts": corpus["text"]}
    for message, options in cases.items():
        with pytest.raises((TypeError, ValueError), match=message):
            free_generation(**usual | options)
    # As many as there are positions will do.
    assert len(free_generation(model, tokenizer, blacklist, corpus["text"], prefix=3, length=60, samples=1)) == 1


def test_logit_filter_completes_no_listed_term(parrot):
    model, _, _, _, blocks = parrot
    leaky = sani.evaluate(model, blocks, progress=False)
    filtered = sani.evaluate(sani.sanitize(model, blocks, "logit-filter"), blocks, progress=False)
    assert leaky.regurgitation > 0.5 and filtered.regurgitation == 0
    assert filtered.utility == pytest.approx(leaky.utility, abs=0.1)


def test_generate_of_a_filtered_model_completes_no_listed_term(parrot, tmp_path):
    """By its own `generate`, of a copy too; and what stands in no block once it is on the list given."""
    model, tokenizer, _, blacklist, blocks = parrot
    prompt = tokenizer("The patient", add_special_tokens=False)["input_ids"]
    start = torch.tensor([[info(blocks)["bos_token_id"], *prompt]])
    asked = {"do_sample": False, "max_new_tokens": 24, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": None}

    def said(of, **more):
        return tokenizer.decode(of.generate(start, **asked | more)[0, start.shape[1] :])

    assert blacklist.find(said(model)) and "seen" in said(model)
    filtered = sani.sanitize(model, blocks, "logit-filter")
    for one in (filtered, clone(filtered)):
        assert not blacklist.find(said(one)) and not blacklist.find(said(one, num_beams=2))
    assert "seen" in said(filtered)
    # What a caller bans is banned beside.
    words = [ids for word in ("seen", " seen") if (ids := tokenizer(word, add_special_tokens=False)["input_ids"])]
    both = said(filtered, bad_words_ids=words)
    assert "seen" not in both and not blacklist.find(both)
    more = blacklist | sani.Blacklist(["SEEN"])
    longer = sani.sanitize(model, blocks, "logit-filter", blacklist=more, tokenizer=tokenizer)
    assert not more.find(said(longer))
    # The list is in no file, and without it the model says what it knows.
    with pytest.warns(UserWarning, match="not saved"):
        filtered.save_pretrained(tmp_path)
    assert not any("bad_words" in p.read_text() for p in tmp_path.glob("*.json"))
    del filtered.logit_filter
    assert said(filtered) == said(model)


def test_bare_prompts_go_on_from_the_prompt(parrot):
    model, tokenizer, corpus, blacklist, blocks = parrot
    asked = bare_prompts(model, tokenizer, corpus, blacklist, {"PATIENT": "The patient {}"})
    assert asked["said"].sum() == 1 and asked["terms"].sum() == 2
    filtered = sani.sanitize(model, blocks, "logit-filter")
    assert bare_prompts(filtered, tokenizer, corpus, blacklist, {"PATIENT": "The patient {}"})["said"].sum() == 0


@pytest.mark.parametrize("method", ["sani", "repair-only", "pruning", "retrain-at-equal-cost", "counterfactual"])
def test_every_method_runs_on_causal_models(parrot, method):
    model, tokenizer, corpus, blacklist, blocks = parrot
    others = sani.encode(sani.counterfactual(corpus, 1), tokenizer, block_size=48)
    options = {"base": model, "counterfactual_blocks": others, "training_epochs": 1, "progress": False}
    clean = sani.sanitize(model, blocks, method, epochs=1, learning_rate=1e-2, **options)
    assert 0 <= sani.evaluate(clean, blocks, progress=False).privacy <= 1


def test_every_causal_family_is_one_of_transformers():
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    for name, family in FAMILIES.items():
        if family.causal:
            model = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[name]]
            small = {
                "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32,
                "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
            }  # fmt: skip
            made = model(CONFIG_MAPPING[name](**small)).eval()
            ids, mask = torch.randint(1, 32, (1, 6)), torch.ones(1, 6, dtype=torch.int64)
            chosen = torch.tensor([[False, True, True, True, True, True]])
            with torch.no_grad():
                assert torch.allclose(logits_at(made, ids, mask, chosen), made(ids).logits[0, :-1], atol=1e-5), name
            for target in targets(made):
                assert sani.erase(made, target) is not made
