"""Surrogates: a corpus with its identifiers replaced by `X` (MLMA), or each resampled by type (the counterfactual).

Both keep the text outside the identifiers and move the offsets of annotated spans along.
"""

import datetime
import random
import re
import unicodedata
from itertools import chain, count, groupby
from string import ascii_uppercase

from datasets import Dataset
from faker import Faker

from .corpora import KINDS


def pseudonymize(corpus, blacklist, replacement="X", kinds=("direct",)):
    """Replaces every hit of the blacklist of these kinds by `replacement` (the paper's MLMA, §4.1).

    `blacklist.find(text, identifiers)` gives hits with .start, .end and .kind. Returns a corpus whose identifiers are
    the annotated spans that no replacement touched, at their new offsets. Raises ValueError for an unknown kind.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"unknown kinds {unknown}; known: {', '.join(KINDS[:3])}")
    rows = []
    for row in corpus:
        edits = [
            (hit.start, hit.end, replacement, None)
            for hit in blacklist.find(row["text"], row["identifiers"])
            if hit.kind in kinds
        ]
        kept = [
            (span["start"], span["end"], row["text"][span["start"] : span["end"]], span)
            for span in row["identifiers"]
            if not any(span["start"] < end and start < span["end"] for start, end, _, _ in edits)
        ]
        rows.append(_edited(row, edits + kept))
    return Dataset.from_list(rows, features=corpus.features)


def counterfactual(corpus, seed=0):
    """Resamples every identifier by its type, in the same form; the text outside the identifiers stays.

    Name words are replaced consistently over the corpus, dates shifted by a number of days per record, digits and
    code letters changed. No new value equals an original one of the corpus, and no word of an original name comes
    back (titles, month names and generic words such as "Hospital" excepted). Where a form has no unused value left
    (ages), the value grows by a digit. Returns a corpus with spans of the same types and kinds; the same seed gives
    the same corpus on any machine. Raises ValueError for a corpus without identifiers. Source: ours, the control in
    which the identifiers were never seen.
    """
    values = [
        [(span["type"], row["text"][span["start"] : span["end"]]) for span in row["identifiers"]] for row in corpus
    ]
    if not any(values):
        raise ValueError(
            "the corpus has no annotated identifiers, so there is nothing to resample; "
            "annotate it, or load it with its spans (column `identifiers`)"
        )
    resample = _resampler(list(chain.from_iterable(values)), seed)
    rows = []
    for row, old in zip(corpus, values):
        edits = [
            (span["start"], span["end"], resample(type_, value, row["record_id"]), span)
            for span, (type_, value) in zip(row["identifiers"], old)
        ]
        rows.append(_edited(row, edits))
    return Dataset.from_list(rows, features=corpus.features)


def _edited(row, edits):
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

MONTHS = [
    line.split()
    for line in (
        "january february march april may june july august september october november december",
        "jan feb mar apr may jun jul aug sep oct nov dec",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "janvier fevrier mars avril mai juin juillet aout septembre octobre novembre decembre",
        "janv févr mars avr mai juin juil août sept oct nov déc",
    )
]
MONTH = {name: (names, n) for names in reversed(MONTHS) for n, name in enumerate(names, 1)}
# Words that name nobody: they stay, so that a surrogate keeps its form.
TITLES = set(
    """
    mr mrs ms miss mx dr drs prof sir madam mme mmes mlle monsieur madame messrs me maître md phd rn np jr sr
    de del della der den des di da do dos du la le les van von zu el al bin ibn ben and et e y the of""".split()
)
GENERIC = TITLES | set(
    """
    hospital medical center centre general clinic clinical health healthcare care memorial regional community
    university college school institute department ward unit service services system county city state north south
    east west northern southern eastern western upper lower street st avenue ave road rd drive lane ln boulevard blvd
    way court place square suite apt floor room po box saint sainte in on at for to a an hôpital hopital clinique
    centre général régional universitaire rue place chemin en à au aux sur sous un une cour tribunal ministère
    république inc ltd llc co corp company foundation bank group association http https www com org net""".split()
)
# What a type resamples as, by the words in its name; the first row that has one decides.
CLASSES = {
    "date": "DATE DATETIME TIME DOB BIRTHDATE BIRTHDAY YEAR",
    "number": "AGE PHONE TELEPHONE FAX QUANTITY",
    "code": "ID IDNUM CODE SSN MRN MEDICALRECORD IBAN ZIP POSTCODE LICENSE ACCOUNT CARD PLATE SERIAL IP NUMBER",
    "person": "PATIENT DOCTOR PER PERS PERSON NAME USERNAME PROFILE",
    "place": "HOSPITAL ORG ORGANIZATION ORGANISATION COMPANY LOC LOCATION GPE FAC FACILITY CITY STATE COUNTRY "
    "STREET ADDRESS PLACE INSTITUTION",
}
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


def _runs(value):
    """(class, run) pairs: "L" letters with their marks, "N" numerals, "." the rest."""

    def kind(char):
        return {"L": "L", "M": "L", "N": "N"}.get(unicodedata.category(char)[0], ".")

    pairs = [(key, "".join(run)) for key, run in groupby(value, kind)]
    return [("." if key == "L" and not any(map(str.isalpha, run)) else key, run) for key, run in pairs]


def _words(value):
    return {run.casefold() for key, run in _runs(value) if key == "L"}


def _like(word, model):
    return word.upper() if model.isupper() and len(model) > 1 else word.lower() if model.islower() else word


def _changed(value, rng, letters=False):
    """The value with every digit, and if asked every letter, replaced by another of its sort."""
    out = []
    for n, char in enumerate(value):
        if unicodedata.category(char)[0] == "N":
            old = unicodedata.decimal(char, None)
            leads = old and not value[:n][-1:].isdigit()  # "71" must not turn into "05"
            new = rng.choice([digit for digit in range(10) if digit != old and (digit or not leads)])
            char = str(new) if old is None else chr(ord(char) - old + new)
        elif letters and char.isalpha():
            char = _like(rng.choice([letter for letter in ascii_uppercase if letter != char.upper()]) * 2, char * 2)[0]
        out.append(char)
    return "".join(out)


def _shifted(match, days, extra):
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
        text += (
            match.string[done : match.start(name)]
            + {
                "y": f"{new.year:04d}"[-width:],
                "m": f"{new.month:0{width}d}",
                "d": f"{new.day:0{width}d}",
                "b": months and _like(months[new.month - 1].capitalize(), match[name]),
                "o": english if match[name].lower() != "er" else "er" if new.day == 1 else "",
            }[part]
        )
        done = match.end(name)
    return text + match.string[done : match.end()]


def _resampler(values, seed):
    """A function (type, value, record_id) → new value, for a corpus with these (type, value) pairs."""

    def class_of(type_):
        tokens = set(re.split(r"[^A-Z]+", type_.upper()))
        return next((name for name, words in CLASSES.items() if tokens & set(words.split())), "other")

    originals = {value.casefold() for _, value in values}
    used = set().union(*(_words(value) for _, value in values))
    exempt = GENERIC | set(MONTH)
    secret = {
        word
        for type_, value in values
        if class_of(type_) in ("person", "place")
        for word in _words(value)
        if len(word) > 2
    } - exempt
    taken = used | exempt
    faker, names = Faker("en_US"), {}
    faker.seed_instance(seed)
    # In French "M." before a name is a title, in English it is an initial.
    titles = TITLES | ({"m", "mm"} if used & {"mme", "mlle", "monsieur"} else set())

    def name(word, last):
        key = word.casefold()
        for attempt in count() if key not in names else ():
            new = faker.last_name() if last else faker.first_name()
            new += faker.last_name().lower() if attempt > 20 else ""  # the single names run out in a large corpus
            if new.isalpha() and new.casefold() not in taken:
                taken.add(new.casefold())
                names[key] = new
                break
        return _like(names[key], word)

    def reworded(value, keep):
        """The value with the words for which `keep` is false replaced by names."""
        runs = _runs(value)
        words = [n for n, (key, _) in enumerate(runs) if key == "L"]
        surname = words and words[0 if "," in value else -1]
        return "".join(
            run if key != "L" or keep(run.casefold()) else name(run, n == surname) for n, (key, run) in enumerate(runs)
        )

    def initials(value):
        return re.sub(
            r"(?<!\w)[A-Z](?!\w)(?!['’])",
            lambda m: (
                m[0]
                if m[0].lower() in titles
                else random.Random(f"{seed}:{m[0]}").choice(ascii_uppercase.replace(m[0], ""))
            ),
            value,
        )

    def candidates(kind, value, record_id):
        """Ever less faithful forms; the last ones always hold a value that is new."""
        if kind == "date":
            rng = random.Random(f"{seed}:{record_id}")
            days = rng.choice((-1, 1)) * rng.randint(400, 5000)
            for extra in range(400 if _DATE.search(value) else 0):
                yield _DATE.sub(lambda match, extra=extra: _shifted(match, days, extra), value)
        kept = titles if kind == "person" else titles | GENERIC
        for attempt in range(60):
            rng = random.Random(f"{seed}:{record_id if kind == 'date' else ''}:{value.casefold()}:{attempt}")
            if kind in ("date", "number", "code"):
                yield _changed(value, rng, letters=kind == "code")
            else:
                yield _changed(
                    initials(reworded(value, lambda word: word in kept or len(word) == 1 and word.isascii())), rng
                )
        for width in count():
            rng = random.Random(f"{seed}:{value.casefold()}:{width}")
            grown = "".join(str(rng.randint(1, 9)) for _ in range(width // 9))
            yield reworded(_changed(value, rng), lambda word: False) + grown

    def resample(type_, value, record_id):
        if not any(key in "LN" for key, _ in _runs(value)):
            return value
        old = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE)
        for new in candidates(class_of(type_), value, record_id):
            new = reworded(new, lambda word: word not in secret)
            if new.casefold() not in originals and not old.search(new):
                return new

    return resample
