"""Corpora: annotated text from any supported source.

A corpus is a `datasets.Dataset` held in memory (no copy of a user's text reaches the datasets cache), a row per
record: text (string), record_id (string), person_id (string, default record_id) and identifiers, a list of
{start: int64, end: int64, type: string, kind: string}; an emotion corpus has a label (string) too. Offsets count
characters of `text`; spans are sorted, disjoint and trimmed of white space. Error messages name files, lines, record
ids and offsets, never the text itself.
"""

from collections.abc import Iterator
from itertools import chain, islice, pairwise
from pathlib import Path

from datasets import Dataset, Features, Value

from ..runs import checked, one_of
from ..text.matching import KINDS
from .grammars import SPLITS, clinical, emotions, stories
from .hub_sets import EMOTION_SPLITS, HUB, read_books, read_emotions
from .readers import Raw, as_span, data_files, read_n2c2_files, read_tab, read_user

SYNTHETIC = {  # grammar, records by default
    "synthetic-clinical": (clinical, 200),
    "synthetic-stories": (stories, 300),
    "synthetic-emotions": (emotions, 2000),
}
LOCAL = {
    "n2c2-2006": (read_n2c2_files, ".xml"),
    "tab": (lambda paths: chain.from_iterable(map(read_tab, paths)), ".json"),
}
SOURCES = (*SYNTHETIC, *LOCAL, *HUB)
SUFFIXES = (".jsonl", ".json", ".csv", ".txt")
SPAN = {"start": Value("int64"), "end": Value("int64"), "type": Value("string"), "kind": Value("string")}
FEATURES = Features({key: Value("string") for key in ("text", "record_id", "person_id")} | {"identifiers": [SPAN]})
LABELLED = Features({**FEATURES, "label": Value("string")})


