"""A small NER model for the names of the stories grammar: a cased BERT that tags PER, LOC, ORG and MISC."""

import os
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from ..study.pretraining import ARCHITECTURE, new_tokenizer, sinusoids
from ..text.alignment import align

CLASSES = ("PER", "LOC", "ORG", "MISC")
LETTERS = ("aeiou", "bcdfghjklmnpqrstvwxyz")
LABELS = ("O", *(f"{prefix}-{name}" for name in CLASSES for prefix in "BI"))


def train(
    corpora: Iterable[Dataset], folder: Path, vocabulary: int = 3000, epochs: int = 6, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A token classifier trained on annotated corpora, and its cased tokenizer, which is saved in `folder`.

    Half of the names are respelt at random, which teaches it to go by case and context, not by a list of names.
    """
    rng = random.Random(seed)
    records = [_respelt(row, rng) for corpus in corpora for row in corpus]
    positions = ARCHITECTURE["max_position_embeddings"]
    tokenizer = new_tokenizer((row["text"] for row in records), folder, vocabulary, positions, cased=True)
    torch.manual_seed(seed)
    numbers = {label: i for i, label in enumerate(LABELS)}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": numbers}
    model = BertForTokenClassification(BertConfig(vocab_size=len(tokenizer), **names, **ARCHITECTURE))
    sinusoids(model.bert.embeddings.position_embeddings.weight)
    arguments = TrainingArguments(
        str(folder / "trainer"), num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=3e-3,
        warmup_steps=0.05, lr_scheduler_type="linear", seed=seed, report_to=[], save_strategy="no",
        logging_strategy="no", use_cpu=not torch.cuda.is_available(), disable_tqdm=not os.isatty(2),
    )  # fmt: skip
    rows = [row for record in records for row in _rows(record, tokenizer, positions - 2)]
    Trainer(model, arguments, DataCollatorForTokenClassification(tokenizer), rows).train()
    return model.eval(), tokenizer


def _respelt(record: dict, rng: random.Random) -> dict:
    """The record with other letters in half of its names: vowels for vowels, consonants for consonants."""
    text = list(record["text"])
    for span in record["identifiers"]:
        if rng.random() < 0.5:
            for i in range(span["start"], span["end"]):
                letters = next((kind for kind in LETTERS if text[i].lower() in kind), text[i].lower())
                other = rng.choice(letters)
                text[i] = other.upper() if text[i].isupper() else other
    return record | {"text": "".join(text)}


def _rows(record: dict, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterable[dict[str, list[int]]]:
    """The record as rows of at most `size` tokens with a label each."""
    ids, offsets = align(record["text"], tokenizer)
    labels = np.zeros(len(ids), dtype=np.int64)
    for span in record["identifiers"]:
        inside = (offsets[:, 0] < span["end"]) & (offsets[:, 1] > span["start"])
        labels[inside] = LABELS.index(f"I-{span['type']}")
        labels[np.flatnonzero(inside)[:1]] = LABELS.index(f"B-{span['type']}")
    for start in range(0, len(ids), size):
        piece = slice(start, start + size)
        row = [tokenizer.cls_token_id, *ids[piece].tolist(), tokenizer.sep_token_id]
        yield {"input_ids": row, "attention_mask": [1] * len(row), "labels": [-100, *labels[piece].tolist(), -100]}


def scores(found: list[list[dict]], corpus: Dataset) -> dict[str, float]:
    """Precision and recall of spans against a corpus's annotated ones: whole, with their class."""
    said = {(n, s["start"], s["end"], s["type"]) for n, spans in enumerate(found) for s in spans}
    true = {(n, s["start"], s["end"], s["type"]) for n, spans in enumerate(corpus["identifiers"]) for s in spans}
    both = len(said & true)
    return {"precision": both / max(1, len(said)), "recall": both / max(1, len(true))}
