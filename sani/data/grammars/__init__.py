"""Seeded grammars for the synthetic corpora, with their data files; here, what the grammars share.

A grammar turns patterns ("{Hero} lived in {home:form}.") into pieces and pieces into a text with exact spans.
Everything random comes from `random.Random` seeded by a string, so a record is the same on every machine.
"""

import functools
import hashlib
import importlib.resources
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator

import yaml

SPLITS = ("private", "public")

Piece = tuple[str, str | None]  # text, and its identifier type or None


def first(records: int, stream: Iterator[dict], split: str) -> Iterator[dict]:
    """The first records of a stream; raises ValueError at once for an unknown split or for fewer records than one."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if records < 1:
        raise ValueError(f"records must be at least 1, not {records}")
    return itertools.islice(stream, records)


def record(text: str, identifiers: list[dict], name: str, person: str | None = None) -> dict:
    """A record; its person is the record itself by default."""
    return {"text": text, "record_id": name, "person_id": person or name, "identifiers": identifiers}


def load(name: str, marks: dict[str, str]) -> dict:
    """A data file of this folder; `marks` maps a mark to the keys whose texts are split at it (see `listed`)."""
    data = yaml.safe_load(importlib.resources.files(__package__).joinpath(name).read_text("utf-8"))
    for mark, keys in marks.items():
        for key in keys.split():
            found = data[key]
            nested = isinstance(found, dict)
            data[key] = {part: listed(text, mark) for part, text in found.items()} if nested else listed(found, mark)
    return data


def listed(text: str, mark: str) -> list[str]:
    """The parts of a text between marks, trimmed, without empty ones."""
    return [part.strip() for part in text.split(mark) if part.strip()]


def fits(value: str, split: str) -> bool:
    """Whether a value may occur in a split: the parity of its hash decides, so the splits are disjoint."""
    return hashlib.sha256(value.lower().encode()).digest()[0] % 2 == SPLITS.index(split)


def zipf(rng: random.Random, values: list):
    """One of the values, the n-th with a weight of 1/n."""
    return rng.choices(values, cum_weights=_weights(len(values)))[0]


@functools.cache
def _weights(count: int) -> list[float]:
    return list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))


@functools.cache
def _parse(pattern: str) -> list[tuple[str, str, str]]:
    """A pattern as (text before, slot name, slot form) triples, the last with no slot."""
    parts = re.split(r"\{(\w+)(?::([^}]*))?\}", pattern) + ["", ""]
    return [(parts[i], parts[i + 1], parts[i + 2] or "") for i in range(0, len(parts), 3)]


def fill(pattern: str, slot_pieces: Callable[[str, str], list[Piece]]) -> Iterator[Piece]:
    """The pieces of a pattern, its slots filled by `slot_pieces(slot, form)`; a slot with a capital gets one."""
    for text, slot, form in _parse(pattern):
        yield text, None
        if slot:
            (text, kind), *rest = slot_pieces(slot[0].lower() + slot[1:], form)
            yield from [(text[0].upper() + text[1:] if slot[0].isupper() else text, kind), *rest]


def join(pieces: Iterable[Piece], kind: str) -> tuple[str, list[dict]]:
    """The text of the pieces, and the spans of those with a type, all of one kind of identifier."""
    texts, identifiers, at = [], [], 0
    for text, type_ in pieces:
        if type_:
            identifiers.append({"start": at, "end": at + len(text), "type": type_, "kind": kind})
        texts.append(text)
        at += len(text)
    return "".join(texts), identifiers
