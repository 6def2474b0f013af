"""Readers of file formats: user files with their standoff annotations, n2c2/i2b2 2006, Text Anonymization Benchmark.

Each yields raw records, which `corpora.load_corpus` checks. Error messages name files, lines, record ids and offsets,
never the text itself.
"""

import codecs
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError
from xml.parsers.expat import ErrorString

import defusedxml
import defusedxml.ElementTree

from ..runs import named_file
from ..text.matching import KINDS
from .term_files import csv_rows

Raw = dict[str, Any]  # a raw record: see `raw_record`
Row = tuple[int, str, Any]  # of a file: its number, where it stands (for messages), what it holds

# The names under which Presidio, doccano, Label Studio, spaCy and the like export the same thing.
TEXT, RECORD, PERSON = ("text", "full_text"), ("record_id", "doc_id", "id"), ("person_id",)
CLASS_LABELS = ("labels", "label")  # of a text classifier, or spans
SPANS = ("identifiers", "spans", "entities", "annotations", "ents", *CLASS_LABELS)
START = ("start", "start_position", "start_offset", "start_char", "begin")
END = ("end", "end_position", "end_offset", "end_char")
TYPE = ("type", "entity_type", "entity_group", "label", "tag", "labels")
COPY = ("entity_value", "span_text", "text")  # of what a span covers
CORRECTED = "; the original training file of n2c2/i2b2 2006 has one: its providers have a corrected archive, use that"
XML = "; for n2c2 XML use load_corpus('n2c2-2006', folder=…)"


def raw_record(where: str | Path, text: Any, record_id: Any, person_id: Any = None, identifiers: Sequence = ()) -> Raw:
    """A record as a reader finds it, unchecked; `where` is for messages."""
    return {"where": where, "text": text, "record_id": record_id, "person_id": person_id, "identifiers": identifiers}


def data_files(path: Path, suffixes: Collection[str]) -> list[Path]:
    """The file itself, or the folder's files of these suffixes, sorted, without the standoff files of a .txt.

    Raises FileNotFoundError for no such file or folder, ValueError for no file of these suffixes or for some deeper.
    """
    path, known = named_file(path), ", ".join(suffixes)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        if not path.is_file() or path.suffix.lower() not in suffixes:
            raise ValueError(f"{path}: not a {known} file{XML if path.suffix.lower() == '.xml' else ''}")
        return [path]
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    if deeper := [file.name for file in files if any(f.suffix.lower() in suffixes for f in file.rglob("*"))]:
        raise ValueError(f"{path}: {known} files lie in its folders {', '.join(deeper)} too; load one folder at a time")
    files = [file for file in files if file.is_file() and file.suffix.lower() in suffixes]
    texts = {file.stem for file in files if file.suffix.lower() == ".txt"}
    files = [file for file in files if not (file.suffix.lower() == ".json" and file.stem in texts)]
    if not files:
        raise ValueError(f"{path}: no {known} file in this folder{XML if any(path.glob('*.xml')) else ''}")
    return files


def decoded(path: Path) -> str:
    """The file's text, exactly as it stands (line ends untouched), without a byte-order mark; else a ValueError."""
    return "".join(text for text, _ in decoded_pieces(path))


def decoded_pieces(path: Path, size: int = 1 << 16) -> Iterator[tuple[str, int]]:
    """(text, bytes it was read from) pairs: what `decoded` gives, a piece at a time, whatever the lines' lengths."""
    decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0
    wrong = "{}: not UTF-8 (byte {}); convert it first, with `iconv -f WINDOWS-1252 -t UTF-8` (or -f UTF-16)"
    with path.open("rb") as stream:
        while content := stream.read(size):
            done += len(content)
            try:
                yield decoder.decode(content), len(content)
            except UnicodeDecodeError as error:
                # `from None`, here and below: the original exception would show the text in the traceback.
                raise ValueError(wrong.format(path, done - len(error.object) + error.start)) from None
    if unfinished := decoder.getstate()[0]:  # the file ends inside a character
        raise ValueError(wrong.format(path, done - len(unfinished)))


