"""A user's list of terms, read strictly: each row is listed, blank, or an error that names its line, never its text."""

import csv
import io
import re
import secrets
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..runs import checked, named_file, replacing
from ..text.blacklists import Blacklist
from ..text.matching import KINDS
from ..text.selection import AMBIGUOUS

LINE_END = re.compile("\r\n|[\r\n]")
COLUMNS = ("term", "kind", "match", "type")
SHAPE = "expected a term per line, or CSV with the header term,kind,match,type (all but term may be missing)"
# A first line of such words only is a header, though not one that is read.
HEADERS = frozenset(
    """term terms kind kinds match type types class category label labels name names surname last_name first_name
    lastname firstname word words text value entity entities identifier identifiers id nom noms prénom termes""".split()
)


class Term(NamedTuple):
    """A term, the line on which it starts, and its kind, match and type where the file says so."""

    line: int
    term: str
    kind: str | None
    match: str | None
    type: str | None = None


class Terms(NamedTuple):
    """The terms of a file in its order, repeated ones too, and the number of its blank rows."""

    rows: list[Term]
    blank: int


def read_terms(path: str | Path) -> Terms:
    """The terms of a file of one per line, or of CSV with a header that names the columns term, kind, match and type.

    Columns stand in any order and case, between commas, semicolons, tabs or bars; a term in double quotes may hold
    these and line ends. Without a header a line is a term as it stands. There are no comments.
    Raises FileNotFoundError, and ValueError for another encoding, no term, another header, CSV without header, rows
    of another width, stray quotes, an unknown kind or match, or a term without letter or digit.
    """
    path = named_file(path)
    if not path.is_file():
        raise (ValueError if path.exists() else FileNotFoundError)(f"{path}: no blacklist file; {SHAPE}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        n = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {n}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    lines = LINE_END.split(re.sub(r"(\r?\n|\r)\Z", "", text))
    if broken := [n for n, line in enumerate(lines, 1) if "\0" in line]:
        raise ValueError(f"{path}, line {broken[0]}: a NUL character, as in UTF-16; save the file as UTF-8")
    first, head = next(((n, line.casefold()) for n, line in enumerate(lines, 1) if line.strip()), (0, ""))
    headers = {sign: [name.strip(' \t"') for name in head.split(sign)] for sign in ",;\t|"}
    separator = next((sign for sign, names in headers.items() if "term" in names), None)
    names = headers.get(separator, ["term"])
    wrong = not set(names) <= set(COLUMNS) or len(set(names)) < len(names)
    if head and not separator:
        wrong = head.startswith(("sep=", '{"', "[{", '["')) or set(re.findall(r"\w+", head) or "-") <= HEADERS
        wrong |= any(len(found) > 1 and set(COLUMNS) & set(found) for found in headers.values())
    if wrong:
        raise ValueError(f"{path}, line {first}: another header; {SHAPE}. If it is a term, write term on a line above")
    rows = csv_rows(text, path, separator, True) if separator else [(n, [line]) for n, line in enumerate(lines, 1)]
    if separator:
        del rows[first - 1]  # the header
    filled = [(line, fields) for line, fields in rows if any(map(str.strip, fields))]
    if not filled:
        raise ValueError(f"{path}: no term in it; {SHAPE}")
    found = [_term(dict(zip(names, map(str.strip, row))), path, n, not separator) for n, row in filled]
    return Terms(found, len(rows) - len(filled))


def _term(row: dict[str, str], path: Path, line: int, plain: bool) -> Term:
    """The row checked: what it holds must be one term, and no fields or rows run together."""
    term, kind, match = row["term"], *((row.get(name) or "").casefold() or None for name in ("kind", "match"))
    parts = [part.strip(' "').casefold() for part in re.split(r"[,;\t|\r\n]", term)]
    height = len(LINE_END.split(term))
    joined = set(KINDS) & set(parts[1:]) and (len(row) == 1 or height > 1)
    trouble = None
    if not any(map(str.isalnum, term)):
        trouble = "no letter or digit in the term, so it stands nowhere; remove the row"
    elif joined or height > 5:
        trouble = "several fields or rows in one term; is a quote missing, or the header term,kind?"
    elif plain and re.match(r'"[^"]*$|".*""', term):
        trouble = "quotes as in CSV, but no header; write the header term above"
    elif kind not in (None, *KINDS) or match not in (None, *AMBIGUOUS):
        trouble = f"unknown kind or match; kinds are {', '.join(KINDS)}, match is one of {', '.join(AMBIGUOUS)}"
    if trouble:
        raise ValueError(f"{path}, line {line}: {trouble}")
    return Term(line, term, kind, match, row.get("type") or None)


def csv_rows(text: str, path: Path, separator: str = ",", trimmed: bool = False) -> list[tuple[int, list[str]]]:
    """(line on which it starts, fields) of each row of CSV, all as wide as the first, the header; [] for a blank one.

    trimmed: whether blanks before a field are left out. Raises ValueError for another width and for stray quotes.
    """
    # Fields may be longer than the csv module's default limit.
    rows, line, width, limit = [], 1, 0, csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=trimmed)
        for fields in reader:
            filled = any(map(str.strip, fields))
            width = width or filled * len(fields)
            if filled and len(fields) != width:
                raise ValueError(
                    f"{path}, line {line}: the row has not as many fields as the header ({len(fields)}, not {width}); "
                    "fields with separators, quotes or line ends need double quotes"
                )
            rows.append((line, fields if len(fields) == width else []))
            line = reader.line_num + 1
    except csv.Error:
        raise ValueError(f"{path}, line {line}: invalid CSV (check the quotes of the row that starts here)") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def random_ids(blacklist: Blacklist, path: str | Path) -> pd.Series:
    """An id of 8 random hex digits for each term, by term_id, and the file that says which term each is.

    Ids in a report tell nothing of their terms, as hashes would of a short list, or as numbers do that follow the
    alphabet. The key file, CSV `id,term,kind` of mode 0600, holds the terms in clear: keep it apart from what is handed
    on. Ids that a file has already are kept, so the reports of one list speak of the same ones.
    Raises TypeError for another blacklist, ValueError for a file of another kind.
    """
    path, known = named_file(path), {}
    terms = checked("blacklist", blacklist, Blacklist).terms(reveal=True)
    if path.exists():
        (_, header), *rows = [row for row in csv_rows(path.read_text(encoding="utf-8"), path) if row[1]] or [(1, [])]
        if header != ["id", "term", "kind"]:
            raise ValueError(f"{path}: not a key file (CSV id,term,kind); choose another path")
        known = {tuple(fields[1:]): fields[0] for _, fields in rows}
    taken = set(known.values())
    for term in terms.itertuples():
        while (term.term, term.kind) not in known:
            if (drawn := secrets.token_hex(4)) not in taken:
                known[term.term, term.kind] = drawn
                taken.add(drawn)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "term", "kind"), *sorted((i, *of) for of, i in known.items())])
    ids = [known[term.term, term.kind] for term in terms.itertuples()]
    return pd.Series(ids, terms["term_id"].to_numpy(), name="id", dtype=object)
