"""Surrogates: a corpus with its identifiers replaced by `X` (MLMA), or each resampled by type (the counterfactual).

Both keep the text outside the identifiers and move the offsets of annotated spans along.
"""

import datetime
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, groupby
from string import ascii_uppercase
from unicodedata import category, decimal

from datasets import Dataset
from faker import Faker

from ..blocks import check_corpus
from ..runs import checked, one_of
from ..text.blacklists import Blacklist
from ..text.matching import KINDS
from .grammars import load


def pseudonymize(
    corpus: Dataset, blacklist: Blacklist, replacement: str = "X", kinds: Sequence[str] | str = ("direct",)
) -> Dataset:
    """Replaces every hit of the blacklist of these kinds by `replacement` (the paper's MLMA, §4.1).

    Returns a corpus whose identifiers are the annotated spans that no replacement touched, at their new offsets.
    Raises ValueError for an unknown kind, TypeError for what is no corpus or blacklist.
    """
    kinds = [one_of("kind", kind, KINDS) for kind in ((kinds,) if isinstance(kinds, str) else kinds)]
    checked("blacklist", blacklist, Blacklist)
    checked("replacement", replacement, str)
    rows = []
    for row in check_corpus(corpus):
        hits = [hit for hit in blacklist.find(row["text"], row["identifiers"]) if hit.kind in kinds]
        edits = [(hit.start, hit.end, replacement, None) for hit in hits]
        for span, (_, value) in zip(row["identifiers"], _values(row)):
            if not any(span["start"] < hit.end and hit.start < span["end"] for hit in hits):
                edits.append((span["start"], span["end"], value, span))
        rows.append(_edited(row, edits))
    return Dataset.from_list(rows, features=corpus.features)


def counterfactual(corpus: Dataset, seed: int = 0, others: Dataset | None = None) -> Dataset:
    """Resamples every identifier by its type, in the same form; the text outside the identifiers stays.

    Name words are replaced consistently over the corpus, dates shifted by a number of days per record, digits and
    code letters changed. No new value equals an original one of the corpus, and no word of an original name comes
    back (titles, month names and generic words such as "Hospital" excepted). Where a form has no unused value left
    (ages), the value grows by a digit. `others`: an annotated corpus none of whose words of identifiers is taken as a
    new name, so that its names stay such as a model trained on the result has never read.
    Returns a corpus with spans of the same types and kinds; the same seed gives the same corpus on any machine. Raises
    ValueError for a corpus without identifiers. Source: ours, the control in which the identifiers were never seen.
    """
    checked("seed", seed, int)
    values = [_values(row) for row in check_corpus(corpus)]
    elsewhere = [] if others is None else [value for row in check_corpus(others) for _, value in _values(row)]
    if not any(values):
        raise ValueError("the corpus has no annotated identifiers to resample; annotate it, or load it with its spans")
    resampler, rows = _Resampler(list(chain.from_iterable(values)), seed, elsewhere), []
    for row, old in zip(corpus, values):
        new = [resampler.resample(type_, value, row["record_id"]) for type_, value in old]
        edits = ((span["start"], span["end"], value, span) for span, value in zip(row["identifiers"], new))
        rows.append(_edited(row, edits))
    return Dataset.from_list(rows, features=corpus.features)


def _values(row: dict) -> list[tuple[str, str]]:
    """(type, value) pairs of the identifiers."""
    return [(span["type"], row["text"][span["start"] : span["end"]]) for span in row["identifiers"]]


def _edited(row: dict, edits: Iterable[tuple[int, int, str, dict | None]]) -> dict:
    """The record with the disjoint edits (start, end, new text, annotation or None) made and offsets moved along."""
    parts, length, done, spans = [], 0, 0, []
    for start, end, new, span in sorted(edits, key=lambda edit: edit[:2]):
        parts += [row["text"][done:start], new]
        length += start - done + len(new)
        done = end
        if span is not None:
            spans.append({**span, "start": length - len(new), "end": length})
    return {**row, "text": "".join([*parts, row["text"][done:]]), "identifiers": spans}


# Surrogates for `counterfactual`

