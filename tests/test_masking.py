"""Masks: what may and may not be a target, by property over texts, terms, tokenizers and seeds."""

import numpy as np
import pytest
import torch
from conftest import MAKERS, TEXTS, make_corpus, make_model, make_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_blocks import terms, texts, try_encode
from transformers import Trainer, TrainingArguments

from sani import Blacklist, DataCollatorForPPCLM, DataCollatorForPPMLM, encode
from sani.blocks import tensors
from sani.masking import IGNORE, both, mlm, ppmlm, uniform
from sani.text.alignment import align

property_test = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@property_test
@given(
    kind=st.sampled_from(list(MAKERS)), texts=texts, terms=terms, seed=st.integers(0, 2**40), epoch=st.integers(0, 99),
    rate=st.sampled_from([0.15, 0.9, 1.0]),
)  # fmt: skip
def test_no_token_of_a_blacklisted_unit_is_ever_a_ppmlm_target(kind, texts, terms, seed, epoch, rate, tmp_path):
    tokenizer, blacklist = make_tokenizer(kind), Blacklist(terms)
    blocks = try_encode(make_corpus(texts), tokenizer, blacklist, 40, tmp_path)
    if blocks is None:
        return
    rows = tensors(blocks)
    inputs, labels = ppmlm(rows, tokenizer.mask_token_id, seed, epoch, rate)
    target = labels != IGNORE
    # Judged from the text itself, not from the columns that the mask was drawn with.
    for record, text in enumerate(texts):
        here = rows["record_ids"] == record
        hits = blacklist.find(text)
        for (start, end), is_target in zip(align(text, tokenizer)[1].tolist(), target[here].tolist()):
            assert not (is_target and any(h.start < end and start < h.end for h in hits))
    assert not target[rows["unit_ids"] < 0].any()
    assert (inputs[target] == tokenizer.mask_token_id).all()
    assert torch.equal(inputs[~target], rows["input_ids"][~target])
    assert torch.equal(labels[target], rows["input_ids"][target])
    for unit in rows["unit_ids"][target].unique():
        assert target[rows["unit_ids"] == unit].all()
    if rate == 1.0:
        assert torch.equal(target, (rows["sensitive"] == 0))


def test_mlm_masks_whole_words_and_blacklisted_ones_too(corpus, wordpiece):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)
    rows = tensors(blocks)
    seen = torch.zeros_like(rows["input_ids"], dtype=torch.bool)
    for epoch in range(60):
        _, labels = mlm(rows, wordpiece.mask_token_id, 0, epoch)
        target = labels != IGNORE
        seen |= target
        for word in rows["word_ids"][target].unique():
            assert target[rows["word_ids"] == word].all()
    assert seen[rows["sensitive"] > 0].all()
    assert torch.equal(seen, rows["word_ids"] >= 0)


def test_both_masks_ordinary_units_as_ppmlm_does_and_listed_ones_half_of_the_time_or_all_of_a_row(corpus, wordpiece):
    rows = tensors(encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32))
    listed, hide = rows["sensitive"] > 0, wordpiece.mask_token_id
    several = [row for row in range(len(listed)) if len(rows["unit_ids"][row][listed[row]].unique()) > 1]
    times, whole, parts = torch.zeros(int(rows["unit_ids"].max()) + 1), 0, 0
    for epoch in range(400):
        inputs, labels = both(rows, hide, 0, epoch)
        target = labels != IGNORE
        assert torch.equal(target & ~listed, ppmlm(rows, hide, 0, epoch)[1] != IGNORE)
        assert torch.equal(labels[target], rows["input_ids"][target]) and (inputs[target] == hide).all()
        units = rows["unit_ids"][target & listed].unique()
        assert not set(units.tolist()) & set(rows["unit_ids"][~target].tolist()), "whole units"
        times[units] += 1
        for row in several:
            hidden = target[row][listed[row]]
            whole, parts = whole + int(hidden.all()), parts + int(hidden.any() and not hidden.all())
    assert ((times[rows["unit_ids"][listed].unique()] / 400 - 0.75).abs() < 0.1).all()  # ½ + ½ · ½
    assert 0.5 < whole / (400 * len(several)) < 0.9 and parts > 0


