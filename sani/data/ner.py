"""A token classifier, and the words of texts with the probabilities of their classes (PAPER §2 step 1, case B)."""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import regex
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.pipelines import TokenClassificationPipeline

from ..models import read, source
from ..text.matching import WORD

UNIT = regex.compile(rf"{WORD.pattern}|\S", regex.V1)  # a word, or one other character
PREFIX = re.compile(r"[BIELMSU][-_](?=.)")  # of IOB, BIO, BILOU, BIOES and BMES labels
FLOOR = 0.05  # what is less probable is not kept


class Classifier(NamedTuple):
    """A token classifier without its weights."""

    tokenizer: PreTrainedTokenizerBase  # its model_max_length is the window
    classes: list[str]  # without prefix
    member: np.ndarray  # (labels, classes): 1 where a label is of a class
    begins: np.ndarray  # (labels, classes): 1 where a label begins an entity of a class
    fingerprint: list  # of a folder its files; of a Hub id its commit


class Tagger(TokenClassificationPipeline):
    """The pipeline, but ending in arrays: a window's offsets (tokens, 2) and probabilities (tokens, labels)."""

    def postprocess(self, all_outputs, **_):
        (output,) = all_outputs
        real = output["special_tokens_mask"][0] == 0
        return output["offset_mapping"][0][real].numpy(), output["logits"][0][real].float().softmax(-1).numpy()


def open_classifier(name: str | Path, window: int | None = None) -> Classifier:
    """Labels and tokenizer of a token classifier (shipped name, folder or Hub id), without reading its weights.

    window: tokens read at once, by default the model's positions, at most 512. Raises ValueError (no token classifier,
    no label O, no fast tokenizer, pickled weights, code of its own, a window out of range) and FileNotFoundError.
    """
    config, tokenizer = read(AutoConfig, name), read(AutoTokenizer, name)
    if kinds := [kind for kind in config.architectures or () if "TokenClassification" not in kind]:
        said = f"its config.json says {', '.join(kinds)}"
        raise ValueError(f"model {name} is no token classifier ({said}); use a saved …ForTokenClassification model")
    if not tokenizer.is_fast:
        raise ValueError(f"model {name} has no fast tokenizer, so where its tokens stand in the text is unknown")
    # RoBERTa and its kin, whose padding token is 1, count positions from 2.
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    limit = min(tokenizer.model_max_length, positions - 2 * (config.pad_token_id == 1))
    tokenizer.model_max_length = min(limit, 512) if window is None else window
    if not 16 <= tokenizer.model_max_length <= limit:
        raise ValueError(f"window={window}: need 16 to {limit} tokens, the positions of model {name}")
    return Classifier(tokenizer, *_scheme([config.id2label[i] for i in range(config.num_labels)], name), _files(name))


def load_tagger(name: str | Path, classifier: Classifier) -> Tagger:
    """The classifier with its weights, on a GPU where there is one."""
    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = read(AutoModelForTokenClassification, name, **options)
    if lost := [key for key in report["missing_keys"] if not key.startswith(model.base_model_prefix + ".")]:
        raise ValueError(f"model {name}: the weights hold no classifier (missing {lost[0]}, …), so it would be random")
    return Tagger(model=model.eval(), tokenizer=classifier.tokenizer)


