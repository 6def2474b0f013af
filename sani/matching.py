"""Where terms stand in a text: whole words, across white space, line ends and hyphens (PAPER §3.1)."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import compress, islice
from typing import NamedTuple

# A word (letters and digits, with combining marks) or one other character; no hyphens or underscores, which
# separate words like white space does, so that "Jean-Pierre" and "Jean Pierre" are one term.
ATOM = re.compile(r"[^\W_]+(?:[\u0300-\u036f]+[^\W_]*)*|[^\w\s\-\u00ad\u2010-\u2015]")
WORD = re.compile(r"[^\W_]+(?:[\u0300-\u036f]+[^\W_]*)*")
Key = tuple[str, ...]


class Hit(NamedTuple):
    """A blacklisted term found in a text: characters start to end; `gold` if it lies on an annotated span."""

    start: int
    end: int
    term_id: int
    kind: str
    gold: bool


@lru_cache(maxsize=1 << 18)
def fold(word: str) -> str:
    """A word whatever its case."""
    return unicodedata.normalize("NFKC", word).casefold()


@lru_cache(maxsize=1 << 18)
def compose(word: str) -> str:
    """A word in its own case."""
    return unicodedata.normalize("NFKC", word)


def key_of(term: str, normal: Callable[[str], str]) -> Key:
    """The words a term is matched by, without punctuation at its ends; () if there is no letter or digit."""
    atoms = [normal(atom) for atom in ATOM.findall(term)]
    words = [i for i, atom in enumerate(atoms) if atom[0].isalnum()]
    return tuple(atoms[words[0] : words[-1] + 1]) if words else ()


class _Letters(dict):
    """For `str.translate`: letters and digits as a normal word has them, all that parts words as a space.

    NUL stands for what only the whole word can tell: marks, Hangul jamo, characters that become several ("ß").
    """

    def __init__(self, normal: Callable[[str], str]):
        self.normal = normal

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        found = self.normal(letter)
        plain = letter.isalnum() and len(found) == 1 and found.isalnum() and not "\u1100" <= found <= "\u11ff"
        joins = letter.isalnum() or "\u0300" <= letter <= "\u036f" or any(c.isalnum() for c in found)
        self[code] = value = found if plain else "\0" if joins else " "
        return value


class Matcher:
    """Finds terms, given as keys with their ids. A text costs a few passes of C, and Python only where a term begins.

    `normal` (`fold` or `compose`) is what the words of the keys and of the text are compared by.
    """

    def __init__(self, ids: Mapping[Key, int], normal: Callable[[str], str]):
        self.ids, self.normal, self.letters = ids, normal, _Letters(normal)
        lengths: dict[str, set[int]] = defaultdict(set)
        for words in ids:
            lengths[words[0]].add(len(words))
        self.lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def find(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, id) of every occurrence of every term, overlapping ones too, in order of their start."""
        normal, lengths = f" {text.translate(self.letters)} ", self.lengths
        parts = normal.split(" ")
        if "\0" in normal:
            begun = [part for part in parts if part in lengths or "\0" in part]
        else:
            begun = compress(parts, map(lengths.__contains__, parts))
        hits: list[tuple[int, int, int]] = []
        space = 0
        for part in begun:
            # No other place of this part lies between, for it would be in the list as well.
            space = normal.find(f" {part} ", space)
            start, space = space, space + len(part) + 1
            if "\0" not in part:
                self._add(hits, text, normal, start, start + len(part), part)
                continue
            for atom in ATOM.finditer(text, start, start + len(part)):
                if (word := self.normal(atom.group())) in lengths:
                    self._add(hits, text, normal, atom.start(), atom.end(), word)
        return hits

    def _add(self, hits: list, text: str, normal: str, start: int, end: int, first: str) -> None:
        """Append the terms that begin with the word at start to end of the text."""
        lengths = self.lengths[first]
        if lengths == [1]:
            hits.append((start, end, self.ids[(first,)]))
            return
        words, ends = (first,), [end]
        for atom in islice(ATOM.finditer(text, end), lengths[0] - 1):
            word = normal[atom.start() + 1 : atom.end() + 1]
            words += (word if word.isalnum() else self.normal(atom.group()),)
            ends.append(atom.end())
        for length in lengths:
            if len(words) >= length and (found := self.ids.get(words[:length])) is not None:
                hits.append((start, ends[length - 1], found))
