"""Where terms stand in a text: words by script, across white space, line ends, hyphens, and what is unseen (§3.1)."""

import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import regex
from transformers import PreTrainedTokenizerBase

Key = tuple[str, ...]
KINDS = ("direct", "indirect", "confidential")  # strongest first

APOSTROPHES = "'’‘‛ʼʹʻʽ`´′＇՚׳"  # alike; some are letters to Unicode
HYPHENS = r"\p{Pd}\u00b7\u02d7\u2027\u2043\u2212\u30fb\uff65"  # they part words as white space does, and so does "_"
UNSEEN = r"[[\p{C}\p{Default_Ignorable_Code_Point}\ufffd]--\s]"  # most tokenizers drop these
# What goes on a word: marks, Hangul vowels and finals, voicing of half-width kana, and what is not seen.
JOINED = rf"[\p{{M}}\u1160-\u11ff\uff9e\uff9f{UNSEEN}]"
# Written without spaces, or with particles that stick to a name: each letter is a word.
SCRIPTS = {name: rf"\p{{{name}}}" for name in "Han Hiragana Hangul Thai Lao Khmer Myanmar".split()}
SCRIPTS["Katakana"] = r"\p{Katakana}\u30fc\uff70"

LETTER = rf"[[\p{{L}}\p{{N}}]--[{APOSTROPHES}]]"
WORD = regex.compile(rf"{LETTER}(?:{LETTER}|{JOINED})*", regex.V1)  # what `mlm` draws and rarity counts
_WRITTEN = regex.compile(rf"{WORD.pattern}|[[^\s_{HYPHENS}]--{JOINED}]", regex.V1)
_UNSEEN = regex.compile(UNSEEN, regex.V1)
_BROKEN = regex.compile(rf"[{HYPHENS}\u00ad][^\S\n]*\n\s*(?=\p{{L}})", regex.V1)
_FREE = re.compile(rb"\x01+")
_ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)  # spread a hash over its upper bits
_TO_APOSTROPHE = str.maketrans(dict.fromkeys(APOSTROPHES, "'"))


@lru_cache(maxsize=1 << 18)
def fold(word: str) -> str:
    """A word whatever its case."""
    return compose(word).casefold()


@lru_cache(maxsize=1 << 18)
def compose(word: str) -> str:
    """A word in its own case, without what is not seen in it."""
    return unicodedata.normalize("NFKC", _UNSEEN.sub("", word).translate(_TO_APOSTROPHE))


@dataclass(frozen=True)
class Rules:
    """What counts as the same term: in its own case or any; and, by script, whole words only or any place in a word.

    Words are runs of letters or of digits, so that "Smith" is found in "Smith2". Of the scripts of `SCRIPTS` every
    letter is a word, unless `whole_words` names the script: 田中 is found in 昨日田中さんは.
    Raises ValueError for another script.
    """

    case_sensitive: bool = False
    whole_words: tuple[str, ...] = ()

    def __post_init__(self):
        if isinstance(self.whole_words, str) or (unknown := set(self.whole_words) - SCRIPTS.keys()):
            named = self.whole_words if isinstance(self.whole_words, str) else sorted(unknown)
            raise ValueError(f"whole_words={named!r}: need a list of scripts out of {', '.join(SCRIPTS)}")
        object.__setattr__(self, "whole_words", tuple(sorted(self.whole_words)))

    @property
    def normal(self) -> Callable[[str], str]:
        """What words are compared by."""
        return compose if self.case_sensitive else fold

    @cached_property
    def letters(self) -> str:
        """The class of letters that make words together."""
        alone = "".join(letters for name, letters in SCRIPTS.items() if name not in self.whole_words)
        return rf"[\p{{L}}--[{APOSTROPHES}{alone}{JOINED}]]"

    @cached_property
    def atom(self) -> regex.Pattern:
        """A letter that is a word, a run of letters, a run of digits, or one sign."""
        run, digits = rf"{self.letters}(?:{self.letters}|{JOINED})*", rf"\p{{N}}[\p{{N}}{JOINED}]*"
        sign = rf"[[^\p{{L}}\p{{N}}\s_{HYPHENS}]--{JOINED}]|[{APOSTROPHES}]"
        return regex.compile(rf"{run}|{digits}|{sign}|[\p{{L}}--{JOINED}]{JOINED}*", regex.V1)

    def words(self, term: str) -> Key:
        """The words and signs of a term as people write them, "B12" as one, without signs at its ends."""
        return self._bare(_WRITTEN.findall(term))

    def key(self, term: str) -> Key:
        """The words a term is matched by, without punctuation at its ends; () if there is no letter or digit."""
        return self._bare(self.atom.findall(term))

    def _bare(self, atoms: list[str]) -> Key:
        atoms = [self.normal(atom) for atom in atoms]
        words = [i for i, atom in enumerate(atoms) if atom[:1].isalnum()]
        return tuple(atoms[words[0] : words[-1] + 1]) if words else ()


