"""Blocks: a corpus as rows of tokens that know their word, their unit and whether they are blacklisted."""

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetInfo, Features, Sequence, Value
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from . import alignment
from .blacklists import KINDS, Blacklist, Hit
from .devices import processes
from .runs import code_fingerprint, fingerprint, made, runs_folder

DTYPES = {
    "input_ids": "int32",
    "attention_mask": "int8",
    "word_ids": "int32",
    "unit_ids": "int32",
    "sensitive": "int8",
    "term_ids": "int32",
    "record_ids": "int32",
    "gold": "int8",
}
FEATURES = Features({name: Sequence(Value(dtype)) for name, dtype in DTYPES.items()})
CHARACTERS = 1 << 20  # encoded at once
CODES = {kind: code for code, kind in enumerate(KINDS, start=1)}


def _changes(values: np.ndarray) -> np.ndarray:
    return np.concatenate(([True], values[1:] != values[:-1]))[: len(values)]


def _encode_records(texts: list[str], first: int, tokenizer, hits: list[list[Hit]], separator: int) -> np.ndarray:
    """Records as one array (columns, tokens): id, new word?, new unit?, sensitive, term, gold, record.

    Between two of them, and before all but the corpus's first, stands a separator, of no record.
    """
    encoding = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    counts = np.array([len(ids) for ids in encoding["input_ids"]])
    bases = np.cumsum([0, *(len(text) + 1 for text in texts)])[:-1]  # white space parts the texts
    ids = np.fromiter(chain.from_iterable(encoding["input_ids"]), dtype=np.int64, count=counts.sum())
    ends = chain.from_iterable(chain.from_iterable(encoding["offset_mapping"]))
    offsets = np.fromiter(ends, dtype=np.int64, count=2 * counts.sum()).reshape(-1, 2)
    offsets += np.repeat(bases, counts)[:, None]
    of_character = alignment.kinds("\n".join(texts))
    offsets = alignment.trim(of_character, offsets)
    words = alignment.words(of_character, offsets)
    found = [
        (base + h.start, base + h.end, CODES[h.kind], h.term_id, h.gold)
        for base, of_text in zip(bases.tolist(), hits)
        for h in of_text
    ]
    table = np.array([*found, (0, 0, 0, -1, 0)], dtype=np.int64)
    spans = table[:-1, :2]
    index = np.searchsorted(spans[:, 1], offsets[:, 0], side="right")
    inside = index < len(spans)
    inside[inside] = spans[index[inside], 0] < offsets[inside, 1]
    sensitive, term, gold = table[np.where(inside, index, len(spans)), 2:].T
    units = np.where(inside, len(of_character) + 1 + index, words)
    records = np.repeat(first + np.arange(len(texts)), counts)
    new = _changes(records)
    stream = np.stack((ids, _changes(words) | new, _changes(units) | new, sensitive, term, gold, records))
    starts = (np.cumsum(counts) - counts)[(1 if first == 0 else 0) :]
    return np.insert(stream, starts, np.array([[separator], [1], [1], [-1], [-1], [-1], [-1]]), axis=1)


def _pack(stream: np.ndarray, capacity: int, last: bool) -> Iterator[tuple[int, int]]:
    """Greedy rows (start, end) of at most `capacity` tokens that cut no unit, unless it is an ordinary one too long."""
    starts = np.flatnonzero(stream[2])
    position, size = 0, stream.shape[1]
    while position < size and (last or size - position > capacity):
        end = min(position + capacity, size)
        if end < size:
            boundary = starts[np.searchsorted(starts, end, side="right") - 1]
            end = boundary if boundary > position else end
        yield position, end
        position = end


