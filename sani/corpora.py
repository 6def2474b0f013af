"""Corpora: annotated text from any supported source.

A corpus is a `datasets.Dataset` held in memory (no copy of a user's text reaches the datasets cache), a row per
record: text (string), record_id (string), person_id (string, default record_id) and identifiers, a list of
{start: int64, end: int64, type: string, kind: string}; an emotion corpus has a label (string) too. Offsets count
characters of `text`; spans are sorted, disjoint and trimmed of white space. Error messages name files, lines, record
ids and offsets, never the text itself.
"""

import importlib
import re
from collections import Counter
from itertools import chain, groupby, islice
from pathlib import Path

import datasets
from datasets import Dataset, Features, Value
from tqdm.auto import tqdm

from .readers import (
    KINDS,
    as_span,
    data_files,
    decoded,
    decoded_pieces,
    parquet_batches,
    parsed,
    read_n2c2,
    read_tab,
    read_user,
)

SYNTHETIC = {  # grammar, records by default
    "synthetic-clinical": ("clinical", 200),
    "synthetic-stories": ("stories", 300),
    "synthetic-emotions": ("emotions", 2000),
}
LOCAL = {"n2c2-2006": (read_n2c2, ".xml"), "tab": (read_tab, ".json")}
# Parquet, both: datasets runs no loading scripts, and the Hub's first `bookcorpus` is one.
HUB = {"emotion": "dair-ai/emotion", "bookcorpus": "rojagtap/bookcorpus"}
SOURCES = (*SYNTHETIC, *LOCAL, *HUB)
SUFFIXES = (".jsonl", ".json", ".csv", ".txt")
SPLITS = ("private", "public")
EMOTION_SPLITS = ("train", "validation", "test")
EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")  # the Hub's label i is the i-th
BOOK_WORDS = 77_000_000  # of the paper's case B (§4.1)
FEATURES = Features(
    {
        "text": Value("string"),
        "record_id": Value("string"),
        "person_id": Value("string"),
        "identifiers": [
            {"start": Value("int64"), "end": Value("int64"), "type": Value("string"), "kind": Value("string")}
        ],
    }
)


def load_corpus(
    name_or_path,
    *,
    records=None,
    words=None,
    seed=0,
    split=None,
    folder=None,
    text_column=None,
    default_kind="direct",
):
    """Reads a corpus (module docstring) by name, or from a .jsonl, .json, .csv or .txt file or a folder of them.

    `records` keeps the first n; `seed` is for the synthetic sources, `split` for them ("private", the default, or
    "public") and for "emotion" ("train", "validation", "test"; by default the Hub's train, or all files of a folder).
    `folder` (or a file) holds the data of "n2c2-2006" and "tab", and of "emotion" (.txt of lines `text;label`, or
    .jsonl or .parquet in the Hub's format) and "bookcorpus" (a .txt per book, or .parquet with a row per sentence)
    where those shall not come from the Hub. `words` is for "bookcorpus": exactly so many words separated by white
    space, from the beginning (by default all of a folder, 77 million of the Hub), in records of about 1,000, whose
    person_id is the book. `text_column` names the text where it is not `text` or `full_text`; spans without a kind
    get `default_kind`. In a folder a .txt may have its spans beside it, as .json or BRAT .ann of the same stem.
    Raises ValueError (bad argument or content, too few words: file, line or record named) and FileNotFoundError.
    Source: n2c2-2006, bookcorpus and emotion are the paper's corpora (§4.1); the others are ours.
    """
    name = str(name_or_path)
    splits = SPLITS if name in SYNTHETIC else EMOTION_SPLITS if name == "emotion" else ()
    for wrong, message in (
        (
            records is not None and (type(records) is not int or records < 1),
            f"records must be a whole number of at least 1, or None for all; got {records!r}",
        ),
        (
            words is not None and (type(words) is not int or words < 1),
            f"words must be a whole number of at least 1, or None; got {words!r}",
        ),
        (
            words is not None and name != "bookcorpus",
            f"words= is for bookcorpus only; choose from {name!r} by records=",
        ),
        (default_kind not in KINDS, f"unknown default_kind {default_kind!r}; known: {', '.join(KINDS[:3])}"),
        (
            split is not None and splits and split not in splits,
            f"unknown split {split!r}; known: {', '.join(splits)}",
        ),
        (
            split not in (None, "private") and not splits,
            f"split={split!r} is for emotion and the synthetic corpora only; leave it out for {name!r}",
        ),
        (
            folder is not None and name not in (*LOCAL, *HUB),
            f"folder= is for {', '.join((*LOCAL, *HUB))}; for files of your own, load_corpus({str(folder)!r})",
        ),
        (
            folder is None and name in LOCAL,
            f"{name} does not come with this project; name your copy: load_corpus({name!r}, folder=…)",
        ),
    ):
        if wrong:
            raise ValueError(message)
    if name in SYNTHETIC:
        grammar, default = SYNTHETIC[name]
        generate = importlib.import_module(f"sani.grammars.{grammar}").generate
        generated = generate(default if records is None else records, seed, split or "private")
        rows = ({**row, "where": name} for row in generated)
    elif name in LOCAL:
        read, suffix = LOCAL[name]
        rows = chain.from_iterable(read(path) for path in data_files(Path(folder), (suffix,)))
    elif name == "emotion":
        rows = _emotions(folder, split)
    elif name == "bookcorpus":
        rows = _books(folder, words)
    else:
        path = Path(name)
        if not path.exists() and not path.suffix and len(path.parts) == 1:
            raise ValueError(
                f"unknown corpus {name!r}; known: {', '.join(SOURCES)}, or a path to a "
                f"{', '.join(SUFFIXES)} file or a folder of them"
            )
        rows = chain.from_iterable(read_user(path, text_column) for path in data_files(path, SUFFIXES))
    labelled = name in ("emotion", "synthetic-emotions")
    corpus, seen = [], set()
    for raw in islice(rows, records):
        row = _checked(raw, default_kind)
        if row["record_id"] in seen:
            raise ValueError(
                f"{raw['where']}: record_id {row['record_id']!r} occurs twice; ids must be unique over the corpus"
            )
        seen.add(row["record_id"])
        corpus.append({**row, "label": raw["label"]} if labelled else row)
    if not any(row["text"].strip() for row in corpus):
        raise ValueError(f"{folder or name}: the corpus is empty: {len(corpus)} records, none with text")
    return Dataset.from_list(
        corpus, features=Features({**FEATURES, "label": Value("string")} if labelled else FEATURES)
    )