def parsed(text: str, where: str | Path) -> Any:
    """What a JSON text holds; ValueError for another text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno} of it)" if error.lineno > 1 else ""
        raise ValueError(f"{where}: invalid JSON at column {error.colno}{line}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: invalid JSON") from None


def given(row: Mapping, keys: Collection[str], nothing: tuple = (None,), default: Any = None) -> Any:
    """The value under the first of some keys that holds one, or the default."""
    return next((row[key] for key in keys if row.get(key) not in nothing), default)


# The user's files


def read_user(path: Path, text_column: str | None) -> Iterator[Raw]:
    """Raw records of a .txt, .csv, .jsonl or .json file, whatever its source calls the columns."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        yield _text_record(path)
        return
    for n, where, row in {".csv": _csv_rows, ".jsonl": json_lines, ".json": _json_rows}[suffix](path):
        yield _fields(row, where, f"{path.stem}-{n}", text_column)


def json_lines(path: Path) -> Iterator[Row]:
    """The lines of a .jsonl file that are not blank."""
    for n, line in enumerate(decoded(path).split("\n"), 1):  # not splitlines(): U+2028 may stand inside a JSON string
        if line.strip():
            yield n, f"{path}, line {n}", parsed(line, f"{path}, line {n}")


def _json_rows(path: Path) -> Iterator[Row]:
    rows = parsed(decoded(path), path)
    for n, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield n, f"{path}, record {n}", row


def _csv_rows(path: Path) -> list[Row]:
    """Each with the line on which it starts."""
    (_, header), *rows = [row for row in csv_rows(decoded(path), path) if row[1]] or [(1, [])]
    if len(set(names := list(filter(None, header)))) < len(names):
        raise ValueError(f"{path}: the header has a column twice; rename one")
    return [(n, f"{path}, line {line}", dict(zip(header, row))) for n, (line, row) in enumerate(rows, 1)]


def _text_record(path: Path) -> Raw:
    """The record of a .txt file, with the spans of a .json or BRAT .ann file beside it."""
    text = decoded(path)
    standoff, brat = path.with_suffix(".json"), path.with_suffix(".ann")
    if standoff.is_file():
        found = parsed(decoded(standoff), standoff)
        records = isinstance(found, list) and any(isinstance(raw, dict) and given(raw, START) is None for raw in found)
        row = found if isinstance(found, dict) else {"identifiers": found}
        if records or given(row, TEXT, default=text) != text or spans_of(row, standoff) is None or brat.is_file():
            raise ValueError(f"{standoff}: no spans, or not those of {path.name} and no .ann; rename one of the files")
        return _fields({**row, "text": text}, standoff, path.stem, None)
    text, spans = _brat(brat, text) if brat.is_file() else (text, [])
    return raw_record(path, text, path.stem, identifiers=spans)


def _brat(path: Path, text: str) -> tuple[str, list[list]]:
    """The spans of a text, which is given back with the line ends with which they cover what the file says."""
    spans, copies = [], []
    for n, line in enumerate(decoded(path).split("\n"), 1):
        if line.startswith("T"):  # the other lines are relations, attributes and notes
            found = re.fullmatch(r"T\d+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\s*(?:\t(.*))?", line.strip())
            if not found:
                raise ValueError(f"{path}, line {n}: not a BRAT text-bound annotation (T1<tab>TYPE start end)")
            pieces = [tuple(map(int, piece.split())) for piece in found[2].split(";")]
            spans += [[*piece, found[1]] for piece in pieces]
            if found[3]:
                copies.append((n, pieces, found[3].split()))
    for version in (text, text.replace("\r\n", "\n")):
        wrong = [n for n, pieces, copy in copies if " ".join(version[a:b] for a, b in pieces).split() != copy]
        if not wrong:
            return version, spans
    raise ValueError(f"{path}, line {wrong[0]}: another text at these offsets; they count characters of the .txt file")