class Hit(NamedTuple):
    """A blacklisted term found in a text: characters start to end; `gold` if it lies on an annotated span."""

    start: int
    end: int
    term_id: int
    kind: str
    gold: bool


def as_read_by(tokenizer: PreTrainedTokenizerBase | None, normal: Callable[[str], str]) -> Callable[[str], str]:
    """What words are compared by where a tokenizer reads them: it may drop case, accents and other marks."""
    normalizer = None if tokenizer is None else tokenizer.backend_tokenizer.normalizer
    if normalizer is None:
        return normal

    @lru_cache(maxsize=1 << 18)
    def read(word: str) -> str:
        found = "".join(normalizer.normalize_str(normal(word)).replace("▁", " ").split())
        return normal(found) or normal(word)

    return read


class _Letters(dict):
    """For `str.translate`: letters as a normal word has them, all that parts words as a space.

    NUL stands for what only the pattern of `Rules.atom` can tell: digits, letters that are words, marks, Hangul jamo,
    characters that become several ("ß").
    """

    def __init__(self, rules: Rules, normal: Callable[[str], str]):
        self.normal, self.plain = normal, regex.compile(rf"[{rules.letters}--[\u1100-\u11ff]]", regex.V1)
        self.joined = regex.compile(rf"{LETTER}|{JOINED}", regex.V1)

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        found = self.normal(letter)
        plain = len(found) == 1 and found.isalpha() and self.plain.fullmatch(letter) and self.plain.fullmatch(found)
        apart = letter in APOSTROPHES or not (self.joined.match(letter) or any(c.isalnum() for c in found))
        self[code] = value = found if plain else " " if apart else "\0"
        return value


