"""The paper's sets that lie on the Hugging Face Hub, from there or from a folder: emotion and bookcorpus (PAPER §4.1).

Raw records as those of `readers`; an emotion has a label too. A book is cut into records of about 1,000 words where it
reads best, held in memory no more than a record and a piece of the book at a time.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
from tqdm.auto import tqdm

from .readers import Raw, Row, data_files, decoded, decoded_pieces, json_lines, raw_record

# Parquet, both: datasets runs no loading scripts, and the Hub's first `bookcorpus` is one.
HUB = {"emotion": "dair-ai/emotion", "bookcorpus": "rojagtap/bookcorpus"}
EMOTION_SPLITS = ("train", "validation", "test")
EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")  # the Hub's label i is the i-th
BOOK_WORDS = 77_000_000  # of the paper's case B (§4.1)
LEAST, USUAL, MOST = 750, 1000, 1250  # words of a record, where its book is long enough
SPACED = re.compile(r"\S+")  # a word of a book: what stands between white space
# Where a record may end, best first: at a blank line, at a sentence that ends a line, a sentence, a word.
ENDS = tuple(map(re.compile, (r"\n[^\S\n]*\n", r"[.!?…][\"'”’)\]]*[^\S\n]*\n", r"[.!?…][\"'”’)\]]*\s", r"\s")))


def _from_hub(name: str, *config: str, **options) -> Iterable[dict]:
    try:
        return datasets.load_dataset(HUB[name], *config, **options)
    except OSError as error:
        raise ValueError(
            f"{name}: {HUB[name]} could not be fetched from the Hub ({type(error).__name__}); go online, or name a "
            f"copy on disk: load_corpus({name!r}, folder=…)"
        ) from error


def read_emotions(folder: str | Path | None, split: str | None) -> Iterator[Raw]:
    """Raw records of the emotion set, each with its label; an empty text or an unknown label is a ValueError."""
    for stem, rows in _emotion_files(folder, split):
        for n, (_, where, row) in enumerate(rows, 1):
            if not isinstance(row, dict) or not {"text", "label"} <= row.keys():
                raise ValueError(f"{where}: expected an object with text and label")
            text, label = row["text"], row["label"]
            if type(label) is int and 0 <= label < len(EMOTIONS):
                label = EMOTIONS[label]
            if label not in EMOTIONS:
                raise ValueError(f"{where}: unknown label; known: {', '.join(EMOTIONS)}, or 0 to 5 in this order")
            if isinstance(text, str) and not text.strip():
                raise ValueError(f"{where}: the text is empty; remove the row")
            yield raw_record(where, text, f"{stem}-{n}") | {"label": label}


def _emotion_files(folder: str | Path | None, split: str | None) -> list[tuple[str, Iterator[Row]]]:
    """(name, rows) of each file of the set, or of the Hub's split."""
    if folder is None:
        split = split or "train"
        rows = _from_hub("emotion", "split", split=split)
        return [(split, ((n, f"{HUB['emotion']}, row {n}", row) for n, row in enumerate(rows, 1)))]
    paths = data_files(Path(folder), (".txt", ".jsonl", ".parquet"))
    if split:
        paths = [path for path in paths if path.stem.startswith(split[:3] if split == "validation" else split)]
    if not paths:
        raise ValueError(f"{folder}: no file whose name starts with the split {split!r}")
    readers = {".txt": _text_lines, ".jsonl": json_lines, ".parquet": _parquet_rows}
    return [(path.stem, readers[path.suffix.lower()](path)) for path in paths]


def _batches(path: Path, *columns: str) -> Iterator[tuple[float, list[list]]]:
    """(share of the file's rows, the columns as lists) pairs, some thousand rows at a time."""
    try:
        with pa.parquet.ParquetFile(path) as file:
            if missing := [column for column in columns if column not in file.schema_arrow.names]:
                raise ValueError(f"{path}: no column {' and no column '.join(missing)}; expected the Hub's format")
            for batch in file.iter_batches(10_000, columns=list(columns)):
                yield batch.num_rows / file.metadata.num_rows, [batch[column].to_pylist() for column in columns]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole Parquet file ({type(error).__name__})") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    batches = (zip(*columns) for _, columns in _batches(path, "text", "label"))
    for n, (text, label) in enumerate(chain.from_iterable(batches), 1):
        yield n, f"{path}, row {n}", {"text": text, "label": label}