LISTS = load("surrogates.yaml")
MONTH = {name: (names, n) for names in map(str.split, reversed(LISTS["months"])) for n, name in enumerate(names, 1)}
PARTICLES = set(LISTS["particles"].split())
GENERIC = PARTICLES | set(LISTS["generic"].split())
_NAME = f"(?P<b>{'|'.join(sorted(MONTH, key=len, reverse=True))})"
_FORMS = (
    r"(?P<y>\d{4})[-/.](?P<m>\d\d?)[-/.](?P<d>\d\d?)",
    r"(?P<m>\d\d?)[-/.](?P<d>\d\d?)[-/.](?P<y>\d{4}|\d\d)",
    r"(?P<m>\d\d?)[-/](?P<d>\d\d?)",
    _NAME + r"\.? (?P<d>\d\d?)(?P<o>st|nd|rd|th)?(?:,? (?P<y>\d{4}))?",
    r"(?P<d>\d\d?)(?P<o>er|st|nd|rd|th)?(?: of)? " + _NAME + r"(?:\.?,? (?P<y>\d{4}))?",
    _NAME + r"\.?,? (?P<y>\d{4})",
    _NAME,
    r"(?P<y>[12]\d{3})",
)
# A group name may occur only once in a pattern, so each form has its number in them.
_DATE = re.compile(
    "|".join(rf"(?<!\w)(?:{form.replace('>', f'{n}>')})(?!\w)" for n, form in enumerate(_FORMS)), re.IGNORECASE
)


def _parts(value: str) -> list[tuple[str, str]]:
    """(class, characters) pairs: "L" letters with their marks, "N" numerals, "." the rest."""
    classes = {"L": "L", "M": "L", "N": "N"}
    found = groupby(value, lambda char: classes.get(category(char)[0], "."))
    parts = [(key, "".join(chars)) for key, chars in found]
    return [("." if key == "L" and not any(map(str.isalpha, part)) else key, part) for key, part in parts]


def _words(value: str) -> set[str]:
    return {part.casefold() for key, part in _parts(value) if key == "L"}


def _like(word: str, model: str) -> str:
    """The word in the letter case of the model."""
    return word.upper() if model.isupper() and len(model) > 1 else word.lower() if model.islower() else word


def _changed(value: str, rng: random.Random, letters: bool = False) -> str:
    """The value with every digit, and if asked every letter, replaced by another of its sort."""
    out = []
    for n, char in enumerate(value):
        if category(char)[0] == "N":
            old = decimal(char, None)
            leads = old and not value[:n][-1:].isdigit()  # "71" must not turn into "05"
            new = rng.choice([digit for digit in range(10) if digit != old and (digit or not leads)])
            char = str(new) if old is None else chr(ord(char) - old + new)
        elif letters and char.isalpha():
            char = _like(rng.choice([letter for letter in ascii_uppercase if letter != char.upper()]) * 2, char * 2)[0]
        out.append(char)
    return "".join(out)


def _shifted(match: re.Match, days: int, extra: int) -> str:
    """A date moved by `days` and by `extra` steps of its precision, in its own format."""
    at = {name[0]: name for name, found in match.groupdict().items() if found}
    old = {part: match[name] for part, name in at.items()}
    months, month = MONTH.get(old.get("b", "").lower(), (None, int(old.get("m", 7))))
    day, year = int(old.get("d", 15)), int(old.get("y", 2000))
    if month > 12 and "m" in at:  # day first
        at["m"], at["d"], month, day = at["d"], at["m"], day, month
    if len(old.get("y", "")) == 2:
        year += 1900 if year > 68 else 2000
    step = 1 if "d" in at else 31 if "b" in at else 366
    try:
        new = datetime.date(year, month, day) + datetime.timedelta(days + extra * step)
    except (ValueError, OverflowError):
        return match[0]
    english = "th" if new.day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(new.day % 10, "th")
    text, done = "", match.start()
    for part, name in sorted(at.items(), key=lambda item: match.start(item[1])):
        # "3 mars" has no leading zero to keep, "03/14" has one.
        width = len(match[name]) if part == "y" or "m" in at or match[name].startswith("0") else 1
        written = {
            "y": f"{new.year:04d}"[-width:],
            "m": f"{new.month:0{width}d}",
            "d": f"{new.day:0{width}d}",
            "b": months and _like(months[new.month - 1].capitalize(), match[name]),
            "o": english if match[name].lower() != "er" else "er" if new.day == 1 else "",
        }
        text += match.string[done : match.start(name)] + written[part]
        done = match.end(name)
    return text + match.string[done : match.end()]