def _without_separators(stream: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Bounds of a row that neither begins nor ends with a separator of records."""
    text = np.flatnonzero(stream[6, start:end] >= 0)
    return (start + int(text[0]), start + int(text[-1]) + 1) if len(text) else (start, start)


def _rows(stream, bounds, block_size, special, next_ids) -> dict[str, np.ndarray]:
    """Rows (rows, block_size) of each column, from the token stream and the bounds of its rows."""
    begin, end, pad = special
    finish = [] if end is None else [end]
    rows = {name: np.full((len(bounds), block_size), -1, dtype=dtype) for name, dtype in DTYPES.items()}
    rows["input_ids"][:] = pad
    rows["attention_mask"][:] = 0
    for r, (start, end) in enumerate(bounds):
        piece = stream[:, start:end]
        n = end - start
        body = slice(1, n + 1)
        text = piece[6] >= 0
        rows["input_ids"][r, 0], rows["input_ids"][r, n + 1 : n + 1 + len(finish)] = begin, finish
        rows["attention_mask"][r, : n + 1 + len(finish)] = 1
        rows["input_ids"][r, body] = piece[0]
        for name, changes in (("word_ids", piece[1]), ("unit_ids", piece[2])):
            new = changes.astype(bool) & text
            new[np.flatnonzero(text)[:1]] = True
            rows[name][r, body] = np.where(text, next_ids[name] + np.cumsum(new) - 1, -1)
            next_ids[name] += int(new.sum())
        for name, values in zip(("sensitive", "term_ids", "gold", "record_ids"), piece[3:]):
            rows[name][r, body] = np.where(text, values, -1)
    return rows


def corpus_fingerprint(corpus: Dataset) -> str:
    """16 hex digits that change with any text, person or annotated span of a corpus."""
    digest = hashlib.sha256()
    names = ["text", "record_id", "person_id", "identifiers"]
    for batch in corpus.select_columns(names).iter(batch_size=256):
        for row in zip(*(batch[name] for name in names)):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def encode(
    corpus: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    blacklist: Blacklist | None = None,
    block_size: int = 128,
    run_dir: str | Path | None = None,
    allow_no_match: bool = False,
    progress: bool = True,
) -> Dataset:
    """Tokenize, align and pack a corpus into rows of `block_size` tokens (memory-mapped, in a private run folder).

    Columns, each (block_size,): input_ids, attention_mask, word_ids, unit_ids (words or blacklisted n-grams),
    sensitive (0 none, 1 direct, 2 indirect, 3 confidential), term_ids (as in `blacklist.terms()`), record_ids
    (row of the corpus), gold (1 on annotated spans); −1 on special tokens and padding. Records follow each other in a
    row, parted by the separator token; rows for causal models (tokenizers without mask token) begin with bos and so
    does each record in them. Blocks hold the text in clear: they lie in `run_dir`, by default
    `runs/blocks-<hash>`, mode 0700.
    Of several processes (`accelerate launch`, `torchrun`), which must all call this, the main one encodes.
    Raises ValueError, before anything is written, for a slow tokenizer or one without padding token of its own, a
    block size out of range, a blacklist that matches nothing (unless `allow_no_match`) or everything, a term longer
    than a row.
    """
    blacklist = Blacklist() if blacklist is None else blacklist
    _check(tokenizer, block_size)
    key = fingerprint(
        code_fingerprint(__name__),
        corpus_fingerprint(corpus),
        blacklist.fingerprint,
        fingerprint(tokenizer.backend_tokenizer.to_str(), tokenizer.mask_token_id, tokenizer.pad_token_id),
        block_size,
    )
    folder = runs_folder() / f"blocks-{key}" if run_dir is None else Path(run_dir)
    with processes().main_process_first():
        return _encoded(corpus, tokenizer, blacklist, block_size, folder, key, allow_no_match, progress)


def _encoded(corpus, tokenizer, blacklist, block_size, folder, key, allow_no_match, progress) -> Dataset:
    """The blocks of a folder, written there first if it is empty."""
    if (folder / "blocks.json").exists():
        found = json.loads((folder / "blocks.json").read_text(encoding="utf-8"))
        if found["fingerprint"] != key:
            raise ValueError(f"{folder} holds other blocks; choose another run_dir or delete that folder")
        _check_totals(found, allow_no_match, blacklist)
        return _open(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no blocks; choose another run_dir")
    with made(folder) as part:
        if part is not None:  # else another process was faster
            totals = _write(corpus, tokenizer, blacklist, block_size, part, progress)
            _check_totals(totals, allow_no_match, blacklist)
            written = {"fingerprint": key} | _info(tokenizer, blacklist, block_size, totals)
            (part / "blocks.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    return _open(folder)


def is_causal(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer belongs to a causal model: one without a mask token."""
    return tokenizer.mask_token_id is None


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int | None]:
    """The ids that begin a row, that part two records in it, and that end it.

    In causal rows each record begins with bos (GPT-2's end of text), and nothing ends a row.
    """

    def first(*ids):
        return next((i for i in ids if i is not None), None)

    if is_causal(tokenizer):
        begin = first(tokenizer.bos_token_id, tokenizer.eos_token_id)
        return begin, begin, None
    end = first(tokenizer.sep_token_id, tokenizer.eos_token_id)
    return first(tokenizer.cls_token_id, tokenizer.bos_token_id), end, end