def load_corpus(
    name_or_path: str | Path, *, records: int | None = None, words: int | None = None, seed: int = 0,
    split: str | None = None, folder: str | Path | None = None, text_column: str | None = None,
    default_kind: str = "direct",
) -> Dataset:  # fmt: skip
    """Reads a corpus (module docstring) by name, or from a .jsonl, .json, .csv or .txt file or a folder of them.

    `records` keeps the first n; `seed` is for the synthetic sources, `split` for them ("private", the default, or
    "public") and for "emotion" ("train", "validation", "test"; by default the Hub's train, or all files of a folder).
    `folder` (or a file) holds the data of "n2c2-2006" (all its files: of a record in a test file and in its ground
    truth the annotated one is taken) and "tab", and of "emotion" (.txt of lines `text;label`, or
    .jsonl or .parquet in the Hub's format) and "bookcorpus" (a .txt per book, or .parquet with a row per sentence)
    where those shall not come from the Hub. `words` is for "bookcorpus": exactly so many words separated by white
    space, from the beginning (by default all of a folder, 77 million of the Hub), in records of about 1,000, whose
    person_id is the book. `text_column` names the text where it is not `text` or `full_text`; spans without a kind
    get `default_kind`. In a folder a .txt may have its spans beside it, as .json or BRAT .ann of the same stem.
    Raises TypeError, ValueError (bad argument or content: file, line or record named) and FileNotFoundError.
    Source: n2c2-2006, bookcorpus and emotion are the paper's corpora (§4.1); the others are ours.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(f"a corpus is loaded by a name or a path, not by a {type(name_or_path).__name__}")
    name = str(name_or_path)
    _check_arguments(name, records, words, seed, split, folder, text_column, default_kind)
    if name in SYNTHETIC:
        grammar, usual = SYNTHETIC[name]
        found = ({**row, "where": name} for row in grammar.generate(records or usual, seed, split or "private"))
    elif name in LOCAL:
        read, suffix = LOCAL[name]
        found = read(data_files(Path(folder), (suffix,)))
    elif name in HUB:
        found = read_emotions(folder, split) if name == "emotion" else read_books(folder, words)
    else:
        found = chain.from_iterable(read_user(path, text_column) for path in data_files(Path(name), SUFFIXES))
    rows = list(_checked_rows(islice(found, records), default_kind))
    if not any(row["text"].strip() for row in rows):
        raise ValueError(f"{folder or name}: the corpus is empty: {len(rows)} records, none with text")
    return Dataset.from_list(rows, features=LABELLED if "label" in rows[0] else FEATURES)


def with_strangers(
    name: str, records: int, heldout_records: int, seed: int = 0
) -> tuple[Dataset, Dataset, Dataset | None]:
    """The first records of a synthetic stream, later ones of persons not among theirs, and of the same persons.

    name: of a source of `load_corpus`, split "private". The second corpus has at most `heldout_records` records, the
    third all others of the next `records` + 2 · `heldout_records` whose persons were seen; it is None if there is
    none. All three have the columns of `load_corpus`, which raises ValueError for a bad argument. Source: ours.
    """
    one_of("synthetic corpus", name, SYNTHETIC)
    checked("records", records, int, 1)
    checked("heldout_records", heldout_records, int, 0)
    stream = load_corpus(name, records=2 * records + 2 * heldout_records, seed=seed)
    corpus = stream.select(range(records))
    seen, persons, later = set(corpus["person_id"]), list(stream["person_id"]), range(records, len(stream))
    strangers = [i for i in later if persons[i] not in seen][:heldout_records]
    again = [i for i in later if persons[i] in seen]
    return corpus, stream.select(strangers), stream.select(again) if again else None


def _check_arguments(name: str, records, words, seed, split, folder, text_column, default_kind) -> None:
    """Raise TypeError or ValueError for what `load_corpus` cannot do, before anything is read."""
    for what, value, takers in (
        ("words", words, ("bookcorpus",)),
        ("folder", folder, (*LOCAL, *HUB)),
        ("split", split, (*SYNTHETIC, "emotion")),
        ("text_column", text_column, () if name in SOURCES else (name,)),
    ):
        if value is not None and name not in takers:
            raise ValueError(f"{what}= is for {', '.join(takers) or 'files of your own'}; leave it out for {name!r}")
    checked("seed", seed, int, 0)
    checked("text_column", text_column or "", str)
    checked("records", 1 if records is None else records, int, 1)
    checked("words", 1 if words is None else words, int, 1)
    one_of("default_kind", default_kind, (*KINDS, ""))
    if split is not None:
        one_of("split", split, EMOTION_SPLITS if name == "emotion" else SPLITS)
    if not folder and name in LOCAL:
        raise ValueError(f"{name} does not come with this project; name your copy: load_corpus({name!r}, folder=…)")
    path = Path(name)
    if name not in SOURCES and not path.exists() and not path.suffix and len(path.parts) == 1:
        files = f"{', '.join(SUFFIXES)} file, or a folder of them"
        raise ValueError(f"unknown corpus {name!r}; known: {', '.join(SOURCES)}, a path to a {files}")


def _checked_rows(found: Iterator[Raw], default_kind: str) -> Iterator[dict]:
    """The rows of raw records, their ids unique, their spans trimmed, sorted, disjoint and inside the text."""
    seen = set()
    for raw in found:
        text, record_id, person_id = (raw[key] for key in ("text", "record_id", "person_id"))
        record_id = str(record_id) if type(record_id) is int else record_id
        person_id = str(person_id) if type(person_id) is int else person_id or record_id
        row = {"text": text, "record_id": record_id, "person_id": person_id}
        for key, value in row.items():
            if not isinstance(value, str):
                raise ValueError(f"{raw['where']}: {key} must be a string, found {type(value).__name__}")
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{raw['where']}: {key} has half a surrogate pair at offset {error.start}") from None
        where = f"{raw['where']}, record_id {record_id!r}"
        if record_id in seen:
            raise ValueError(f"{raw['where']}: record_id {record_id!r} occurs twice; ids must be unique")
        seen.add(record_id)
        spans = [as_span(span, text, where, default_kind) for span in raw["identifiers"]]
        spans = {tuple(span.items()): span for span in spans}.values()  # exact duplicates merge
        row["identifiers"] = sorted(spans, key=lambda span: (span["start"], span["end"]))
        for (a, b), (c, d) in pairwise((span["start"], span["end"]) for span in row["identifiers"]):
            if c < b:
                raise ValueError(f"{where}: annotations overlap: [{a}, {b}) and [{c}, {d}); keep one of them")
        yield row | {key: raw[key] for key in ("label",) if key in raw}
