"""Records as one stream of tokens that know their word and their term, and the stream as rows."""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from . import alignment
from .matching import KINDS, Hit, as_read_by, compose

DTYPES = {
    "input_ids": "int32",
    "attention_mask": "int8",
    "word_ids": "int32",
    "unit_ids": "int32",
    "sensitive": "int8",
    "term_ids": "int32",
    "record_ids": "int32",
    "gold": "int8",
    "person_ids": "int32",
    "type_ids": "int16",
    "styles": "int8",
}
ROWS = ("sensitive", "term_ids", "gold", "record_ids", "person_ids", "type_ids", "styles")
RECORD = 3 + ROWS.index("record_ids")  # its row in a stream
CODES = {kind: code for code, kind in enumerate(KINDS, start=1)}


def _changes(values: np.ndarray) -> np.ndarray:
    return np.concatenate(([True], values[1:] != values[:-1]))[: len(values)]


class Known(NamedTuple):
    """What is known of a corpus before its text is read: by record, by term, and by token of the vocabulary."""

    persons: np.ndarray  # int64 (records,)
    types: np.ndarray  # int64 (terms,)
    spaced: np.ndarray  # bool (vocabulary,): the token begins with a blank
    blank: np.ndarray  # bool (vocabulary,): it is nothing but SentencePiece's blanks, "▁" or several
    cased: bool  # the tokenizer tells capitals from small letters


def known_of(persons: np.ndarray, types: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> Known:
    """What `stream_of` needs to know besides the text."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    spaced = np.array([token.startswith(("Ġ", "▁")) for token in tokens])
    blank = np.array([bool(token) and not token.strip("▁") for token in tokens])
    return Known(persons, types, spaced, blank, as_read_by(tokenizer, compose)("A") == "A")


def case_of(text: str) -> int:
    """How a term is written: 0 in small letters (or without letters), 1 with capitals, 2 in capitals alone."""
    return 0 if text == text.lower() else 2 if text == text.upper() and len(text) > 1 else 1


def stream_of(
    texts: list[str], first: int, tokenizer: PreTrainedTokenizerBase, hits: list[list[Hit]], separator: int,
    known: Known,
) -> np.ndarray:  # fmt: skip
    """Records as one array (columns, tokens): id, new word?, new unit?, then the columns of ROWS.

    Between two of them, and before all but the corpus's first, stands a separator, of no record.
    """
    encoding = alignment.encoded(texts, tokenizer)
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
        (base + h.start, base + h.end, CODES[h.kind], h.term_id, h.gold, known.types[h.term_id],
         known.cased and 2 * case_of(text[h.start : h.end]))
        for base, text, of_text in zip(bases.tolist(), texts, hits)
        for h in of_text
    ]  # fmt: skip
    table = np.array([*found, (0, 0, 0, -1, 0, -1, -1)], dtype=np.int64)
    spans = table[:-1, :2]
    index = np.searchsorted(spans[:, 1], offsets[:, 0], side="right")
    inside = index < len(spans)
    # SentencePiece's "▁" of its own belongs to what follows it, which an unknown token for the white space does not.
    lone = known.blank[ids] & (ids != tokenizer.unk_token_id)
    lone[:-1] &= offsets[1:, 0] >= offsets[:-1, 1]
    ends = offsets[:, 1] + (lone & (np.append(of_character, 0)[offsets[:, 0]] == alignment.SPACE))
    inside[inside] = spans[index[inside], 0] < ends[inside]
    units = np.where(inside, len(of_character) + 1 + index, words)
    begins = np.flatnonzero(inside & _changes(units))
    table[index[begins], 6] += known.spaced[ids[begins]]
    sensitive, term, gold, kind, style = table[np.where(inside, index, len(spans)), 2:].T
    records = np.repeat(first + np.arange(len(texts)), counts)
    new = _changes(records)
    changes = _changes(words) | new, _changes(units) | new
    stream = np.stack((ids, *changes, sensitive, term, gold, records, known.persons[records], kind, style))
    starts = (np.cumsum(counts) - counts)[(1 if first == 0 else 0) :]
    return np.insert(stream, starts, np.array([[separator], [1], [1], *[[-1]] * len(ROWS)]), axis=1)


def pack(stream: np.ndarray, capacity: int, last: bool) -> Iterator[tuple[int, int]]:
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


def without_separators(stream: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Bounds of a row that neither begins nor ends with a separator of records."""
    text = np.flatnonzero(stream[RECORD, start:end] >= 0)
    return (start + int(text[0]), start + int(text[-1]) + 1) if len(text) else (start, start)


def rows_of(stream, bounds, block_size, special, next_ids) -> dict[str, np.ndarray]:
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
        text = piece[RECORD] >= 0
        rows["input_ids"][r, 0], rows["input_ids"][r, n + 1 : n + 1 + len(finish)] = begin, finish
        rows["attention_mask"][r, : n + 1 + len(finish)] = 1
        rows["input_ids"][r, body] = piece[0]
        for name, changes in (("word_ids", piece[1]), ("unit_ids", piece[2])):
            new = changes.astype(bool) & text
            new[np.flatnonzero(text)[:1]] = True
            rows[name][r, body] = np.where(text, next_ids[name] + np.cumsum(new) - 1, -1)
            next_ids[name] += int(new.sum())
        for name, values in zip(ROWS, piece[3:]):
            rows[name][r, body] = np.where(text, values, -1)
    return rows