def _write(corpus, tokenizer, blacklist, block_size, temporary, progress) -> dict[str, int]:
    """Write blocks.arrow and return the totals."""
    begin, separator, end = special_ids(tokenizer)
    special = (begin, end, tokenizer.pad_token_id)
    capacity = block_size - (1 if end is None else 2)
    next_ids = {"word_ids": 0, "unit_ids": 0}
    totals = {"tokens": 0, "matched": 0, "sensitive_tokens": 0, "trainable": False}
    carry = np.zeros((7, 0), dtype=np.int64)
    schema = FEATURES.arrow_schema
    bar = tqdm(total=len(corpus), desc="encode", unit="record", delay=2, disable=not progress, leave=False)
    with bar, pa.OSFile(str(temporary / "blocks.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first, texts, identifiers in _batches(corpus):
            hits = list(map(blacklist.find, texts, identifiers))
            totals["matched"] += sum(map(len, hits))
            totals["trainable"] = totals["trainable"] or any(map(_leaves_words, texts, hits))
            stream = _encode_records(texts, first, tokenizer, hits, separator)
            _check_terms(stream, capacity, corpus)
            totals["tokens"] += int((stream[6] >= 0).sum())
            totals["sensitive_tokens"] += int((stream[3] > 0).sum())
            stream = np.concatenate((carry, stream), axis=1)
            bounds = list(_pack(stream, capacity, last=first + len(texts) >= len(corpus)))
            carry = stream[:, bounds[-1][1] :] if bounds else stream
            bounds = [b for b in (_without_separators(stream, *b) for b in bounds) if b[0] < b[1]]
            if bounds:
                writer.write_batch(_batch(_rows(stream, bounds, block_size, special, next_ids), schema))
            bar.update(len(texts))
    return totals | {"units": next_ids["unit_ids"]}


def _batches(corpus: Dataset) -> Iterator[tuple[int, list[str], list[list[dict]]]]:
    """(index of the first, texts, annotated spans) of successive records: as many as hold CHARACTERS, at least one."""
    first, texts, identifiers, size = 0, [], [], 0
    for batch in corpus.select_columns(["text", "identifiers"]).iter(batch_size=256):
        for text, spans in zip(batch["text"], batch["identifiers"]):
            if texts and size + len(text) > CHARACTERS:
                yield first, texts, identifiers
                first, texts, identifiers, size = first + len(texts), [], [], 0
            texts.append(text)
            identifiers.append(spans)
            size += len(text)
    if texts:
        yield first, texts, identifiers


def _info(tokenizer, blacklist, block_size, totals) -> dict:
    begin, _, _ = special_ids(tokenizer)
    return {
        "causal": is_causal(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": begin,
        "unk_token_id": tokenizer.unk_token_id,
        "vocab_size": len(tokenizer),
        "tokenizer": Path(tokenizer.name_or_path).name,
        "block_size": block_size,
        "terms": len(blacklist),
        **totals,
    }


def _batch(rows: dict[str, np.ndarray], schema: pa.Schema) -> pa.RecordBatch:
    count, size = rows["input_ids"].shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * size)
    columns = [pa.ListArray.from_arrays(offsets, pa.array(rows[name].reshape(-1))) for name in schema.names]
    return pa.RecordBatch.from_arrays([c.cast(schema.field(i).type) for i, c in enumerate(columns)], schema=schema)


def _open(folder: Path) -> Dataset:
    description = (folder / "blocks.json").read_text(encoding="utf-8")
    return Dataset.from_file(str(folder / "blocks.arrow"), info=DatasetInfo(description=description, features=FEATURES))


def info(blocks: Dataset) -> dict:
    """What `encode` wrote down of its blocks: mask, pad, bos and unk ids, tokenizer name, numbers of terms, units."""
    try:
        return json.loads(blocks.info.description)
    except (json.JSONDecodeError, TypeError):
        raise ValueError("these are not blocks; make them with sani.encode(corpus, tokenizer, blacklist)") from None


def tensors(blocks: Dataset, *names: str) -> dict[str, torch.Tensor]:
    """Columns of blocks as tensors (rows, block_size), int64 but for attention_mask and sensitive (int8)."""
    names = names or tuple(DTYPES)
    if missing := set(names) - set(blocks.column_names):
        raise ValueError(f"the blocks lack the columns {sorted(missing)}; make them with sani.encode(...)")
    if len(blocks) == 0:
        raise ValueError("the blocks are empty: nothing to train or measure on")
    table = blocks.select_columns(list(names)).with_format("arrow")[:]
    size = info(blocks)["block_size"]
    result = {}
    for name in names:
        values = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        result[name] = torch.from_numpy(values.astype(np.int8 if DTYPES[name] == "int8" else np.int64))
    return result


def _check(tokenizer, block_size: int) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("the tokenizer is a slow one, without offsets; load it with AutoTokenizer (use_fast)")
    begin, separator, _ = special_ids(tokenizer)
    if begin is None or separator is None:
        raise ValueError(
            "the tokenizer has no mask token, so it is taken for a causal model's, but neither has it a bos token"
            if is_causal(tokenizer)
            else "the tokenizer has no tokens to begin and end a row with: set its cls_token and sep_token"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token; load it with sani.load_model, or set its pad_token")
    if is_causal(tokenizer) and tokenizer.pad_token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        raise ValueError(
            "the tokenizer pads with its begin or end token, but PPCLM needs a padding token of its own; load it with "
            "sani.load_model, which adds one"
        )
    limit = min(tokenizer.model_max_length, 1 << 20)
    if not 8 <= block_size <= limit:
        raise ValueError(f"block_size={block_size} is out of range: 8 to {limit} (the tokenizer's model_max_length)")


def _check_terms(stream: np.ndarray, capacity: int, corpus: Dataset) -> None:
    starts = np.flatnonzero(stream[2])
    lengths = np.diff(np.append(starts, stream.shape[1]))
    too_long = (lengths > capacity) & (stream[3, starts] > 0)
    if too_long.any():
        record_id = corpus[int(stream[6, starts[too_long][0]])]["record_id"]
        raise ValueError(
            f"record {record_id!r} holds a blacklisted term of {lengths[too_long][0]} tokens, longer than a row "
            f"({capacity} tokens of text); raise block_size or shorten the term"
        )


def _leaves_words(text: str, hits) -> bool:
    """Whether a letter or digit stands outside the hits."""
    starts, ends = [0, *(h.end for h in hits)], [*(h.start for h in hits), len(text)]
    return any(c.isalnum() for a, b in zip(starts, ends) for c in text[a:b])


def _check_totals(totals: dict, allow_no_match: bool, blacklist: Blacklist) -> None:
    if totals["tokens"] == 0:
        raise ValueError("the corpus has no token in it: every text is empty or white space")
    if len(blacklist) and not totals["matched"] and not allow_no_match:
        raise ValueError(
            f"none of the {len(blacklist)} blacklisted terms stands in the corpus; check the blacklist's language, "
            "spelling and file, or pass allow_no_match=True"
        )
    if not totals["trainable"]:
        raise ValueError("the blacklist covers the whole corpus: no word is left to train on; shorten the blacklist")
