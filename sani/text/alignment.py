"""Which characters a token covers and which word it belongs to, for WordPiece, byte-level BPE and SentencePiece."""

import numpy as np
import regex
from transformers import BatchEncoding, PreTrainedTokenizerBase

from .matching import JOINED, LETTER

OTHER, SPACE, WORDLY, MARK, UNSEEN = range(5)
_NUMBERS = {None: OTHER, "letter": WORDLY, "mark": MARK, "space": SPACE}
_PARTS = regex.compile(rf"(?P<letter>{LETTER})|(?P<mark>{JOINED})|(?P<space>\s)", regex.V1)
_KINDS = np.full(0x110000, UNSEEN, dtype=np.uint8)  # of the characters met so far


def kinds(text: str) -> np.ndarray:
    """The kind of each character, uint8 (n,): white space, letter or digit, what goes on a word (marks, …), other."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    found = _KINDS[codes]
    if (unseen := found == UNSEEN).any():
        for code in np.unique(codes[unseen]).tolist():
            part = _PARTS.match(chr(code))
            _KINDS[code] = _NUMBERS[part and part.lastgroup]
        found = _KINDS[codes]
    return found


def encoded(texts: str | list[str], tokenizer: PreTrainedTokenizerBase) -> BatchEncoding:
    """Ids and offsets of texts without special tokens; "[MASK]" in a text is text."""
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    return tokenizer(texts, **options, verbose=False)


def align(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (n,) of a text without special tokens, and character offsets (n, 2) trimmed of white space, int64.

    The offsets cover every character that the tokenizer keeps; two tokens share one only when both are pieces of it.
    """
    encoding = encoded(text, tokenizer)
    ids = np.asarray(encoding["input_ids"], dtype=np.int64)
    return ids, trim(kinds(text), np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2))


def trim(kinds: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Move both ends of each offset (n, 2) past white space; a token of white space alone keeps its own."""
    space = np.append(kinds == SPACE, True)
    starts, ends = offsets.T
    if not (space[starts].any() or space[ends - 1].any()):
        return offsets
    where = np.arange(len(space), dtype=np.int32)
    after = np.minimum.accumulate(np.where(space, len(kinds), where)[::-1])[::-1]  # next other character, from each
    before = np.maximum.accumulate(np.where(space, -1, where))  # last other character, up to each
    new_starts, new_ends = after[starts], np.concatenate(([-1], before))[ends] + 1
    blank = new_starts >= new_ends
    return np.stack((np.where(blank, starts, new_starts), np.where(blank, ends, new_ends)), axis=1)


def words(kinds: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The word (index) of each token; words that a token spans together count as one.

    Every character that is not white space belongs to exactly one word: letters and digits with their marks, or one
    other character. kinds (characters,) and offsets (n, 2), trimmed, of a text.
    """
    inside = kinds == WORDLY
    if (marks := kinds == MARK).any():
        base = np.maximum.accumulate(np.where(marks, 0, np.arange(len(kinds))))
        inside |= marks & inside[base]
    begins = kinds != SPACE
    begins[1:] &= ~(inside[1:] & inside[:-1])
    # With a blank before and after the text, an empty token at either end has a character to be looked up by.
    index = np.concatenate(([-1], np.cumsum(begins) - 1, [begins.sum() - 1]))
    blank = np.concatenate(([True], kinds == SPACE, [True]))
    starts, ends = offsets.T
    first = index[starts + 1] + blank[starts + 1]
    last = index[ends]
    if not (several := last > first).any():
        return np.where(last < first, -1 - first, first)
    joined = np.zeros(index[-1] + 2, dtype=bool)
    for a, b in zip(first[several], last[several]):
        joined[a + 1 : b + 1] = True
    # White space alone stands between two words: a word of its own.
    return np.where(last < first, -1 - first, np.cumsum(~joined)[first])
