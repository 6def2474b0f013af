"""Other spellings of listed terms, offered: nothing is listed that the user has not confirmed.

What the matcher finds anyway (another case, hyphens, white space, Unicode forms) is no variant.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime

import pandas as pd
import regex
from datasets import Dataset
from dateutil import parser

from ..blocks import check_corpus
from ..runs import checked
from ..text.blacklists import Blacklist
from ..text.matching import APOSTROPHES

PERSONS = ("", "PATIENT", "DOCTOR", "PERSON", "PER", "NAME")  # types of which a term may be a person's name
TRANSCRIBED = dict(zip("äöüøåłđðþæœßı", "ae oe ue oe aa l d d th ae oe ss i".split()))
STROKES = str.maketrans("øłđıØŁĐ", "oldiOLD")  # no marks to Unicode
TITLE = regex.compile(r"(?:(?:dr|mr|mrs|ms|miss|prof|professor|mme|mlle|herr|frau|sr|sra)\.?\s+)+(?=\p{Lu})", regex.I)
MONTHS = {
    "month": "January February March April May June July August September October November December".split(),
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
}
BESIDE = {"de", "del", "el", "le", "of", "the", "st", "nd", "rd", "th", "er"}  # what else a date may hold
FORMS = {  # of a date, by what of year, month and day it tells
    "ymd": (
        "{d} {month} {y}", "{month} {d}, {y}", "{d} {short} {y}", "{short} {d}, {y}", "{y}-{m:02}-{d:02}",
        "{y}/{m:02}/{d:02}", "{y}{m:02}{d:02}", "{d:02}/{m:02}/{y}", "{m:02}/{d:02}/{y}", "{d}/{m}/{y}", "{m}/{d}/{y}",
        "{d:02}.{m:02}.{y}", "{d}.{m}.{y}", "{d:02}-{m:02}-{y}", "{m:02}-{d:02}-{y}", "{d:02}/{m:02}/{yy:02}",
        "{m:02}/{d:02}/{yy:02}", "{d} {fr} {y}", "{d} de {es} de {y}", "{d}. {de} {y}",
    ),
    "md": (
        "{d} {month}", "{month} {d}", "{d} {short}", "{short} {d}", "{d:02}/{m:02}", "{m:02}/{d:02}", "{d}/{m}",
        "{m}/{d}", "{d} {fr}", "{d} de {es}", "{d}. {de}",
    ),
    "ym": ("{month} {y}", "{short} {y}", "{m:02}/{y}", "{y}-{m:02}", "{fr} {y}", "{es} de {y}", "{de} {y}"),
}  # fmt: skip


class _Months(parser.parserinfo):
    """Months in four languages, in full and by their first three letters."""

    MONTHS = [
        tuple(dict.fromkeys(form for name in names for form in (name, name[:3]))) for names in zip(*MONTHS.values())
    ]
    JUMP = [*parser.parserinfo.JUMP, *BESIDE]


def variants(blacklist: Blacklist, corpus: Dataset | None = None, reveal: bool = False) -> pd.DataFrame:
    """Other spellings that the terms of a blacklist may have, a row each: `with_variants` lists those confirmed.

    Columns: variant_id (its number: of one blacklist always the same), term_id, kind, how (what was changed), and with
    a `corpus` hits (int64: where it stands and no listed term does); with `reveal=True` term and variant too, in clear.
    how: `accents` dropped, or transcribed; an `apostrophe` left out; a `date` in other forms, of both readings where
    day and month could be exchanged; first names as `initials`; words `joined`; the family name first (`order`) or
    alone (`family`); no `title`. Look at them: a family name alone may be a common word.
    Raises TypeError for another blacklist or corpus. Source: ours; dates are read by python-dateutil.
    """
    checked("blacklist", blacklist, Blacklist)
    checked("reveal", reveal, bool)
    rows, seen = [], set()
    for term in blacklist.terms(reveal=True).itertuples():
        for how, variant in _of(term.term, term.type):
            key = blacklist.key(variant)
            if key and variant not in blacklist and (term.term_id, key) not in seen:
                seen.add((term.term_id, key))
                rows.append((len(rows), term.term_id, term.kind, how, term.term, variant))
    table = pd.DataFrame(rows, columns=["variant_id", "term_id", "kind", "how", "term", "variant"])
    if corpus is not None:
        table.insert(4, "hits", _hits(blacklist, table["variant"], check_corpus(corpus)))
    return table if reveal else table.drop(columns=["term", "variant"])


def with_variants(blacklist: Blacklist, confirmed: Iterable[int]) -> Blacklist:
    """The blacklist and the confirmed rows of `variants(blacklist)`, by variant_id, of their terms' kind and type.

    They count wherever they stand. Raises TypeError or ValueError for a number that is none.
    """
    table, types = variants(blacklist, reveal=True), blacklist.terms()["type"]
    confirmed = [checked("variant_id", i, int) for i in confirmed]
    if unknown := sorted(set(confirmed) - set(table["variant_id"])):
        raise ValueError(f"no variant {', '.join(map(str, unknown))}; there are {len(table)}: see variants(blacklist)")
    found = blacklist.only(range(len(blacklist)))
    for row in table.loc[confirmed].itertuples():
        found._add(row.variant, row.kind, True, types[row.term_id])
    return found


def _hits(blacklist: Blacklist, spelled: pd.Series, corpus: Dataset) -> list[int]:
    """How often each variant stands where no listed term does."""
    rules = blacklist.rules
    offered = Blacklist(spelled, "direct", rules.case_sensitive, rules.whole_words)
    finder, ids, counts = offered.finder(), offered._ids, dict.fromkeys(range(len(offered)), 0)
    for text, listed in zip(corpus["text"], blacklist.find_all(corpus)):
        for hit in finder.candidates(text):
            counts[hit.term_id] += not any(one.start < hit.end and hit.start < one.end for one in listed)
    return [counts[ids[offered.key(one)]] for one in spelled]


def _of(term: str, type_: str) -> Iterator[tuple[str, str]]:
    """(how, variant) pairs of a term; some may be the term itself."""
    if dates := list(_dates(term, type_)):
        yield from (("date", written) for written in dates)
        return
    yield "accents", _plain(term)
    yield "accents", _plain("".join(map(_transcribed, term)))
    if any(letter in APOSTROPHES for letter in term):
        yield from (("apostrophe", regex.sub(f"[{APOSTROPHES}]", by, term)) for by in ("", " "))
    if type_.upper() in PERSONS:
        name = TITLE.sub("", term, count=1)
        yield "title", name
        yield from _names(name)


def _plain(term: str) -> str:
    """A term without accents and other marks."""
    return "".join(c for c in unicodedata.normalize("NFKD", term.translate(STROKES)) if not unicodedata.combining(c))


def _transcribed(letter: str) -> str:
    found = TRANSCRIBED.get(letter.lower(), letter)
    return found.capitalize() if letter.isupper() else found


def _names(term: str) -> Iterator[tuple[str, str]]:
    """Of what looks like a person's name: two to four words without digits, each with a capital."""
    family, comma, given = (part.strip() for part in term.partition(","))
    words = [*given.split(), family] if comma else family.split()
    if not 2 <= len(words) <= 4 or not all(regex.fullmatch(r"\p{Lu}[^\d,]*", word) for word in words):
        return
    *given, family = words
    initials = [regex.sub(r"(\p{L})[\p{L}\p{M}]*\.?", r"\1.", name) for name in given]
    for start in (" ".join(initials), initials[0], " ".join(initials).replace(".", "")):
        yield "initials", f"{start} {family}"
        yield "initials", f"{family}, {start}"
    given = " ".join(given)
    yield from (("order", form) for form in (f"{family}, {given}", f"{family} {given}", f"{given} {family}"))
    yield "joined", f"{given}{family}".replace(" ", "")
    yield "family", family