def _text_lines(path: Path) -> Iterator[Row]:
    """Lines `text;label`, with or without a header."""
    for n, line in enumerate(decoded(path).split("\n"), 1):
        if not line.strip() or (n == 1 and line.strip() in ("text;label_name", "text;label")):
            continue
        if ";" not in line:
            raise ValueError(f"{path}, line {n}: no ';' between text and label")
        text, _, label = line.rpartition(";")
        yield n, f"{path}, line {n}", {"text": text.strip(), "label": label.strip()}


def read_books(folder: str | Path | None, words: int | None) -> Iterator[Raw]:
    """Raw records of about 1,000 words, exactly `words` in all; ValueError if there are fewer."""
    words = BOOK_WORDS if words is None and folder is None else words
    paths = [] if folder is None else data_files(Path(folder), (".txt", ".parquet"))
    where, left, numbers = folder or HUB["bookcorpus"], words or math.inf, Counter()
    size = sum(path.stat().st_size for path in paths)
    options = {"total": words, "unit": "word"} if words else {"total": size, "unit": "B"}
    with tqdm(**options, desc="bookcorpus", unit_scale=True, delay=2, mininterval=1, leave=False) as bar:

        def texts(pieces):
            for _, text, read in pieces:
                bar.update(0 if words else read)
                yield text

        for book, pieces in groupby(_pieces(paths), key=lambda piece: piece[0]):
            for text, count in cut_book(texts(pieces)):
                if count >= left:
                    text = text[: next(islice(SPACED.finditer(text), left - 1, None)).end()]
                numbers[book] += 1
                yield raw_record(where, text, f"{book}-{numbers[book]}", book)
                left -= min(count, left)
                bar.update(count if words else 0)
                if not left:
                    return
    if words:
        found = f"{words - left:,} words, fewer than words={words:,}"
        raise ValueError(f"{where}: {found}; ask for fewer, or leave words= out to take all of a folder")


def _pieces(paths: list[Path]) -> Iterator[tuple[str, str, float]]:
    """(book, a piece of its text, bytes of the file read for it) triples, from the files or, without any, the Hub."""
    if not paths:
        stream = _from_hub("bookcorpus", split="train", streaming=True)
        for batch in stream.iter(batch_size=1000):
            yield "bookcorpus", _joined(batch["text"], HUB["bookcorpus"]), 0
    for path in paths:
        if path.suffix.lower() == ".txt":
            for text, read in decoded_pieces(path):
                yield path.stem, text, read
        else:
            for share, (sentences,) in _batches(path, "text"):
                yield "bookcorpus", _joined(sentences, path), share * path.stat().st_size


def _joined(sentences: Iterable[str | None], where: str | Path) -> str:
    """Sentences as text, a line each."""
    try:
        return "".join(f"{line}\n" for line in map(str.strip, filter(None, sentences)) if line)
    except TypeError:
        raise ValueError(f"{where}: the column text holds something else than strings") from None


def cut_book(pieces: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(text, number of words) pairs: a book cut where it reads best, the same however its pieces fall."""
    text = ""
    for piece in chain(pieces, [None]):
        text += piece or ""
        while True:
            found = list(islice(SPACED.finditer(text), MOST + 1))
            if not found or (len(found) <= MOST and piece is not None):
                break
            cut = _best_end(text, found) if len(found) > MOST else len(text)
            yield text[:cut].strip(), sum(word.end() <= cut for word in found)
            text = text[cut:]


def _best_end(text: str, words: list[re.Match]) -> int:
    """Where a text of more than `MOST` words is cut: at the best of `ENDS`, as near to `USUAL` words as can be."""
    (start, least), usual, most = words[LEAST - 1].span(), words[USUAL - 1].end(), words[MOST].start()
    ends = ([match.end() for match in end.finditer(text, start, most) if match.end() > least] for end in ENDS)
    return min(next(filter(None, ends)), key=lambda place: abs(place - usual))