class Matcher:
    """Finds terms, given as keys with their ids. A text costs a few passes of C, and Python only where a term begins.

    `normal` is what the words of the keys and of the text are compared by: that of the rules, or `as_read_by`.
    """

    def __init__(self, ids: Mapping[Key, int], rules: Rules, normal: Callable[[str], str] | None = None):
        self.ids, self.atom, self.normal = ids, rules.atom, normal or rules.normal
        self.letters = _Letters(rules, self.normal)
        lengths: dict[str, set[int]] = defaultdict(set)
        for words in ids:
            lengths[words[0]].add(len(words))
        self.lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        words = np.zeros(1 << max(16, len(self.lengths).bit_length() + 5), dtype=bool)
        self.suspect = words
        words[self._hashes(f" {' '.join(self.lengths)} ")[1]] = True

    def find(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, id) of every occurrence of every term, overlapping ones too, sorted."""
        hits = self._find(text)
        if "\n" in text and _BROKEN.search(text):  # words broken at line ends count as one word, and as two
            hits = sorted({*hits, *self._find(_BROKEN.sub(lambda broken: "\u2060" * len(broken[0]), text))})
        return hits

    def _find(self, text: str) -> list[tuple[int, int, int]]:
        normal, hits = f" {text.translate(self.letters)} ", []
        starts, hashes = self._hashes(normal)
        for start in starts[self.suspect[hashes]].tolist():
            end = normal.find(" ", start)
            if (word := normal[start:end]) in self.lengths:
                self._add(hits, text, normal, start - 1, end - 1, word)
        end = 0
        while (at := normal.find("\0", end)) >= 0:
            start, end = normal.rfind(" ", 0, at), normal.find(" ", at)
            for atom in self.atom.finditer(text, start, end - 1):
                if (word := self.normal(atom.group())) in self.lengths:
                    self._add(hits, text, normal, atom.start(), atom.end(), word)
        hits.sort()
        return hits

    def _hashes(self, normal: str) -> tuple[np.ndarray, np.ndarray]:
        """Where the words between spaces start, and a hash of each: of its length, first three letters and last."""
        codes = np.frombuffer(normal.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        spaces = np.flatnonzero(codes == 32)
        starts, ends = spaces[:-1] + 1, spaces[1:]
        hashes = (ends - starts).astype(np.uint32)
        for odd, at in zip(_ODD, (starts, np.minimum(starts + 1, ends), np.minimum(starts + 2, ends), ends - 1)):
            hashes *= np.uint32(odd)
            hashes += codes[at]
        hashes *= np.uint32(_ODD[0])
        return starts, hashes >> np.uint32(32 - (len(self.suspect) - 1).bit_length())

    def _add(self, hits: list, text: str, normal: str, start: int, end: int, first: str) -> None:
        """Append the terms that begin with the word at start to end of the text."""
        lengths = self.lengths[first]
        if lengths == [1]:
            hits.append((start, end, self.ids[(first,)]))
            return
        words, ends = (first,), [end]
        while len(words) < lengths[0]:
            word = normal[end + 2 : normal.find(" ", end + 2)] if text[end : end + 1] == " " else ""
            if word.isalpha():
                end += 1 + len(word)
            elif (atom := self.atom.search(text, end)) is not None:
                word, end = self.normal(atom.group()), atom.end()
            else:
                break
            words += (word,)
            ends.append(end)
        for length in lengths:
            if len(words) >= length and (found := self.ids.get(words[:length])) is not None:
                hits.append((start, ends[length - 1], found))


class Finder:
    """Finds the terms of a blacklist, given as (key, kind, matched everywhere?), and keeps the hits apart.

    With a tokenizer also what that writes like a listed term; of terms that it writes alike the strongest counts.
    """

    def __init__(self, terms: Sequence[tuple[Key, str, bool]], rules: Rules, tokenizer=None):
        self.rules, self.kinds = rules, [kind for _, kind, _ in terms]
        self.ids = {key: i for i, (key, _, _) in enumerate(terms)}
        normal, ids = as_read_by(tokenizer, rules.normal), {}
        self.counted_as: dict[int, int] = {}  # of terms written alike, the one that is found
        for i in sorted(range(len(terms)), key=lambda i: KINDS.index(self.kinds[i])):
            if terms[i][2]:
                self.counted_as[i] = ids.setdefault(tuple(map(normal, terms[i][0])), i)
        self.matcher = Matcher(ids, rules, normal)

    def candidates(self, text: str, identifiers: Iterable[Mapping] = ()) -> list[Hit]:
        """Every occurrence of every term, overlapping ones too. `identifiers`: the record's annotated spans, if any."""
        kinds = self.kinds
        found = [Hit(start, end, i, kinds[i], False) for start, end, i in self.matcher.find(text)]
        gold = sorted((span["start"], span["end"]) for span in identifiers)
        starts, reach = [start for start, _ in gold], list(accumulate((end for _, end in gold), max))
        for k, hit in enumerate(found if gold else ()):
            before = bisect_right(starts, hit.start)
            if before and reach[before - 1] >= hit.end:
                found[k] = hit._replace(gold=True)
        for start, end in gold:
            if (term_id := self.ids.get(self.rules.key(text[start:end]))) is not None:
                found.append(Hit(start, end, term_id, kinds[term_id], True))
        return found

    def apart(self, text: str, found: list[Hit], identifiers: Iterable[Mapping] = ()) -> list[Hit]:
        """Sorted, disjoint hits that cover every character of the candidates.

        The strongest kind goes first, then what is an annotated span, then the longest; of the others what is left.
        """
        if all(one.end <= two.start for one, two in pairwise(found)):
            return found
        spans = {(span["start"], span["end"]) for span in identifiers}
        found = sorted(found, key=lambda h: (KINDS.index(h.kind), h[:2] not in spans, h.start - h.end, h.start))
        free, pieces = bytearray(b"\x01") * len(text), []
        for hit in found:
            for left in list(_FREE.finditer(free, hit.start, hit.end)):
                start, end = left.span()
                free[start:end] = bytes(end - start)
                piece = text[start:end]
                if piece.strip():
                    start += len(piece) - len(piece.lstrip())
                    pieces.append(hit._replace(start=start, end=start + len(piece.strip())))
        taken: list[Hit] = []
        for hit in sorted(pieces):
            if taken and not any(map(str.isalnum, text[hit.start : hit.end])):  # a sign that another hit left
                hit = taken.pop()._replace(end=hit.end)
            taken.append(hit)
        return taken

    def find(self, text: str, identifiers: Iterable[Mapping] = ()) -> list[Hit]:
        """The terms in a text: sorted, disjoint spans."""
        return self.apart(text, self.candidates(text, identifiers), identifiers)
