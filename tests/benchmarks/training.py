"""Repair and masks: `sani.repair` against the Hugging Face Trainer on the same rows, model and options."""

import tempfile
import warnings

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Trainer,
    TrainingArguments,
)

import sani
from sani.blocks import info, tensors
from sani.masking import IGNORE, OBJECTIVES
from sani.training import _drawn as batches_drawn

VOCABULARY = 30_522
LENGTH = 512
BATCH = 8
RATE = 1e-5


def make_model(hidden: int, layers: int, heads: int, modernbert: bool = False, sparse: bool = False):
    """A model of random weights, without dropout."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": VOCABULARY,
    }  # fmt: skip
    if modernbert:
        config = ModernBertConfig(
            **shape, intermediate_size=1152, max_position_embeddings=LENGTH, sparse_prediction=sparse, pad_token_id=0,
            bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
        )  # fmt: skip
        return ModernBertForMaskedLM(config)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(**shape, intermediate_size=4 * hidden, **none))


def make_blocks(rows: int, length: int = LENGTH, records: int = 2000) -> tuple[Dataset, object]:
    """That many full rows of synthetic discharge summaries, blacklisted, and the tokenizer."""
    _, tokenizer = sani.load_model("tiny-bert")
    corpus = sani.load_corpus("synthetic-clinical", records=records)
    blacklist = sani.Blacklist.from_annotations(corpus)
    tokenizer.model_max_length = max(tokenizer.model_max_length, length)
    blocks = sani.encode(corpus, tokenizer, blacklist, length, run_dir=tempfile.mkdtemp(), progress=False)
    if len(blocks) < rows:
        raise ValueError(f"{records} records make {len(blocks)} rows, fewer than {rows}")
    return blocks.select(range(rows)), tokenizer


def for_collator(blocks: Dataset) -> Dataset:
    """The same rows with the columns that the Hugging Face collator knows words by."""
    columns = tensors(blocks)
    words = columns["word_ids"]
    gap = torch.cat((torch.ones_like(words[:, :1]), (words[:, 1:] != words[:, :-1]).long()), dim=1).cumsum(1)
    starts = torch.arange(words.shape[1]) + gap  # two tokens touch if they are of one word
    return Dataset.from_dict(
        {
            "input_ids": columns["input_ids"].tolist(),
            "attention_mask": columns["attention_mask"].tolist(),
            "special_tokens_mask": (words < 0).long().tolist(),
            "offset_mapping": torch.stack((starts, starts + 1), dim=-1).tolist(),
        }
    )


def repair_ours(steps: int, hidden: int, layers: int, heads: int, modernbert: bool = False):
    model = make_model(hidden, layers, heads, modernbert)
    blocks, _ = make_blocks(steps * BATCH, records=steps * 40)

    def run():
        sani.repair(
            model, blocks, epochs=1, learning_rate=RATE, batch_size=BATCH, objective="mlm", progress=False, inplace=True
        )
        return steps * BATCH * LENGTH

    return run


def _sanitized(method: str, steps: int, hidden: int, layers: int, heads: int):
    model, base = (make_model(hidden, layers, heads) for _ in range(2))
    blocks, _ = make_blocks(steps * BATCH, records=steps * 40)

    def run():
        options = {"learning_rate": RATE, "batch_size": BATCH, "progress": False}
        sani.sanitize(model, blocks, method, epochs=1, base=base, **options)
        return steps * BATCH * LENGTH

    return run


def anchor(**shape):
    return _sanitized("return-anchor", **shape)


def repair_only(**shape):
    return _sanitized("repair-only", **shape)


def _trainer(model, blocks, tokenizer, epochs):
    rows = for_collator(blocks)
    collator = DataCollatorForLanguageModeling(
        tokenizer, whole_word_mask=True, mlm_probability=0.15, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, num_train_epochs=epochs, learning_rate=RATE,
        lr_scheduler_type="linear", weight_decay=0.0, max_grad_norm=1.0, logging_strategy="no", save_strategy="no",
        report_to=[], disable_tqdm=True, remove_unused_columns=False, use_cpu=True,
    )  # fmt: skip
    return lambda: Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train()


def repair_trainer(steps: int, hidden: int, layers: int, heads: int, modernbert: bool = False):
    model = make_model(hidden, layers, heads, modernbert, sparse=modernbert)
    train = _trainer(model, *make_blocks(steps * BATCH, records=steps * 40), epochs=1)

    def run():
        train()
        return steps * BATCH * LENGTH

    return run


def tiny_ours(epochs: int):
    model, _ = sani.load_model("tiny-bert-leaky")
    blocks, _ = make_blocks(200, length=128)

    def run():
        options = {"learning_rate": RATE, "batch_size": BATCH, "progress": False, "inplace": True}
        sani.repair(model, blocks, epochs, "mlm", **options)
        return epochs * 200 * 128

    return run


def tiny_trainer(epochs: int):
    model, _ = sani.load_model("tiny-bert-leaky")
    train = _trainer(model, *make_blocks(200, length=128), epochs=epochs)

    def run():
        train()
        return epochs * 200 * 128

    return run


def repair_flops(steps: int, hidden: int, layers: int, heads: int):
    """GFLOP of the matrix products of the steps, backward included: 2 per weight and token, and the attention's."""
    run = repair_ours(steps, hidden, layers, heads)
    blocks, _ = make_blocks(steps * BATCH, records=steps * 40)
    columns = tensors(blocks)
    _, labels = OBJECTIVES["mlm"].draw(columns, info(blocks)["mask_token_id"], 0, 0)
    targets = int((labels != IGNORE).sum())
    tokens = steps * BATCH * LENGTH
    encoder = tokens * layers * (2 * 12 * hidden**2 + 4 * LENGTH * hidden)
    head = targets * 2 * (hidden**2 + hidden * VOCABULARY)

    def flops():
        run()
        return 3 * (encoder + head) / 1e9

    return flops


def matrix_rate(steps: int, hidden: int, layers: int, heads: int):
    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)

    def run():
        for _ in range(8):
            a @ b
        return 8 * 2 * 4096**3 / 1e9

    return run


def _epoch_of_masks(rows: int, length: int = LENGTH):
    blocks, _ = make_blocks(rows, length, records=rows * 8)
    columns = tensors(blocks, "input_ids", "attention_mask", "unit_ids", "sensitive")
    mask, draw = info(blocks)["mask_token_id"], OBJECTIVES["ppmlm"].draw
    order, cpu = torch.randperm(rows), torch.device("cpu")

    def run(epoch=0):
        for _ in batches_drawn(columns, order, BATCH, draw, mask, 0, epoch, cpu):
            pass
        return rows * length

    return run


def masks_ours(rows: int):
    return _epoch_of_masks(rows)


def masks_collator(rows: int):
    warnings.filterwarnings("ignore")
    blocks, tokenizer = make_blocks(rows, records=rows * 8)
    examples = for_collator(blocks).to_list()
    collator = DataCollatorForLanguageModeling(
        tokenizer, whole_word_mask=True, mlm_probability=0.15, mask_replace_prob=1.0, random_replace_prob=0.0
    )

    def run():
        for first in range(0, rows, BATCH):
            collator(examples[first : first + BATCH])
        return rows * LENGTH

    return run


def tiny_epoch():
    run = tiny_ours(epochs=4)

    def epoch():
        run()
        return 4

    return epoch


def masks_fifty():
    run = _epoch_of_masks(200, 128)

    def fifty():
        for epoch in range(50):
            run(epoch)
        return 1

    return fifty