def _fields(row: Any, where: str | Path, default_id: str, text_column: str | None) -> Raw:
    """The raw record in a row of JSON or CSV."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with a text column, found {type(row).__name__}")
    if isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list):  # Label Studio
        try:
            made = [annotation for annotation in row["annotations"] if not annotation.get("was_cancelled")]
            values = [result["value"] for annotation in made for result in annotation["result"]]
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{where}: not a Label Studio task (annotations → result → value)") from None
        row = {**row, **row["data"], "annotations": values}
    column = next((key for key in ((text_column,) if text_column else TEXT) if key in row), None)
    if column is None:
        # A file without header has text where the names should be, so only what is plainly a name is shown.
        names = [key for key in row if re.fullmatch(r"[a-z][a-z0-9_]{0,23}", key)]
        other = f" and {len(row) - len(names)} not shown" if len(names) < len(row) else ""
        there = f"columns there: {', '.join(names) or 'none'}{other}"
        raise ValueError(f"{where}: no text column {text_column or 'text'!r}; {there}; name it with text_column=")
    record_id, person_id = given(row, RECORD, (None, ""), default_id), given(row, PERSON, (None, ""))
    return raw_record(where, row[column], record_id, person_id, spans_of(row, where) or ())


def spans_of(row: Mapping, where: str | Path) -> Sequence | None:
    """The spans in a row, in whichever column they are; None if it has no such column. ValueError for several."""
    found = {key: row[key] for key in SPANS if row.get(key) not in (None, "")}
    for key, value in found.items():
        if isinstance(value, str) and value.lstrip().startswith("["):  # a CSV cell
            found[key] = parsed(value, f"{where}, column {key}")
    lists = {key: value for key, value in found.items() if isinstance(value, (list, tuple))}
    if other := [key for key in found if key not in (*lists, *CLASS_LABELS)]:
        hint = "; for the Text Anonymization Benchmark use load_corpus('tab', folder=…)" * (other[0] == "annotations")
        raise ValueError(f"{where}: no list of spans in column {other[0]}{hint}")
    full = [key for key in lists if lists[key]]
    full = [key for key in full if key not in CLASS_LABELS] or full[:1]
    if any(lists[key] != lists[full[0]] for key in full):
        raise ValueError(f"{where}: different spans in the columns {', '.join(full)}; keep one of these")
    return lists[full[0]] if full else next(iter(lists.values()), None)


# Annotated corpora in a format of their own


def read_n2c2_files(paths: Sequence[Path]) -> Iterator[Raw]:
    """Raw records of n2c2 files, each once: of a record in a test file and in its ground truth, the annotated one.

    Raises ValueError, besides what `read_n2c2` raises, for a record_id of several texts or annotations.
    """
    if len(paths) == 1:
        yield from read_n2c2(paths[0])
        return
    found: dict[Any, tuple[Path, Raw]] = {}
    for path in paths:
        for raw in read_n2c2(path):
            there, one = found.setdefault(raw["record_id"], (path, raw))
            if one is raw:
                continue
            same = one["text"].split() == raw["text"].split() and there != path
            if not same or (one["identifiers"] and raw["identifiers"] not in ([], one["identifiers"])):
                raise ValueError(
                    f"{raw['where']}: record_id {raw['record_id']!r} occurs twice, with another text or other "
                    f"annotations than in {there.name}; keep one of the files in the folder"
                )
            if raw["identifiers"] and not one["identifiers"]:
                found[raw["record_id"]] = path, raw
    yield from (raw for _, raw in found.values())


def read_n2c2(path: Path) -> Iterator[Raw]:
    """Streams <ROOT><RECORD ID=…><TEXT>… <PHI TYPE=…>…</PHI> …</TEXT></RECORD></ROOT>."""
    n = 0
    try:
        with path.open("rb") as stream:
            for _, element in defusedxml.ElementTree.iterparse(stream, forbid_dtd=True):
                if element.tag == "RECORD":
                    n += 1
                    where, texts = f"{path}, record {n}", element.findall("TEXT")
                    if len(texts) != 1:
                        raise ValueError(f"{where}: expected one TEXT element, found {len(texts)}")
                    text, spans = _flattened(texts[0], where)
                    yield raw_record(where, text, element.get("ID") or f"{path.stem}-{n}", identifiers=spans)
                    element.clear()  # keeps the memory to little more than one record
    except ParseError as error:
        line, column = error.position
        wrong = ErrorString(error.code)
        raise ValueError(
            f"{path}, line {line}, column {column}: malformed XML ({wrong})" + CORRECTED * (wrong == "mismatched tag")
        ) from None
    except defusedxml.DefusedXmlException:
        raise ValueError(f"{path}: refused, for a <!DOCTYPE …> can exhaust memory or read files; remove it") from None
    except LookupError:
        raise ValueError(f"{path}: the XML declaration names an unknown encoding; use UTF-8") from None
    if not n:
        raise ValueError(f"{path}: no RECORD element; expected the n2c2/i2b2 2006 de-identification format")


def _flattened(element: Element, where: str) -> tuple[str, list[list]]:
    """Text of the element and spans of its PHI; a stack of its own, for depth must not exhaust Python's."""
    parts, length, spans, stack = [], 0, [], [(element, None)]
    while stack:
        node, start = stack.pop()
        if start is None:
            stack += [(node, length), *((child, None) for child in reversed(node))]
            parts.append(node.text or "")
        else:
            if node.tag == "PHI" and length > start:
                if not node.get("TYPE"):
                    raise ValueError(f"{where}: PHI without TYPE at offset {start}")
                spans.append([start, length, node.get("TYPE")])
            parts.append((node.tail or "") if node is not element else "")
        length += len(parts[-1])
    return "".join(parts), spans


