"""Exhaustive evaluation: `sani.evaluate` against as many forward passes over the same rows."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import sani
import sani.evaluation
from sani.blocks import info, tensors
from sani.devices import rows_at_once, steady_heap
from sani.models import hidden_states
from sani.predictions import FOLDS

from .training import LENGTH, make_blocks, make_model

BATCH, LENGTH_TINY = 8, 128


def _prepare(rows: int, hidden: int, layers: int, heads: int):
    # Nothing is listed, so nothing is hidden a second time: seven folds, as the peers have.
    blocks, _ = make_blocks(rows, records=rows * 8)
    blocks = blocks.map(
        lambda row: {"sensitive": [0] * LENGTH, "term_ids": [-1] * LENGTH},
        features=blocks.features, keep_in_memory=True,
    )  # fmt: skip
    return make_model(hidden, layers, heads).eval(), blocks


def evaluate_ours(rows: int, hidden: int, layers: int, heads: int):
    model, blocks = _prepare(rows, hidden, layers, heads)

    def run():
        sani.evaluate(model, blocks, batch_size=BATCH, progress=False)
        return rows * LENGTH

    return run


def _passes(forward, rows: int, hidden: int, layers: int, heads: int, like_ours: bool = False):
    model, blocks = _prepare(rows, hidden, layers, heads)
    columns = tensors(blocks, "input_ids", "attention_mask", "unit_ids")
    mask = info(blocks)["mask_token_id"]
    batch = rows_at_once(model, BATCH, LENGTH) if like_ours else BATCH
    if like_ours:
        steady_heap()

    @torch.inference_mode()
    def run():
        for fold in range(FOLDS):
            for first in range(0, rows, batch):
                ids, attention, units = (column[first : first + batch] for column in columns.values())
                chosen = (units >= 0) & (units % FOLDS == fold)
                forward(model, ids.masked_fill(chosen, mask), attention, chosen)
        return rows * LENGTH

    return run


def full_passes(**options):
    def forward(model, ids, attention, chosen):
        return model(input_ids=ids, attention_mask=attention).logits.argmax(dim=-1)[chosen]

    return _passes(forward, **options)


def encoder_passes(**options):
    return _passes(
        lambda model, ids, attention, chosen: hidden_states(model, ids, attention), like_ours=True, **options
    )


class _NoRanks:
    """In place of `exposure.Ranks`: an evaluation without exposure."""

    def __init__(self, *_):
        pass

    def add(self, part):
        pass

    def add_causal(self, *_):
        pass

    def of_units(self):
        return {}


def with_exposure(model: str, records: int, exposure: bool = True):
    model, tokenizer = sani.load_model(model)
    corpus = sani.load_corpus("synthetic-clinical", records=records, seed=0)
    blacklist = sani.Blacklist.from_annotations(corpus) | sani.Blacklist.from_rare_words(corpus, k=2)
    blocks = sani.encode(corpus, tokenizer, blacklist, block_size=LENGTH_TINY, progress=False)
    ranks = sani.evaluation.Ranks

    def run():
        sani.evaluation.Ranks = ranks if exposure else _NoRanks
        sani.exposure.KEPT.clear()  # or all repetitions but the first would find their alternatives in memory
        try:
            sani.evaluate(model, blocks, progress=False)
        finally:
            sani.evaluation.Ranks = ranks
        return len(blocks) * LENGTH_TINY

    return run


def without_exposure(**options):
    return with_exposure(**options, exposure=False)


def _causal(records: int, hidden: int, layers: int, heads: int):
    """Stories whose rows repeat their names often, and a GPT-2 of random weights."""
    torch.manual_seed(0)
    _, tokenizer = sani.load_model("tiny-gpt2")
    tokenizer.model_max_length = LENGTH
    sizes = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": LENGTH}
    sizes |= {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    corpus = sani.load_corpus("synthetic-stories", records=records, seed=0)
    blocks = sani.encode(corpus, tokenizer, sani.Blacklist.from_ner(corpus), block_size=LENGTH, progress=False)
    return model, blocks


def evaluate_causal(**options):
    model, blocks = _causal(**options)

    def run():
        ranks, sani.evaluation.Ranks = sani.evaluation.Ranks, _NoRanks
        try:
            sani.evaluate(model, blocks, batch_size=BATCH, progress=False)
        finally:
            sani.evaluation.Ranks = ranks
        return len(blocks) * LENGTH

    return run


def plain_pass(**options):
    model, blocks = _causal(**options)
    columns = tensors(blocks, "input_ids", "attention_mask")

    @torch.inference_mode()
    def run():
        for ids, attention in zip(*(column.split(BATCH) for column in columns.values())):
            model(input_ids=ids, attention_mask=attention).logits.argmax(dim=-1)
        return len(blocks) * LENGTH

    return run
