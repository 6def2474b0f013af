"""Blocks: a corpus as rows of tokens that know their word, their unit and whether they are blacklisted."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets import Dataset, DatasetInfo, Features, Sequence, Value
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .devices import processes
from .models import vocabulary
from .runs import checked, code_fingerprint, fingerprint, keyed, made, named_folder, runs_folder, unfinished
from .text.blacklists import Blacklist
from .text.packing import DTYPES, RECORD, ROWS, known_of, pack, rows_of, stream_of, without_separators

FEATURES = Features({name: Sequence(Value(dtype)) for name, dtype in DTYPES.items()})
CORPUS = ("text", "record_id", "person_id", "identifiers")  # its columns
CHARACTERS = 1 << 20  # encoded at once


def check_corpus(corpus: Dataset) -> Dataset:
    """The corpus itself; TypeError for anything else, ValueError for a Dataset without a corpus's columns."""
    checked("corpus", corpus, Dataset)
    if missing := [column for column in CORPUS if column not in corpus.column_names]:
        raise ValueError(f"the corpus has no column {', '.join(missing)}; load it with load_corpus(…)")
    return corpus


def corpus_fingerprint(corpus: Dataset) -> str:
    """16 hex digits that change with any text, person or annotated span of a corpus.

    Not keyed: what has the same text has the same digits; write it down of public text only, else `runs.keyed` of it.
    """
    digest = hashlib.sha256()
    for batch in corpus.select_columns(list(CORPUS)).iter(batch_size=256):
        for row in zip(*(batch[name] for name in CORPUS)):
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
    (row of the corpus), gold (1 on annotated spans), person_ids (numbered as they come), and of listed terms type_ids
    (as in `info(blocks)["types"]`) and styles (their capitals and leading blank, as far as the tokenizer shows them);
    −1 on special tokens and padding. Records in a row are parted by the separator token, those for causal models
    (tokenizers without mask token) begin with bos. What the tokenizer writes like a listed term counts as that term:
    with an uncased one that drops accents, "Jose" as "José". Blocks hold the text in clear: they lie in `run_dir`, by
    default `runs/blocks-<hash>`, mode 0700. Of several processes, which must all call this, the main one encodes.
    Raises TypeError or ValueError, before anything is written, for another Dataset than `load_corpus` makes, an unfit
    tokenizer, a block size out of range, a blacklist that matches nothing (unless `allow_no_match`) or everything, a
    term longer than a row. Warns, by their number, of terms that stand nowhere while others do.
    """
    check_corpus(corpus)
    blacklist = Blacklist() if blacklist is None else checked("blacklist", blacklist, Blacklist)
    _check_tokenizer(tokenizer, checked("block_size", block_size, int))
    key = keyed(
        code_fingerprint(__name__),
        corpus_fingerprint(corpus),
        blacklist.fingerprint,
        fingerprint(tokenizer.backend_tokenizer.to_str(), tokenizer.mask_token_id, tokenizer.pad_token_id),
        block_size,
    )
    folder = runs_folder() / f"blocks-{key}" if run_dir is None else named_folder(run_dir)
    with processes().main_process_first():
        return _encoded(corpus, tokenizer, blacklist, block_size, folder, key, allow_no_match, progress)


def _encoded(corpus, tokenizer, blacklist, block_size, folder, key, allow_no_match, progress) -> Dataset:
    """The blocks of a folder, written there first if it is empty."""
    if (folder / "blocks.json").exists():
        found = json.loads((folder / "blocks.json").read_text(encoding="utf-8"))
        if found["fingerprint"] != key:
            raise ValueError(f"{folder} holds other blocks; choose another run_dir or delete that folder")
        _check_matches(found, allow_no_match, len(blacklist))
        return _open(folder)
    if not unfinished(folder):
        raise ValueError(f"{folder} is not empty and holds no blocks; choose another run_dir")
    with made(folder) as part:
        if part is not None:  # else another process was faster
            totals = _write(corpus, tokenizer, blacklist, block_size, part, progress)
            _check_matches(totals, allow_no_match, len(blacklist))
            written = {"fingerprint": key} | _info(tokenizer, blacklist, block_size, totals)
            (part / "blocks.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    return _open(folder)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int | None]:
    """The ids that begin a row, that part two records in it, and that end it.

    In causal rows (of a tokenizer without mask token) each record begins with bos (GPT-2's end of text), and nothing
    ends a row.
    """

    def first(*ids):
        return next((i for i in ids if i is not None), None)

    if tokenizer.mask_token_id is None:
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
    finder, seen = blacklist.finder(tokenizer), set()
    carry = np.zeros((3 + len(ROWS), 0), dtype=np.int64)
    types = pd.Categorical(blacklist.terms()["type"])
    known = known_of(pd.factorize(pd.Series(corpus["person_id"]))[0], types.codes.astype(np.int64), tokenizer)
    schema = FEATURES.arrow_schema
    bar = tqdm(total=len(corpus), desc="encode", unit="record", delay=2, disable=not progress, leave=False)
    with bar, pa.OSFile(str(temporary / "blocks.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first, texts, identifiers in _batches(corpus):
            candidates = list(map(finder.candidates, texts, identifiers))
            seen.update(hit.term_id for of_text in candidates for hit in of_text)
            hits = list(map(finder.apart, texts, candidates, identifiers))
            totals["matched"] += sum(map(len, hits))
            totals["trainable"] = totals["trainable"] or any(map(_leaves_words, texts, hits))
            stream = stream_of(texts, first, tokenizer, hits, separator, known)
            _check_lengths(stream, capacity, corpus)
            totals["tokens"] += int((stream[RECORD] >= 0).sum())
            totals["sensitive_tokens"] += int((stream[3] > 0).sum())
            stream = np.concatenate((carry, stream), axis=1)
            bounds = list(pack(stream, capacity, last=first + len(texts) >= len(corpus)))
            carry = stream[:, bounds[-1][1] :] if bounds else stream
            bounds = [b for b in (without_separators(stream, *b) for b in bounds) if b[0] < b[1]]
            if bounds:
                rows = rows_of(stream, bounds, block_size, special, next_ids)
                columns = [pa.array(list(rows[field.name]), field.type) for field in schema]
                writer.write_batch(pa.record_batch(columns, schema=schema))
            bar.update(len(texts))
    unmatched = sum(finder.counted_as.get(i, i) not in seen for i in range(len(blacklist)))
    return totals | {"units": next_ids["unit_ids"], "unmatched": unmatched, "types": list(types.categories)}


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
    return {
        "causal": tokenizer.mask_token_id is None,
        "mask_token_id": tokenizer.mask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": special_ids(tokenizer)[0],
        "unk_token_id": tokenizer.unk_token_id,
        "vocab_size": len(tokenizer),
        "tokenizer": Path(tokenizer.name_or_path).name,
        "vocabulary": vocabulary(tokenizer),
        "blacklist": blacklist.fingerprint,
        "block_size": block_size,
        "terms": len(blacklist),
        **totals,
    }


def _open(folder: Path) -> Dataset:
    description = (folder / "blocks.json").read_text(encoding="utf-8")
    return Dataset.from_file(str(folder / "blocks.arrow"), info=DatasetInfo(description=description, features=FEATURES))


def info(blocks: Dataset) -> dict:
    """What `encode` wrote down of its blocks: mask, pad, bos and unk ids, tokenizer name, numbers of terms, units."""
    if not isinstance(blocks, Dataset):
        raise TypeError(f"blocks is a {type(blocks).__name__}; make them with sani.encode(corpus, tokenizer, …)")
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


def _check_tokenizer(tokenizer, block_size: int) -> None:
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"tokenizer is a {type(tokenizer).__name__}; load it with sani.load_model or AutoTokenizer")
    causal, pad = tokenizer.mask_token_id is None, tokenizer.pad_token_id
    no_ends = None in special_ids(tokenizer)[:2]
    unfit = {
        "is a slow one, without offsets; load it with AutoTokenizer (use_fast)": not tokenizer.is_fast,
        "has no mask token, so it is taken for a causal model's, but neither has it a bos token": causal and no_ends,
        "has no tokens to begin and end a row with: set its cls_token and sep_token": no_ends,
        "has no padding token; load it with sani.load_model, or set its pad_token": pad is None,
        "pads with its begin or end token; load it with sani.load_model, to have one for PPCLM": causal
        and pad in (tokenizer.bos_token_id, tokenizer.eos_token_id),
    }
    if wrong := [what for what, true in unfit.items() if true]:
        raise ValueError(f"the tokenizer {wrong[0]}")
    limit = min(tokenizer.model_max_length, 1 << 20)
    if not 8 <= block_size <= limit:
        raise ValueError(f"block_size={block_size} is out of range: 8 to {limit} (the tokenizer's model_max_length)")


def _check_lengths(stream: np.ndarray, capacity: int, corpus: Dataset) -> None:
    starts = np.flatnonzero(stream[2])
    lengths = np.diff(np.append(starts, stream.shape[1]))
    too_long = (lengths > capacity) & (stream[3, starts] > 0)
    if too_long.any():
        record_id = corpus[int(stream[RECORD, starts[too_long][0]])]["record_id"]
        raise ValueError(
            f"record {record_id!r} holds a blacklisted term of {lengths[too_long][0]} tokens, longer than a row "
            f"({capacity} tokens of text); raise block_size or shorten the term"
        )


def _leaves_words(text: str, hits) -> bool:
    """Whether a letter or digit stands outside the hits."""
    starts, ends = [0, *(h.end for h in hits)], [*(h.start for h in hits), len(text)]
    return any(c.isalnum() for a, b in zip(starts, ends) for c in text[a:b])


def _check_matches(totals: dict, allow_no_match: bool, terms: int) -> None:
    if totals["tokens"] == 0:
        raise ValueError("the corpus has no token in it: every text is empty or white space")
    if terms and not totals["matched"] and not allow_no_match:
        raise ValueError(
            f"none of the {terms} blacklisted terms stands in the corpus; check the blacklist's language, "
            "spelling and file, or pass allow_no_match=True"
        )
    if not totals["trainable"]:
        raise ValueError("the blacklist covers the whole corpus: no word is left to train on; shorten the blacklist")
    if totals["matched"] and totals["unmatched"] and not allow_no_match:
        warnings.warn(
            f"{totals['unmatched']} of the {terms} blacklisted terms stand nowhere in the corpus: nothing of them is "
            "measured; check their spelling, or pass allow_no_match=True if they belong to other text",
            stacklevel=4,
        )
