"""Seeded grammars for the synthetic corpora, with their data files; here, what the grammars share.

A grammar turns patterns ("{Hero} lived in {home:form}.") into pieces and pieces into a text with exact spans.
Everything random comes from `random.Random` seeded by a string, so a record is the same on every machine.
"""

import hashlib
import importlib.resources
import random
import string
from collections.abc import Callable, Iterable, Iterator

import yaml

from ...runs import checked, one_of

SPLITS = ("private", "public")

Piece = tuple[str, str | None]  # text, and its identifier type or None


def numbered(records: int, seed: int, split: str, stream: Iterator[dict]) -> Iterator[dict]:
    """The first records of a stream, named; a record's person is the record itself where the stream names none.

    Raises ValueError at once for an unknown split or for fewer records than one.
    """
    one_of("split", split, SPLITS)
    checked("records", records, int, 1)
    named = (f"{split}-{seed}-{index:05d}" for index in range(records))
    return ({"record_id": name, "person_id": name} | row for name, row in zip(named, stream))


def load(name: str) -> dict:
    """A data file of this folder, its blocks of lines as lists."""

    def listed(found):
        if isinstance(found, dict):
            return {key: listed(part) for key, part in found.items()}
        return found.splitlines() if isinstance(found, str) and "\n" in found else found

    return listed(yaml.safe_load(importlib.resources.files(__package__).joinpath(name).read_text("utf-8")))


def fits(value: str, split: str) -> bool:
    """Whether a value may occur in a split: the parity of its hash decides, so the splits are disjoint."""
    return hashlib.sha256(value.lower().encode()).digest()[0] % 2 == SPLITS.index(split)


def zipf(rng: random.Random, values: list):
    """One of the values, the n-th with a weight of 1/n."""
    return rng.choices(values, [1 / rank for rank in range(1, len(values) + 1)])[0]


def fill(pattern: str, slot_pieces: Callable[[str, str], list[Piece]]) -> Iterator[Piece]:
    """The pieces of a pattern, its slots filled by `slot_pieces(slot, form)`; a slot with a capital gets one."""
    for text, slot, form, _ in string.Formatter().parse(pattern):
        yield text, None
        if slot:
            (text, kind), *rest = slot_pieces(slot[0].lower() + slot[1:], form)
            yield from [(text[0].upper() + text[1:] if slot[0].isupper() else text, kind), *rest]


def join(pieces: Iterable[Piece], kind: str) -> dict:
    """A record's text, of the pieces, and its identifiers: the spans of those with a type, all of one kind."""
    texts, identifiers, at = [], [], 0
    for text, type_ in pieces:
        if type_:
            identifiers.append({"start": at, "end": at + len(text), "type": type_, "kind": kind})
        texts.append(text)
        at += len(text)
    return {"text": "".join(texts), "identifiers": identifiers}