def read_tab(path: Path) -> Iterator[Raw]:
    """Text Anonymization Benchmark: the union of its annotators; where they overlap direct wins, then the longest."""
    docs = parsed(decoded(path), path)
    for n, doc in enumerate(docs if isinstance(docs, list) else [None], 1):
        where = f"{path}, record {n}"
        try:
            text, mentions = doc["text"], set()
            for annotator in doc["annotations"].values():
                for mention in annotator["entity_mentions"]:
                    kind = {"DIRECT": "direct", "QUASI": "indirect", "NO_MASK": None}[mention["identifier_type"]]
                    if kind:
                        span = as_span({**mention, "kind": kind}, text, where, None)
                        mentions.add((kind, span["start"] - span["end"], span["start"], span["end"], span["type"]))
            record_id = doc["doc_id"]
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{where}: not the Text Anonymization Benchmark's standoff JSON (doc_id, text, annotations → "
                "entity_mentions → start_offset, end_offset, entity_type, identifier_type DIRECT, QUASI or NO_MASK)"
            ) from None
        spans = []
        for kind, _, start, end, type_ in sorted(mentions):
            if not any(start < span["end"] and span["start"] < end for span in spans):
                spans.append({"start": start, "end": end, "type": type_, "kind": kind})
        yield raw_record(where, text, record_id, identifiers=spans)


def as_span(raw: Any, text: Any, where: str, default_kind: str | None) -> dict[str, int | str]:
    """One annotation, a dict or a (start, end, type) triple, as {start, end, type, kind}; ValueError if it is none."""
    if isinstance(raw, dict):
        start, end, type_, kind, copy = (given(raw, keys) for keys in (START, END, TYPE, ("kind",), COPY))
    elif isinstance(raw, (list, tuple)) and len(raw) == 3:
        start, end, type_, kind, copy = *raw, None, None
    else:
        raise ValueError(f"{where}: an annotation must be an object with start, end and type, or [start, end, type]")
    if type(start) is not int or type(end) is not int:
        found = f"{type(start).__name__} and {type(end).__name__}"
        raise ValueError(f"{where}: an annotation needs whole numbers as start and end, found {found}")
    type_ = type_[0] if isinstance(type_, list) and type_ else type_
    kind = default_kind if kind is None else kind
    size = len(text) if isinstance(text, str) else 0
    value = text[start:end] if 0 <= start < end <= size else ""
    another = isinstance(copy, str) and copy.strip() and copy.split() != value.split()
    for trouble, true in (
        ("has no type", not isinstance(type_, str) or not type_.isprintable()),
        (f"has an unknown kind; known: {', '.join(KINDS)}", kind not in (*KINDS, "")),
        (f"is out of range; offsets count characters, start before end, within the text of {size}", not value),
        ("covers only white space", not value.strip()),
        ("covers another text than it says; offsets count characters, not bytes, line ends as in the text", another),
    ):
        if true:
            raise ValueError(f"{where}: annotation [{start}, {end}) {trouble}")
    start += len(value) - len(value.lstrip())
    return {"start": start, "end": start + len(value.strip()), "type": type_, "kind": kind}
