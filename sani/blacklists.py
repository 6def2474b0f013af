"""The blacklist: terms to forget, and where they stand in a text (PAPER §3.1)."""

import csv
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path
from types import ModuleType

import pandas as pd
from datasets import Dataset

from .matching import WORD, Hit, Key, Matcher, compose, fold, key_of
from .runs import fingerprint, replacing
from .selection import AMBIGUOUS, KINDS, Selection, common_words, is_number, outside, pieces


class Blacklist:
    """Terms with a kind (direct, indirect, confidential) and where they count: everywhere, or at annotated spans only.

    `Blacklist(["John Smith", …], kind="direct")` or one of the `from_…` constructors; `|`, `-`, `&` combine.
    Matching is by whole words, case-insensitive unless `case_sensitive`, longest match first, across white space,
    line ends and hyphens; on overlap annotated spans and then direct > indirect > confidential win.
    Its `repr` shows counts, never terms.
    """

    def __init__(self, terms: Iterable[str] = (), kind: str = "direct", case_sensitive: bool = False):
        _check_kind(kind)
        self.case_sensitive = case_sensitive
        self._entries: dict[Key, tuple[str, str, bool]] = {}
        for term in terms:
            self._add(term, kind)

    # --- where terms come from

    @classmethod
    def from_annotations(
        cls, corpus: Dataset, types: Sequence[str] | None = None, ambiguous: str = "span", default_kind: str = "direct",
        case_sensitive: bool = False, **selection,
    ) -> "Blacklist":  # fmt: skip
        """Every annotated identifier of a corpus (of the given types); `ambiguous` and the rest as in `Selection`.

        A span of more than 12 words (a whole clause) is taken as several terms of equal length, so that each fits a
        row.
        """
        _check_kind(default_kind)
        chosen = Selection(ambiguous=ambiguous, **selection)
        known = {span["type"] for spans in corpus["identifiers"] for span in spans}
        if types is not None and (unknown := set(types) - known):
            raise ValueError(f"the corpus has no identifiers of type {sorted(unknown)}; it has {sorted(known)}")
        blacklist, annotated = cls(case_sensitive=case_sensitive), Counter()
        for text, spans in zip(corpus["text"], corpus["identifiers"]):
            for span in sorted(spans, key=lambda s: s["start"]):
                if types is None or span["type"] in types:
                    for term in pieces(text[span["start"] : span["end"]]):
                        if key := blacklist._add(term, span["kind"] or default_kind):
                            annotated[key] += 1
        if not annotated:
            raise ValueError(
                "the corpus has no annotated identifiers to make a blacklist of; "
                "use Blacklist.from_rare_words(corpus), Blacklist.from_file(path) or Blacklist([...])"
            )
        if ambiguous == "span":
            common = common_words(corpus, annotated)
            for key, (text, kind, _) in list(blacklist._entries.items()):
                blacklist._entries[key] = (text, kind, not (key in common or is_number(key)))
        return blacklist._combine(blacklist, chosen.of(blacklist, corpus, annotated))

    @classmethod
    def from_spans(
        cls, corpus: Dataset, spans, classes=None, threshold: float = 0.0, kind: str = "confidential",
        case_sensitive: bool = False, **selection,
    ) -> "Blacklist":  # fmt: skip
        """The terms of spans made elsewhere, given as a list or a file that `entities.read_spans` reads.

        As in the paper a term counts wherever it stands (`ambiguous="everywhere"`); but one that the spans cover in
        less than 5 % of the places where it stands is left out (`min_share=0.05`): "The", taken for a name once, would
        make every "the" untrainable. The rest of the selection is as in `Selection`.
        """
        _check_kind(kind)
        selection = {"ambiguous": "everywhere", "min_share": 0.05} | selection
        Selection(**selection)
        spans = _entities().read_spans(spans, corpus, classes, threshold)
        if not any(spans):
            raise ValueError(f"no span of {classes or 'any class'} has a score of at least {threshold}")
        corpus = _entities().annotate(corpus, spans, kind)
        return cls.from_annotations(corpus, default_kind=kind, case_sensitive=case_sensitive, **selection)

    @classmethod
    def from_ner(
        cls, corpus: Dataset, model: str | Path = "tiny-ner", classes=None, threshold: float = 0.5,
        kind: str = "confidential", case_sensitive: bool = False, **options,
    ) -> "Blacklist":  # fmt: skip
        """The terms that a NER model finds: `from_spans`, with its selection, over `entities.find_entities`, which
        takes the other options.

        Source: PAPER §2 step 1, case B: every term that `dslim/bert-base-NER` finds, of its four classes.
        """
        _check_kind(kind)
        selection = {f.name: options.pop(f.name) for f in fields(Selection) if f.name in options}
        Selection(**selection)
        spans = _entities().find_entities(corpus, model, classes, threshold, **options)
        if not any(spans):
            raise ValueError(
                f"model {model} finds no entity of {classes or 'any class'} of probability ≥ {threshold} in the "
                f"{len(spans)} records; lower threshold=, ask for other classes=, or use another model"
            )
        return cls.from_spans(corpus, spans, kind=kind, case_sensitive=case_sensitive, **selection)

    @classmethod
    def from_rare_words(cls, corpus: Dataset, k: int = 2, case_sensitive: bool = False) -> "Blacklist":
        """Indirect identifiers: words that stand in the records of fewer than `k` persons, outside direct identifiers.

        Words have at least two letters. Source: PAPER §2, reading of arXiv 2501.02407 (person–word bipartite graph).
        """
        if k < 2:
            raise ValueError(f"k={k}: no word stands in the records of fewer than one person; use k ≥ 2")
        persons: dict[str, set[str]] = defaultdict(set)
        surface: dict[str, str] = {}
        direct: set[str] = set()
        for text, person, spans in zip(corpus["text"], corpus["person_id"], corpus["identifiers"]):
            spans = [span for span in spans if span["kind"] != "indirect"]
            direct.update(fold(word) for s in spans for word in WORD.findall(text[s["start"] : s["end"]]))
            for word in set(WORD.findall(outside(text, spans))):
                if sum(c.isalpha() for c in word) > 1:
                    folded = fold(word)
                    surface.setdefault(folded, word)
                    if len(persons[folded]) < k:
                        persons[folded].add(person)
        rare = (surface[word] for word in sorted(persons) if len(persons[word]) < k and word not in direct)
        return cls(rare, "indirect", case_sensitive)

    @classmethod
    def from_capitalized(
        cls, corpus: Dataset, share: float = 0.95, min_count: int = 1, top: int | None = None,
        kind: str = "confidential", case_sensitive: bool = False,
    ) -> "Blacklist":  # fmt: skip
        """Names by their spelling, where there is no NER model: the words of `entities.capitalized`.

        Those that stand inside a sentence at least `min_count` times; with `top`, the most frequent of these only.
        Source: ours; PAPER §2, step 1 has names found by a NER model.
        """
        _check_kind(kind)
        Selection(min_count, top)
        names = {word: count for word, count in _entities().capitalized(corpus, share).items() if count >= min_count}
        if not names:
            raise ValueError(
                f"no word is written with a capital inside a sentence {min_count} times and almost never without; "
                "lower min_count= or share=, or find the names with Blacklist.from_ner(corpus, model=…)"
            )
        return cls(sorted(names, key=lambda word: (-names[word], word))[:top], kind, case_sensitive)

    @classmethod
    def from_file(cls, path: str | Path, kind: str = "direct", case_sensitive: bool = False) -> "Blacklist":
        """A file of one term per line, or CSV with the header `term,kind` (and `match`: everywhere or span)."""
        _check_kind(kind)
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no blacklist file {path}; expected a term per line, or CSV with header term,kind")
        blacklist = cls(case_sensitive=case_sensitive)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from None
        with_header = "term" in next(csv.reader(lines[:1]), [])
        for row in csv.DictReader(lines) if with_header else ({"term": line} for line in lines):
            if row["term"] and row["term"].strip():
                where = row.get("match") or "everywhere"
                if where not in AMBIGUOUS or (row.get("kind") or kind) not in KINDS:
                    raise ValueError(
                        f"{path}: a row has an unknown kind or match; kinds are {', '.join(KINDS)}, "
                        f"match is one of {', '.join(AMBIGUOUS)}"
                    )
                blacklist._add(row["term"], row.get("kind") or kind, where == "everywhere")
        if not blacklist:
            raise ValueError(f"{path}: no term in it; expected a term per line, or CSV with header term,kind")
        return blacklist

    def _add(self, term: str, kind: str, everywhere: bool = True) -> Key | None:
        _check_kind(kind)
        key = self.key(term)
        if key:
            text, old_kind, old_everywhere = self._entries.get(key, (" ".join(term.split()), kind, everywhere))
            self._entries[key] = (text, min(kind, old_kind, key=KINDS.index), everywhere or old_everywhere)
            for made in ("_ids", "_matcher", "_kinds"):
                self.__dict__.pop(made, None)
        return key or None

    def key(self, term: str) -> Key:
        """The words a term is matched by, without punctuation at its ends; () if there is no letter or digit."""
        return key_of(term, compose if self.case_sensitive else fold)

    # --- what is in it

    @cached_property
    def _ids(self) -> dict[Key, int]:
        return {key: i for i, key in enumerate(sorted(self._entries))}

    @cached_property
    def _matcher(self) -> Matcher:
        everywhere = {key: i for key, i in self._ids.items() if self._entries[key][2]}
        return Matcher(everywhere, compose if self.case_sensitive else fold)

    @cached_property
    def _kinds(self) -> list[str]:
        return [self._entries[key][1] for key in self._ids]

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __eq__(self, other) -> bool:
        return isinstance(other, Blacklist) and self.fingerprint == other.fingerprint

    __hash__ = None

    def __contains__(self, term: str) -> bool:
        return self.key(term) in self._entries

    def __repr__(self) -> str:
        counts = Counter(kind for _, kind, _ in self._entries.values())
        spans = sum(not everywhere for _, _, everywhere in self._entries.values())
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        return f"<Blacklist: {len(self)} terms ({kinds or 'empty'}); {spans} count only where annotated>"

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any term, kind or rule of matching."""
        return fingerprint(self.case_sensitive, sorted((k, v[1], v[2]) for k, v in self._entries.items()))

    def terms(self, reveal: bool = False) -> pd.DataFrame:
        """A row per term: term_id, kind, words, match; with `reveal=True` the term itself."""
        entries = ((i, key, *self._entries[key]) for key, i in self._ids.items())
        rows = [(i, kind, len(key), AMBIGUOUS[everywhere], text) for i, key, text, kind, everywhere in entries]
        table = pd.DataFrame(rows, columns=["term_id", "kind", "words", "match", "term"])
        return table if reveal else table.drop(columns="term")

    def ids(self, other: "Blacklist") -> list[int]:
        """The term ids, in this blacklist, of the terms that another one holds too."""
        return [i for key, i in self._ids.items() if key in other._entries]

    def without(self, share: float, seed: int = 0) -> "Blacklist":
        """This blacklist with a random share of its terms missing; a smaller share of the same seed is among them.

        Raises ValueError for a share outside [0, 1).
        """
        if not 0 <= share < 1:
            raise ValueError(f"share={share} is outside [0, 1)")
        by_chance = sorted(self._entries, key=lambda key: fingerprint(seed, key))
        return self._combine(Blacklist(case_sensitive=self.case_sensitive), by_chance[round(share * len(self)) :])

    def _combine(self, other: "Blacklist", keys: Iterable[Key]) -> "Blacklist":
        if self.case_sensitive != other.case_sensitive:
            raise ValueError("one blacklist is case-sensitive and the other is not; make both alike")
        result = Blacklist(case_sensitive=self.case_sensitive)
        for key in keys:
            entries = [side._entries[key] for side in (self, other) if key in side._entries]
            kind = min((entry[1] for entry in entries), key=KINDS.index)
            result._entries[key] = (entries[0][0], kind, any(entry[2] for entry in entries))
        return result

    def __or__(self, other: "Blacklist") -> "Blacklist":
        return self._combine(other, self._entries | other._entries)

    def __and__(self, other: "Blacklist") -> "Blacklist":
        return self._combine(other, [k for k in self._entries if k in other._entries])

    def __sub__(self, other: "Blacklist") -> "Blacklist":
        return self._combine(other, [k for k in self._entries if k not in other._entries])

    def save(self, path: str | Path) -> None:
        """Write CSV `term,kind,match`, mode 0600. The file holds the terms in clear."""
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["term", "kind", "match"])
            for key in sorted(self._entries):
                text, kind, everywhere = self._entries[key]
                writer.writerow([text, kind, AMBIGUOUS[everywhere]])

    load = from_file

    # --- where its terms stand

    def find(self, text: str, identifiers: Iterable[Mapping] = ()) -> list[Hit]:
        """The terms in a text: sorted, disjoint spans. `identifiers` are the record's annotated spans, if any."""
        kinds = self._kinds
        found = [Hit(start, end, i, kinds[i], False) for start, end, i in self._matcher.find(text)]
        gold = sorted((span["start"], span["end"]) for span in identifiers)
        if not gold and all(one.end <= two.start for one, two in pairwise(found)):
            return found
        starts, reach = [start for start, _ in gold], list(accumulate((end for _, end in gold), max))
        for k, hit in enumerate(found):
            before = bisect_right(starts, hit.start)
            if before and reach[before - 1] >= hit.end:
                found[k] = hit._replace(gold=True)
        for start, end in gold:
            if (term_id := self._ids.get(self.key(text[start:end]))) is not None:
                found.append(Hit(start, end, term_id, kinds[term_id], True))
        annotated = set(gold)
        found.sort(key=lambda h: (KINDS.index(h.kind), (h.start, h.end) not in annotated, h.start - h.end, h.start))
        taken: list[Hit] = []
        free = bytearray(b"\x01") * len(text)
        for hit in found:
            if all(free[hit.start : hit.end]):
                free[hit.start : hit.end] = bytes(hit.end - hit.start)
                taken.append(hit)
        return sorted(taken)

    def find_all(self, corpus: Dataset) -> Iterator[list[Hit]]:
        """`find` over every record of a corpus, in order."""
        for text, identifiers in zip(corpus["text"], corpus["identifiers"]):
            yield self.find(text, identifiers)

    def coverage(self, corpus: Dataset) -> pd.DataFrame:
        """What becomes untrainable: by kind (and all), hits, words in them and their share of the corpus's words."""
        hits, covered, words = Counter(), Counter(), 0
        for text, found in zip(corpus["text"], self.find_all(corpus)):
            words += len(WORD.findall(text))
            for hit in found:
                hits[hit.kind] += 1
                covered[hit.kind] += len(WORD.findall(text[hit.start : hit.end]))
        rows = [(kind, hits[kind], covered[kind]) for kind in KINDS] + [("all", hits.total(), covered.total())]
        table = pd.DataFrame(rows, columns=["kind", "hits", "words"])
        return table.assign(share=table["words"] / max(words, 1))

    def collisions(self, corpus: Dataset, reveal: bool = False) -> pd.DataFrame:
        """A row per term that also stands outside annotated spans: how often annotated and elsewhere, and its rule."""
        everywhere = Blacklist(case_sensitive=self.case_sensitive)
        everywhere._entries = {key: (text, kind, True) for key, (text, kind, _) in self._entries.items()}
        counts = Counter((hit.term_id, hit.gold) for found in everywhere.find_all(corpus) for hit in found)
        table = self.terms(reveal)
        for name, gold in (("annotated", True), ("elsewhere", False)):
            table[name] = [counts[i, gold] for i in table["term_id"]]
        return table[table["elsewhere"] > 0].sort_values("elsewhere", ascending=False, ignore_index=True)


def _entities() -> ModuleType:
    """The module of the room `data` that finds and reads spans; looked up when called, for the core imports no room."""
    return import_module("sani.data.entities")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