# The Hub's sets, from there or from a folder


def _from_hub(name, *config, **options):
    try:
        return datasets.load_dataset(HUB[name], *config, **options)
    except OSError as error:
        raise ValueError(
            f"{name}: {HUB[name]} could not be fetched from the Hub ({type(error).__name__}); go online, or name a "
            f"copy on disk: load_corpus({name!r}, folder=…)"
        ) from error


def _raw(where, text, record_id, person_id=None, **more):
    return {"where": where, "text": text, "record_id": record_id, "person_id": person_id, "identifiers": [], **more}


def _emotions(folder, split):
    """Raw records of the emotion set, each with its label; an empty text or an unknown label is an error."""
    if folder is None:
        split = split or "train"
        data = _from_hub("emotion", "split", split=split)
        found = [(split, ((f"{HUB['emotion']}, row {n}", row) for n, row in enumerate(data, 1)))]
    else:
        paths = data_files(Path(folder), (".txt", ".jsonl", ".parquet"))
        if split:
            paths = [path for path in paths if path.stem.startswith(split[:3] if split == "validation" else split)]
        if not paths:
            raise ValueError(f"{folder}: no file whose name starts with the split {split!r}")
        found = [(path.stem, _labelled(path)) for path in paths]
    for stem, rows in found:
        for n, (where, row) in enumerate(rows, 1):
            if not isinstance(row, dict) or not {"text", "label"} <= row.keys():
                raise ValueError(f"{where}: expected an object with text and label")
            text, label = row["text"], row["label"]
            if type(label) is int and 0 <= label < len(EMOTIONS):
                label = EMOTIONS[label]
            if label not in EMOTIONS:
                raise ValueError(f"{where}: unknown label; known: {', '.join(EMOTIONS)}, or 0 to 5 in this order")
            if isinstance(text, str) and not text.strip():
                raise ValueError(f"{where}: the text is empty; remove the row")
            yield _raw(where, text, f"{stem}-{n}", label=label)


def _labelled(path):
    """(where, {text, label}) pairs of a file of the emotion set."""
    if path.suffix.lower() == ".parquet":
        batches = (zip(*columns) for _, columns in parquet_batches(path, "text", "label"))
        for n, (text, label) in enumerate(chain.from_iterable(batches), 1):
            yield f"{path}, row {n}", {"text": text, "label": label}
        return
    for n, line in enumerate(decoded(path).split("\n"), 1):
        where = f"{path}, line {n}"
        if not line.strip() or (n == 1 and line.strip() in ("text;label_name", "text;label")):
            continue
        if path.suffix.lower() == ".jsonl":
            yield where, parsed(line, where)
        elif ";" not in line:
            raise ValueError(f"{where}: no ';' between text and label")
        else:
            text, _, label = line.rpartition(";")
            yield where, {"text": text.strip(), "label": label.strip()}


