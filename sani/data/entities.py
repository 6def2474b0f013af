"""Entities: what a NER model, or a tool elsewhere, finds in a corpus (PAPER §2 step 1, case B).

Spans are lists, one per record, of {start, end, type, score}: characters of `text`, sorted, disjoint. Run folders and
messages hold offsets, types and record ids, never text.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm

from ..blocks import check_corpus
from ..runs import (
    checked,
    fingerprint,
    named_file,
    named_folder,
    one_of,
    private_folder,
    replacing,
    run_folder,
    write_provenance,
)
from ..text.matching import KINDS
from .ner import PREFIX, load_tagger, open_classifier, words
from .readers import RECORD, START, as_span, decoded, given, json_lines, parsed, spans_of

Spans = list[list[dict]]

SHARD = 1_000_000  # characters after which what was found is written
# A word of three letters or more that goes on a sentence: it follows another word, or one and a comma. Only letters, as
# names are told by their spelling here, while `matching.WORD` has digits and marks too.
INSIDE = re.compile(r"(?:(?<=[^\W\d_]{2}\s)|(?<=[^\W\d_],\s))[^\W\d_]{3,}")
LETTERS = re.compile(r"[^\W\d_]{3,}")
TITLES = frozenset("mrs miss sir lady lord madame monsieur mademoiselle".split())


def find_entities(
    corpus: Dataset, model: str | Path = "tiny-ner", classes: Sequence[str] | str | None = None, threshold: float = 0.5,
    batch_size: int = 32, run_dir: str | Path | None = None, resume: bool = True, progress: bool = True,
    window: int | None = None,
) -> Spans:  # fmt: skip
    """The entities that a token classifier (shipped name, local folder or Hub id) finds in each record.

    classes: without prefix ("PER", not "B-PER"); by default all. threshold: least probability of a word's class, that
    of its B-, I-, … labels together; a word is as probable as its likeliest sub-word, a span as its words on average.
    Below 0.5 more words are found than the model itself would label; below 0.05 nothing more. window: tokens read at
    once, by default the model's positions, at most 512; in longer texts windows overlap by a quarter. The words'
    offsets and probabilities are kept in `run_dir` (by default `runs/entities-<hash>`), so a rerun goes on where it
    stopped, and other classes or another threshold need no model.
    Raises, before any prediction, ValueError (bad argument, corpus without text, a model that is no token classifier,
    lacks a class or has pickled weights) and FileNotFoundError. Source: PAPER §2, step 1.
    """
    checked("threshold", threshold, float, 0, 1)
    checked("batch_size", batch_size, int, 1)
    checked("window", 16 if window is None else window, int)
    texts = list(check_corpus(corpus)["text"])
    if not any(map(str.strip, texts)):
        raise ValueError(f"the corpus has no text to find entities in: {len(texts)} records, all empty")
    classifier = open_classifier(model, window)
    wanted = _wanted(classes, classifier.classes, f"model {model}")
    # A file is named by all that it depends on, so that in a folder of the user's none of another model or text is met.
    key = {"texts": fingerprint(*map(fingerprint, texts)), "model": classifier.fingerprint}
    folder = run_folder("entities", "sani.data.ner", **key, window=classifier.tokenizer.model_max_length)
    stem = f"words-{folder.name.rpartition('-')[2]}"
    folder = folder if run_dir is None else named_folder(run_dir)
    if any(folder.glob("[!.]*")) and not any(folder.glob("words-*.parquet")):
        raise ValueError(f"{folder} is not empty and holds no entities; choose another run_dir")
    shards, first = _read(private_folder(folder), stem, resume)
    if first < len(texts):
        tagger, ends = load_tagger(model, classifier), np.cumsum([0, *map(len, texts)])
        bar = tqdm(
            total=int(ends[-1]), initial=int(ends[first]), desc="entities", unit="char", unit_scale=True, delay=2,
            mininterval=1, disable=not progress, leave=False,
        )  # fmt: skip
        with bar:
            while first < len(texts):
                last = max(int(np.searchsorted(ends, ends[first] + SHARD, side="right")) - 1, first + 1)
                found = words(texts[first:last], tagger, classifier, batch_size, bar)
                shards.append(found.assign(record=found["record"] + first))
                with replacing(folder / f"{stem}-{first:09}-{last:09}.parquet") as temporary:
                    shards[-1].to_parquet(temporary, index=False)
                first = last
        write_provenance(folder, device=str(tagger.device), records=len(texts))
    return _merged(pd.concat(shards), texts, wanted, threshold)


def read_spans(
    source: str | Path | Mapping | Sequence, corpus: Dataset, classes: Sequence[str] | str | None = None,
    threshold: float = 0.0,
) -> Spans:  # fmt: skip
    """Spans made elsewhere (Presidio, eds-pseudo, spaCy, doccano, a Transformers pipeline), checked, per record.

    source: the spans of each record in a list, a dict of record id → spans, or rows of {record_id, spans}; or a .json
    file of one of these, or a .jsonl file with a line per record. A span is {start, end, type or entity_type or label,
    score (by default 1)} or [start, end, label]. Of overlapping spans the one with the higher score is kept, then the
    longer. classes, threshold: those to keep, as in `find_entities`.
    Raises ValueError (wrong shape, offsets out of range, record ids the corpus lacks) and FileNotFoundError.
    """
    checked("threshold", threshold, float, 0, 1)
    where = "spans"
    if isinstance(source, (str, Path)):
        where = path = named_file(source)
        if not path.is_file() or path.suffix.lower() not in (".json", ".jsonl"):
            raise (ValueError if path.is_file() else FileNotFoundError)(f"{path}: not a .json or .jsonl file of spans")
        lines = path.suffix.lower() == ".jsonl"
        source = [row for _, _, row in json_lines(path)] if lines else parsed(decoded(path), path)
    ids, texts = list(check_corpus(corpus)["record_id"]), corpus["text"]
    spans: Spans = [[] for _ in ids]
    for n, found in _by_record(source, ids, where).items():
        text = texts[n]
        found = [_span(raw, text, f"{where}, record {ids[n]}") for raw in found]
        free = np.ones(len(text), dtype=bool)
        for span in sorted(found, key=lambda s: (-s["score"], s["start"] - s["end"], s["start"], s["type"])):
            if free[span["start"] : span["end"]].all():
                free[span["start"] : span["end"]] = False
                spans[n].append(span)
        spans[n].sort(key=lambda span: span["start"])
    wanted = _wanted(classes, sorted({span["type"] for found in spans for span in found}), where, shown=False)
    return [[s for s in found if s["type"] in wanted and s["score"] >= threshold] for found in spans]


def capitalized(corpus: Dataset, share: float = 0.95) -> Counter[str]:
    """Words in lower case that are names by their spelling, with how often each stands inside a sentence.

    A word of three letters or more that follows another word, or one and a comma, with a capital, and that has a
    capital in at least `share` of all places where it stands; those all in capitals, as in headings, are not looked
    at. Titles ("Mrs") are no names; other words that are always capitalised ("Monday", "English") are found too.
    """
    checked("share", share, float, 0, 1)
    inside, spelt, small, whole = (Counter() for _ in range(4))
    for text in check_corpus(corpus)["text"]:
        inside.update(word.lower() for word in INSIDE.findall(text) if not word.isupper() and word[0].isupper())
        spelt.update(word for word in LETTERS.findall(text) if not word.isupper())
    for word, count in spelt.items():
        whole[word.lower()] += count
        small[word.lower()] += count * (not word[0].isupper())
    names = (word for word in inside if word not in TITLES and small[word] <= (1 - share) * whole[word])
    return Counter({word: inside[word] for word in names})


def annotate(corpus: Dataset, spans: Spans, kind: str = "direct") -> Dataset:
    """The corpus with these spans, of this kind, as its identifiers, in place of those it has."""
    one_of("kind", kind, KINDS)
    rows = [
        row | {"identifiers": [{"start": s["start"], "end": s["end"], "type": s["type"], "kind": kind} for s in found]}
        for row, found in zip(check_corpus(corpus), spans, strict=True)
    ]
    return Dataset.from_list(rows, features=corpus.features)


def _by_record(source, ids: list[str], where) -> dict[int, Sequence]:
    """Raw spans by the number of their record, from the shapes that `read_spans` knows."""
    keyed = isinstance(source, Mapping) and not any(key in source for key in RECORD)
    entries = list(source.values()) if keyed else [source] if isinstance(source, Mapping) else source
    if not isinstance(entries, (list, tuple)):
        raise ValueError(f"{where}: expected spans in a list or a dict, found {type(entries).__name__}")
    plain = [not isinstance(entry, Mapping) or any(key in entry for key in START) for entry in entries]
    rows = [{"spans": entry} if bare else entry for entry, bare in zip(entries, plain)]
    names = list(source) if keyed else [given(row, RECORD) for row in rows]
    if not keyed and not any(name is not None for name in names):
        if len(rows) != len(ids):
            raise ValueError(f"{where}: spans of {len(rows)} records for a corpus of {len(ids)}; add the record ids")
        names = ids
    known, found = {record_id: n for n, record_id in enumerate(ids)}, {}
    for i, (name, row) in enumerate(zip(names, rows), 1):
        n, spans = known.get(str(name)), spans_of(row, f"{where}, entry {i}")
        if spans is None:
            raise ValueError(f"{where}, entry {i}: no list of spans; expected [{{start, end, type}}, …] for a record")
        if n is None or n in found:
            trouble = "an unknown record id" if n is None else "the record id of an earlier one"
            raise ValueError(f"{where}, entry {i} has {trouble}; the corpus's ids are {ids[0]!r}, …")
        found[n] = spans
    return found


def _span(raw, text: str, where: str) -> dict:
    raw = raw.to_dict() if hasattr(raw, "to_dict") else raw  # Presidio's RecognizerResult
    span, score = as_span(raw, text, where, ""), given(raw, ("score",), default=1.0) if isinstance(raw, dict) else 1.0
    if not isinstance(score, Real) or not 0 <= score <= 1:
        raise ValueError(f"{where}: the score at [{span['start']}, {span['end']}) is no number in [0, 1]")
    return {"start": span["start"], "end": span["end"], "type": span["type"], "score": float(score)}


def _wanted(classes, known: Sequence[str], where, shown: bool = True) -> set[str]:
    """The classes asked for, without prefix; all if None. `shown`: whether an error may name those there are."""
    if classes is None:
        return set(known)
    classes = [classes] if isinstance(classes, str) else classes
    bare = {name: name if name in known else PREFIX.sub("", name, count=1) for name in classes}
    if not bare or not set(bare.values()) <= set(known):
        lost = [name for name in bare if bare[name] not in known] or ["named"]
        there = ", ".join(known) or "none"
        there = there if shown else "others, not shown, since what stands in their place may be text"
        raise ValueError(f"{where}: no class {', '.join(lost)}; it has {there}")
    return set(bare.values())


def _merged(found: pd.DataFrame, texts: Sequence[str], classes: set[str], threshold: float) -> Spans:
    """Entities: neighbouring words of one class, up to a blank line or to a word that begins another."""
    found = found[(found["score"] >= threshold) & found["type"].isin(classes)]
    found = found.sort_values(["record", "start", "score", "type"], ascending=[True, True, False, True])
    found = found.drop_duplicates(["record", "start"])

    def follows(before, word) -> bool:
        if before is None or word.begins or (before.record, before.type) != (word.record, word.type):
            return False
        gap = texts[word.record][before.end : word.start]
        return not gap.strip() and gap.count("\n") < 2

    rows = list(found.itertuples(index=False))
    found = found.assign(entity=np.cumsum([not follows(*pair) for pair in zip([None, *rows], rows)]))
    inner = np.array([texts[row.record][row.start].isalnum() for row in rows], dtype=bool)
    found = found[inner]  # no punctuation at the ends
    whole = {"record": "first", "start": "min", "end": "max", "type": "first", "score": "mean"}
    spans: Spans = [[] for _ in texts]
    for row in found.groupby("entity").agg(whole).to_dict("records"):
        spans[row.pop("record")].append(row)
    return spans


def _read(folder: Path, stem: str, resume: bool) -> tuple[list[pd.DataFrame], int]:
    """What was found in the first records, and the number of these; nothing, and all files deleted, if not `resume`."""
    found, following = [], 0
    for path in sorted(folder.glob(f"{stem}-*.parquet")):
        first, last = map(int, path.stem.split("-")[2:])
        if not resume:
            path.unlink()
        elif first == following:
            found.append(pd.read_parquet(path))
            following = last
    return found, following