def test_uniform_is_uniform_and_independent_over_seeds_epochs_and_ids():
    ids = torch.arange(200_000)
    draws = [uniform(ids, seed, epoch).numpy() for seed in (0, 1, 2**45) for epoch in (0, 1)]
    for draw in draws:
        assert draw.min() >= 0 and draw.max() < 1
        counts = np.histogram(draw, bins=100, range=(0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-squared, 99 degrees of freedom, p ≈ 1e-4
        assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 0.01
    table = np.corrcoef(draws)
    assert np.abs(table - np.eye(len(draws))).max() < 0.01


def test_uniform_is_the_same_wherever_it_is_drawn():
    ids = torch.tensor([[0, 5, 7], [123456789, 5, -1]])
    whole = uniform(ids, 3, 4)
    assert uniform(torch.tensor(5), 3, 4) == whole[0, 1] == whole[1, 1]
    # Derived by hand with Python's integers: splitmix64's finaliser of id·γ + (seed·1000003 + epoch)·c.
    x = (5 * 0x9E3779B97F4A7C15 + (3 * 1_000_003 + 4) * 0xBF58476D1CE4E5B9) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    assert whole[0, 1].item() == ((x ^ x >> 31) >> 11) / 2**53


def test_share_of_masked_words_is_the_rate(wordpiece):
    rows = tensors(encode(make_corpus(TEXTS * 100), wordpiece, Blacklist(["Smith"]), block_size=64))
    eligible = (rows["unit_ids"] >= 0) & (rows["sensitive"] == 0)
    units = len(rows["unit_ids"][eligible].unique())
    drawn = len(rows["unit_ids"][ppmlm(rows, 4, seed=1)[1] != IGNORE].unique())
    assert abs(drawn / units - 0.15) < 4 * (0.15 * 0.85 / units) ** 0.5


def test_collator_drops_into_the_trainer(corpus, wordpiece, tmp_path):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)
    arguments = dict(output_dir=str(tmp_path), max_steps=3, report_to=[], disable_tqdm=True, save_strategy="no")
    collator = DataCollatorForPPMLM(wordpiece, seed=0)
    model = make_model(len(wordpiece))
    trainer = Trainer(
        model, TrainingArguments(remove_unused_columns=False, **arguments), train_dataset=blocks, data_collator=collator
    )
    assert trainer.train().training_loss > 0
    # The Trainer drops what the model's forward does not name, unless it must not: the collator says so.
    trainer = Trainer(model, TrainingArguments(**arguments), train_dataset=blocks, data_collator=collator)
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        trainer.train()


def test_collator_redraws_and_never_targets_a_term(corpus, wordpiece):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)
    collator, rows = DataCollatorForPPMLM(wordpiece, seed=0), [blocks[i] for i in range(len(blocks))]
    draws = [collator(rows) for _ in range(20)]
    assert len({tuple(d["labels"].reshape(-1).tolist()) for d in draws}) > 15
    sensitive = torch.tensor([row["sensitive"] for row in rows])
    for draw in draws:
        assert (draw["labels"][sensitive != 0] == IGNORE).all()
        assert (draw["input_ids"][draw["labels"] != IGNORE] == wordpiece.mask_token_id).all()


def test_collator_needs_a_mask_token():
    tokenizer = MAKERS["wordpiece"]()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        DataCollatorForPPMLM(tokenizer)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": 2}, ValueError, "rate=2 is out of range"),
        ({"rate": 0}, ValueError, "rate=0 is out of range"),
        ({"rate": "0.15"}, TypeError, "rate must be a number, not a str"),
        ({"seed": None}, TypeError, "seed must be a whole number, not None"),
        ({"tokenizer": "tiny-bert"}, TypeError, "tokenizer must be a PreTrainedTokenizerBase, not a str"),
    ],
)
def test_collators_name_bad_arguments(options, error, message, wordpiece):
    with pytest.raises(error, match=message):
        DataCollatorForPPMLM(**{"tokenizer": wordpiece} | options)
    if "tokenizer" in options:
        with pytest.raises(error, match=message):
            DataCollatorForPPCLM(**options)