def words(texts: Sequence[str], tagger: Tagger, classifier: Classifier, batch_size: int, bar) -> pd.DataFrame:
    """A row per word and class of probability ≥ 0.05: record (number of the text), start, end, type, score, begins.

    A word, which may also be a single other character, is as probable as its likeliest token; `begins` says whether
    its first token more probably begins an entity of the class than goes on with one.
    """
    plan = [(i, *window) for i, text in enumerate(texts) for window in windows(text, classifier.tokenizer)]
    plan.sort(key=lambda row: row[1] - row[2])  # windows of a batch are alike in length, so there is little padding
    batch_size = 1 if classifier.tokenizer.pad_token_id is None else batch_size
    outputs = tagger((texts[i][start:end] for i, start, end, _, _ in plan), batch_size=batch_size)
    base = np.cumsum([0, *(len(text) + 2 for text in texts)])  # where each text begins once all are joined
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0, bool))]
    for (i, start, _, own, until), (offsets, probabilities) in zip(plan, outputs):
        score = np.minimum(probabilities @ classifier.member, 1)
        beginning = 2 * (probabilities @ classifier.begins) > score
        used = (offsets[:, 1] > own - start) & (offsets[:, 0] < until - start)
        token, kind = np.nonzero((score >= FLOOR) & used[:, None])
        found.append((*(offsets[token] + start + base[i]).T, kind, score[token, kind], beginning[token, kind]))
        bar.update(until - own)
    starts, ends, kinds, scores, begins = map(np.concatenate, zip(*found))
    matches = UNIT.finditer("\n\n".join(texts))
    units = np.fromiter(chain.from_iterable(match.span() for match in matches), np.int64).reshape(-1, 2)
    # A word may have several tokens, and a token several words: it then begins an entity in the first only.
    first = np.searchsorted(units[:, 1], starts, side="right")
    count = np.maximum(np.searchsorted(units[:, 0], ends, side="left") - first, 0)
    token = np.repeat(np.arange(len(count)), count)
    nth = np.arange(len(token)) - np.repeat(count.cumsum() - count, count)
    rows = {"unit": first[token] + nth, "kind": kinds[token], "at": starts[token], "score": scores[token]}
    table = pd.DataFrame(rows | {"begins": begins[token] & (nth == 0)}).sort_values(["unit", "kind", "at"])
    table = table.groupby(["unit", "kind"], as_index=False).agg({"score": "max", "begins": "first"})
    start, end = units[table["unit"]].T
    record = np.searchsorted(base, start, side="right") - 1
    places = {"record": record, "start": start - base[record], "end": end - base[record]}
    return pd.DataFrame(places | {"type": np.array(classifier.classes)[table["kind"]]}).join(table[["score", "begins"]])


def windows(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, int, int, int]]:
    """Windows of at most `model_max_length` tokens, cut at white space: start, end, and the part used of each.

    The parts cover all tokens, each from about the middle of one overlap (a quarter of a window) to that of the next.
    """
    size = tokenizer.model_max_length
    room = size - tokenizer.num_special_tokens_to_add()
    start = own = 0
    while start < len(text):
        piece = text[start : start + 8 * size]
        found = tokenizer(piece, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
        offsets = start + np.array(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        if len(offsets) <= room and start + len(piece) == len(text):
            if len(offsets):
                yield start, len(text), own, len(text)
            return
        reach = int(offsets[room, 0]) if len(offsets) > room else start + len(piece)
        end = max(_gap(text, (start + reach) // 2, reach), start + 1)
        if not (count := int(np.searchsorted(offsets[:, 1], end, side="right"))):  # white space
            start = end
            continue
        begin, until = (int(offsets[max(count - n, 0), 0]) for n in (size // 4, size // 8))
        begin = max(_gap(text, (start + begin) // 2, begin), start + 1)
        until = max(_gap(text, begin, until), begin)
        yield start, end, own, until
        start, own = begin, until


def _gap(text: str, low: int, high: int) -> int:
    """The last place after `low`, up to `high`, that follows white space; `high` if there is none."""
    return next((i for i in range(high, low, -1) if text[i - 1].isspace()), high)


def _files(name) -> list:
    where, options = source(name)
    if not options["local_files_only"]:
        return [where, read(AutoConfig, name)._commit_hash]
    files = sorted(p for p in Path(where).iterdir() if p.suffix in (".safetensors", ".json", ".txt", ".model"))
    return [(path.name, sha256(path.read_bytes()).hexdigest()) for path in files]


def _scheme(labels: Sequence[str], name) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Classes, membership and beginnings (see `Classifier`) of labels with prefixes or without."""
    tagged = any(label[:2] in ("B-", "I-", "B_", "I_") for label in labels)
    bare = [PREFIX.sub("", label, count=1) if tagged and PREFIX.match(label) else label for label in labels]
    classes = sorted({label for label in bare if label != "O"})
    if not classes or "O" not in labels:
        need = "need O, for no entity, and another; if one means O, rename it in config.json (id2label and label2id)"
        raise ValueError(f"model {name} has the labels {', '.join(labels)}: {need}")
    member = np.array([[kind == c for c in classes] for kind in bare], dtype=np.float32)
    begins = np.array([label != kind and label[0] in "BSU" for label, kind in zip(labels, bare)])
    return classes, member, member * begins[:, None]