WORD = re.compile(r"\S+")
LEAST, USUAL, MOST = 750, 1000, 1250  # words of a record, where its book is long enough
# Where a record may end, best first: at a blank line, at a sentence that ends a line, a sentence, a word.
ENDS = tuple(map(re.compile, (r"\n[^\S\n]*\n", r"[.!?…][\"'”’)\]]*[^\S\n]*\n", r"[.!?…][\"'”’)\]]*\s", r"\s")))


def _books(folder, words):
    """Raw records of about 1,000 words, `words` in all; holds no more text than a record and a piece of its book."""
    words = BOOK_WORDS if words is None and folder is None else words
    paths = [] if folder is None else data_files(Path(folder), (".txt", ".parquet"))
    left, numbers = words, Counter()
    size = sum(path.stat().st_size for path in paths)
    options = {"total": words, "unit": "word"} if words else {"total": size, "unit": "B"}
    with tqdm(**options, desc="bookcorpus", unit_scale=True, delay=2, mininterval=1, leave=False) as bar:

        def told(pieces):
            for _, text, read in pieces:
                bar.update(0 if words else read)
                yield text

        for book, pieces in groupby(_pieces(paths), key=lambda piece: piece[0]):
            for text, count in _records(told(pieces)):
                if words and count >= left:
                    text = text[: next(islice(WORD.finditer(text), left - 1, None)).end()]
                numbers[book] += 1
                yield _raw(folder or HUB["bookcorpus"], text, f"{book}-{numbers[book]}", book)
                if words:
                    left -= min(count, left)
                    bar.update(count)
                    if not left:
                        return
    if words:
        raise ValueError(
            f"{folder or HUB['bookcorpus']}: {words - left:,} words, fewer than words={words:,}; ask for fewer, or "
            "leave words= out to take all of a folder"
        )


def _pieces(paths):
    """(book, a piece of its text, bytes of the file read for it) triples, from the files or, without any, the Hub."""
    if not paths:
        stream = _from_hub("bookcorpus", split="train", streaming=True)
        for batch in stream.iter(batch_size=1000):
            yield "bookcorpus", _lines(batch["text"], HUB["bookcorpus"]), 0
    for path in paths:
        if path.suffix.lower() == ".txt":
            for text, read in decoded_pieces(path):
                yield path.stem, text, read
        else:
            for share, (sentences,) in parquet_batches(path, "text"):
                yield "bookcorpus", _lines(sentences, path), share * path.stat().st_size


def _lines(sentences, where):
    """Sentences as text, a line each."""
    try:
        return "".join(f"{line}\n" for line in map(str.strip, filter(None, sentences)) if line)
    except TypeError:
        raise ValueError(f"{where}: the column text holds something else than strings") from None


def _records(pieces):
    """(text, number of words) pairs: a book cut where it reads best, the same however its pieces fall."""
    text = ""
    for piece in chain(pieces, [None]):
        text += piece or ""
        while True:
            found = list(islice(WORD.finditer(text), MOST + 1))
            if not found or (len(found) <= MOST and piece is not None):
                break
            cut = len(text)
            if len(found) > MOST:
                least, usual, most = found[LEAST - 1].end(), found[USUAL - 1].end(), found[MOST].start()
                places = (
                    [
                        place
                        for match in end.finditer(text, found[LEAST - 1].start(), most)
                        if (place := match.end()) > least
                    ]
                    for end in ENDS
                )
                cut = min(next(filter(None, places)), key=lambda place: abs(place - usual))
            yield text[:cut].strip(), sum(word.end() <= cut for word in found)
            text = text[cut:]


# Checks


def _checked(raw, default_kind):
    """The record with its strings checked and its spans trimmed, sorted, disjoint and inside the text."""
    row = {key: raw.get(key) for key in ("text", "record_id", "person_id")}
    row["record_id"] = str(row["record_id"]) if type(row["record_id"]) is int else row["record_id"]
    row["person_id"] = str(row["person_id"]) if type(row["person_id"]) is int else row["person_id"] or row["record_id"]
    for key, value in row.items():
        if not isinstance(value, str):
            raise ValueError(f"{raw['where']}: {key} must be a string, found {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{raw['where']}: {key} has half a surrogate pair at offset {error.start}, which UTF-8 cannot hold"
            ) from None
    where = f"{raw['where']}, record_id {row['record_id']!r}"
    spans = {
        tuple(span.items()): span
        for span in (as_span(span, row["text"], where, default_kind) for span in raw["identifiers"])
    }  # exact duplicates merge
    row["identifiers"] = sorted(spans.values(), key=lambda span: (span["start"], span["end"]))
    for one, two in zip(row["identifiers"], row["identifiers"][1:]):
        if two["start"] < one["end"]:
            raise ValueError(
                f"{where}: annotations overlap: [{one['start']}, {one['end']}) and "
                f"[{two['start']}, {two['end']}); keep one of them"
            )
    return row