def _dates(term: str, type_: str) -> Iterator[str]:
    """Other forms of a date; none of what is not plainly one."""
    numbers = regex.findall(r"\d+", term)
    letters = {word.lower() for word in regex.findall(r"[\p{L}\p{M}]+", term)} - BESIDE
    named = letters and all(_Months().month(word) is not None for word in letters)
    sure = named or len(numbers) == 3 or (len(numbers) == 2 and "DATE" in type_.upper())
    if not sure or (letters and not named) or regex.search(r"[^\p{L}\p{M}\d\s/.,-]", term):
        return
    if not 1 <= len(numbers) <= 3 or any(len(n) not in (1, 2, 4) for n in numbers):
        return
    for day_first in (False, True)[: 1 if len(numbers[0]) == 4 else 2]:
        try:  # what two defaults leave alike is said by the term
            one, two = (
                parser.parse(term, _Months(), default=default, dayfirst=day_first)
                for default in (datetime(2000, 1, 1), datetime(2001, 2, 2))
            )
        except (ValueError, OverflowError):
            continue
        told = "".join(n[0] for n in ("year", "month", "day") if getattr(one, n) == getattr(two, n))
        names = {name: months[one.month - 1] for name, months in MONTHS.items()}
        numbers_ = {"d": one.day, "m": one.month, "y": one.year, "yy": one.year % 100, "short": names["month"][:3]}
        yield from (form.format(**names, **numbers_) for form in FORMS.get(told, ()))