def _class_of(type_: str) -> str:
    tokens = set(re.split(r"[^A-Z]+", type_.upper()))
    return next((name for name, words in LISTS["resampled_as"].items() if tokens & set(words.split())), "other")


class _Resampler:
    """New values for those of a corpus with these (type, value) pairs, a name word's always the same.

    No word of what stands `elsewhere` becomes a name.
    """

    def __init__(self, values: list[tuple[str, str]], seed: int, elsewhere: Iterable[str] = ()):
        self.seed, self.names, self.faker = seed, {}, Faker("en_US")
        self.faker.seed_instance(seed)
        self.originals = {value.casefold() for _, value in values}
        used = set().union(*(_words(value) for _, value in values))
        exempt = GENERIC | set(MONTH)
        named = [value for type_, value in values if _class_of(type_) in ("person", "place")]
        self.secret = {word for value in named for word in _words(value) if len(word) > 2} - exempt
        self.taken = used.union(exempt, *map(_words, elsewhere))
        # In French "M." before a name is a title, in English it is an initial.
        self.titles = PARTICLES | ({"m", "mm"} if used & {"mme", "mlle", "monsieur"} else set())

    def resample(self, type_: str, value: str, record_id: str) -> str:
        """A value that is none of the corpus; what has neither letters nor numerals stays."""
        if not any(key in "LN" for key, _ in _parts(value)):
            return value
        old = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE)
        for new in self._candidates(_class_of(type_), value, record_id):
            new = self._reworded(new, lambda word: word not in self.secret)
            if new.casefold() not in self.originals and not old.search(new):
                return new

    def _candidates(self, kind: str, value: str, record_id: str) -> Iterator[str]:
        """Ever less faithful forms; the last ones always hold a value that is new."""
        if kind == "date":
            rng = random.Random(f"{self.seed}:{record_id}")
            days = rng.choice((-1, 1)) * rng.randint(400, 5000)
            for extra in range(400 if _DATE.search(value) else 0):
                yield _DATE.sub(lambda match, extra=extra: _shifted(match, days, extra), value)
        kept = self.titles if kind == "person" else self.titles | GENERIC
        for attempt in range(60):
            rng = random.Random(f"{self.seed}:{record_id if kind == 'date' else ''}:{value.casefold()}:{attempt}")
            new = value
            if kind not in ("date", "number", "code"):
                new = self._reworded(value, lambda word: word in kept or len(word) == 1 and word.isascii())
                new = re.sub(r"(?<!\w)[A-Z](?!\w)(?!['’])", self._initial, new)
            yield _changed(new, rng, letters=kind == "code")
        for width in count():
            rng = random.Random(f"{self.seed}:{value.casefold()}:{width}")
            grown = "".join(str(rng.randint(1, 9)) for _ in range(width // 9))
            yield self._reworded(_changed(value, rng), lambda word: False) + grown

    def _reworded(self, value: str, keep: Callable[[str], bool]) -> str:
        """The value with the words for which `keep` is false replaced by names."""
        parts = _parts(value)
        words = [n for n, (key, _) in enumerate(parts) if key == "L"]
        surname = words and words[0 if "," in value else -1]
        return "".join(
            part if key != "L" or keep(part.casefold()) else self._name(part, n == surname)
            for n, (key, part) in enumerate(parts)
        )

    def _name(self, word: str, last: bool) -> str:
        key, attempts = word.casefold(), count()
        while key not in self.names:
            new = self.faker.last_name() if last else self.faker.first_name()
            # The single names run out in a large corpus.
            new += self.faker.last_name().lower() if next(attempts) > 20 else ""
            if new.isalpha() and new.casefold() not in self.taken:
                self.taken.add(new.casefold())
                self.names[key] = new
        return _like(self.names[key], word)

    def _initial(self, match: re.Match) -> str:
        if (letter := match[0]).lower() in self.titles:
            return letter
        return random.Random(f"{self.seed}:{letter}").choice(ascii_uppercase.replace(letter, ""))
