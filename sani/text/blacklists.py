"""The blacklist: terms to forget, and where they stand in a text (PAPER §3.1)."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..runs import checked, fingerprint, keyed, one_of, replacing
from .matching import KINDS, WORD, Finder, Hit, Key, Rules, fold
from .selection import AMBIGUOUS, Selection, common_words, is_number, outside, pieces


class Blacklist:
    """Terms with a kind (direct, indirect, confidential) and where they count: everywhere, or at annotated spans only.

    `Blacklist(["John Smith", …], kind="direct")` or one of the `from_…` constructors; `|`, `-`, `&` combine.
    Matching is by words, in any case unless `case_sensitive`, across white space, line ends, hyphens and what is not
    seen; `whole_words` names scripts written without spaces of which only whole words count (see `matching.Rules`).
    Where terms overlap, direct > indirect > confidential go first, then annotated spans, then the longest; of the
    others counts what is left. Its `repr` shows counts, never terms.
    Raises TypeError for terms that are no list of str, ValueError for an unknown kind or script.
    """

    def __init__(
        self, terms: Iterable[str] = (), kind: str = "direct", case_sensitive: bool = False,
        whole_words: Sequence[str] = (),
    ):  # fmt: skip
        one_of("kind", kind, KINDS)
        if isinstance(terms, str):
            raise TypeError("terms is one str, whose letters would be the terms; pass a list: Blacklist([term])")
        self.rules = Rules(case_sensitive, whole_words)
        self._entries: dict[Key, tuple[str, str, bool, str]] = {}  # text, kind, everywhere?, type
        for term in terms:
            if not isinstance(term, str):
                raise TypeError(f"a term is a {type(term).__name__}; terms are str")
            self._add(term, kind)

    # --- where terms come from

    @classmethod
    def from_annotations(
        cls, corpus: Dataset, types: Sequence[str] | None = None, ambiguous: str = "span", default_kind: str = "direct",
        **options,
    ) -> "Blacklist":  # fmt: skip
        """Every annotated identifier of a corpus (of the given types); `options` are those of `Selection` and `Rules`.

        A span of more than LONGEST words (a clause) is taken as several terms of equal length, so that each fits a row.
        """
        one_of("default_kind", default_kind, KINDS)
        rules = _taken(Rules, options)
        chosen = Selection(ambiguous=ambiguous, **options)
        known = {span["type"] for spans in corpus["identifiers"] for span in spans}
        if types is not None and (unknown := set(types) - known):
            raise ValueError(f"the corpus has no identifiers of type {sorted(unknown)}; it has {sorted(known)}")
        blacklist, annotated, types_of = cls(**rules), Counter(), defaultdict(Counter)
        for text, spans in zip(corpus["text"], corpus["identifiers"]):
            for span in sorted(spans, key=lambda s: s["start"]):
                if types is None or span["type"] in types:
                    for term in pieces(text[span["start"] : span["end"]]):
                        if key := blacklist._add(term, span["kind"] or default_kind):
                            annotated[key] += 1
                            types_of[key][span["type"]] += 1
        if not annotated:
            raise ValueError(
                "the corpus has no annotated identifiers to make a blacklist of; "
                "use Blacklist.from_rare_words(corpus), Blacklist.from_file(path) or Blacklist([...])"
            )
        common = common_words(corpus, annotated) if ambiguous == "span" else ()
        for key, (text, kind, *_) in list(blacklist._entries.items()):
            everywhere = ambiguous != "span" or not (key in common or is_number(key))
            most = max(sorted(types_of[key]), key=types_of[key].get)
            blacklist._entries[key] = (text, kind, everywhere, most)
        return blacklist._combine(blacklist, chosen.of(blacklist, corpus, annotated))

    @classmethod
    def from_spans(
        cls, corpus: Dataset, spans, classes=None, threshold: float = 0.0, kind: str = "confidential", **options
    ) -> "Blacklist":
        """The terms of spans made elsewhere, given as a list or a file that `entities.read_spans` reads.

        As in the paper a term counts wherever it stands (`ambiguous="everywhere"`); but one that the spans cover in
        less than 5 % of the places where it stands is left out (`min_share=0.05`): "The", taken for a name once, would
        make every "the" untrainable. Other options are those of `Selection` and `Rules`.
        """
        options = {"ambiguous": "everywhere", "min_share": 0.05} | options
        spans = _data("entities").read_spans(spans, corpus, classes, threshold)
        if not any(spans):
            raise ValueError(f"no span of {classes or 'any class'} has a score of at least {threshold}")
        corpus = _data("entities").annotate(corpus, spans, kind)
        return cls.from_annotations(corpus, default_kind=kind, **options)

    @classmethod
    def from_ner(
        cls, corpus: Dataset, model: str | Path = "tiny-ner", classes=None, threshold: float = 0.5,
        kind: str = "confidential", **options,
    ) -> "Blacklist":  # fmt: skip
        """The terms that a NER model finds: `from_spans` over `entities.find_entities`; `options` are those of both.

        Source: PAPER §2 step 1, case B: every term that `dslim/bert-base-NER` finds, of its four classes.
        """
        one_of("kind", kind, KINDS)
        rules, selection = _taken(Rules, options), _taken(Selection, options)
        Selection(**selection)
        spans = _data("entities").find_entities(corpus, model, classes, threshold, **options)
        if not any(spans):
            raise ValueError(
                f"model {model} finds no entity of {classes or 'any class'} of probability ≥ {threshold} in the "
                f"{len(spans)} records; lower threshold=, ask for other classes=, or use another model"
            )
        return cls.from_spans(corpus, spans, kind=kind, **rules, **selection)

    @classmethod
    def from_rare_words(cls, corpus: Dataset, k: int = 2, **rules) -> "Blacklist":
        """Indirect identifiers: words that stand in the records of fewer than `k` persons, outside direct identifiers.

        Words have at least two letters. Source: PAPER §2, reading of arXiv 2501.02407 (person–word bipartite graph).
        """
        checked("k", k, int, 2)  # no word stands in the records of fewer than one person
        persons: dict[str, set[str]] = defaultdict(set)
        surface: dict[str, str] = {}
        direct: set[str] = set()
        for text, person, spans in zip(corpus["text"], corpus["person_id"], corpus["identifiers"]):
            spans = [span for span in spans if span["kind"] != "indirect"]
            direct.update(fold(word) for s in spans for word in WORD.findall(text[s["start"] : s["end"]]))
            for word in dict.fromkeys(WORD.findall(outside(text, spans))):
                if sum(c.isalpha() for c in word) > 1:
                    folded = fold(word)
                    surface.setdefault(folded, word)
                    if len(persons[folded]) < k:
                        persons[folded].add(person)
        rare = (surface[word] for word in sorted(persons) if len(persons[word]) < k and word not in direct)
        return cls(rare, "indirect", **rules)

    @classmethod
    def for_person(cls, corpus: Dataset, person_id: str, rare: bool = True, types=None, **options) -> "Blacklist":
        """What is to go for one person, as for a request of erasure (GDPR, Article 17): see `persons.terms_of`."""
        return _data("persons").terms_of(corpus, person_id, rare, types, **options)

    @classmethod
    def from_capitalized(
        cls, corpus: Dataset, share: float = 0.95, min_count: int = 1, top: int | None = None,
        kind: str = "confidential", **rules,
    ) -> "Blacklist":  # fmt: skip
        """Names by their spelling, where there is no NER model: the words of `entities.capitalized`.

        Those that stand inside a sentence at least `min_count` times; with `top`, the most frequent of these only.
        Source: ours; PAPER §2, step 1 has names found by a NER model.
        """
        one_of("kind", kind, KINDS)
        Selection(min_count, top)
        found = _data("entities").capitalized(corpus, share)
        names = sorted((word for word in found if found[word] >= min_count), key=lambda word: (-found[word], word))
        if not names:
            raise ValueError(
                f"no word is written with a capital inside a sentence {min_count} times and almost never without; "
                "lower min_count= or share=, or find the names with Blacklist.from_ner(corpus, model=…)"
            )
        return cls(names[:top], kind, **rules)

    @classmethod
    def from_file(cls, path: str | Path, kind: str = "direct", **rules) -> "Blacklist":
        """A file of one term per line, or CSV with the header `term,kind` (and `match`: everywhere or span; `type`)."""
        blacklist = cls((), kind, **rules)
        for row in _data("term_files").read_terms(path).rows:
            blacklist._add(row.term, row.kind or kind, row.match != "span", row.type or "")
        return blacklist

    def _add(self, term: str, kind: str, everywhere: bool = True, type_: str = "") -> Key | None:
        one_of("kind", kind, KINDS)
        key = self.key(term)
        if key:
            new = (" ".join(term.split()), kind, everywhere, type_)
            self._entries[key] = _merged([self._entries[key], new]) if key in self._entries else new
            for made in ("_ids", "_finder"):
                self.__dict__.pop(made, None)
        return key or None

    def key(self, term: str) -> Key:
        """The words a term is matched by, without punctuation at its ends; () if there is no letter or digit."""
        return self.rules.key(term)

    # --- what is in it

    @cached_property
    def _ids(self) -> dict[Key, int]:
        return {key: i for i, key in enumerate(sorted(self._entries))}

    @cached_property
    def _finder(self) -> Finder:
        return self.finder()

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __eq__(self, other) -> bool:
        return isinstance(other, Blacklist) and self._written() == other._written()

    __hash__ = None

    def __contains__(self, term: str) -> bool:
        return self.key(term) in self._entries

    def __repr__(self) -> str:
        counts = Counter(kind for _, kind, *_ in self._entries.values())
        spans = sum(not everywhere for _, _, everywhere, _ in self._entries.values())
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        return f"<Blacklist: {len(self)} terms ({kinds or 'empty'}); {spans} count only where annotated>"

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any term, its kind, type or rule of matching, and with the machine's key.

        A plain one would tell who guesses a short list that the guess is right (`runs.keyed`).
        """
        return keyed(*self._written())

    def _written(self) -> tuple:
        entries = sorted((key, *entry[1:]) for key, entry in self._entries.items())
        return self.rules.case_sensitive, self.rules.whole_words, entries

    def terms(self, reveal: bool = False) -> pd.DataFrame:
        """A row per term: term_id, kind, words, match, type; with `reveal=True` the term itself.

        The type is the one most often annotated ("PATIENT", …), or "".
        """
        entries = ((i, key, *self._entries[key]) for key, i in self._ids.items())
        rows = [(i, kind, len(key), AMBIGUOUS[everywhere], of, text) for i, key, text, kind, everywhere, of in entries]
        table = pd.DataFrame(rows, columns=["term_id", "kind", "words", "match", "type", "term"])
        return table if reveal else table.drop(columns="term")

    def ids(self, other: "Blacklist") -> list[int]:
        """The term ids, in this blacklist, of the terms that another one holds too."""
        return [i for key, i in self._ids.items() if key in other._entries]

    def only(self, ids: Iterable[int]) -> "Blacklist":
        """The terms of some term ids, with all that is known of them."""
        ids = set(ids)
        return self._combine(self._empty(), [key for key, i in self._ids.items() if i in ids])

    def without(self, share: float, seed: int = 0) -> "Blacklist":
        """This blacklist with a random share of its terms missing; a smaller share of the same seed is among them.

        Raises ValueError for a share outside [0, 1).
        """
        if not 0 <= share < 1:
            raise ValueError(f"share={share} is outside [0, 1)")
        # By what is written, so that the draw does not hang on how words are parted to be matched.
        by_chance = sorted(self._entries, key=lambda key: fingerprint(seed, self.rules.words(self._entries[key][0])))
        return self._combine(self._empty(), by_chance[round(share * len(self)) :])

    def _empty(self) -> "Blacklist":
        return Blacklist((), "direct", self.rules.case_sensitive, self.rules.whole_words)

    def _combine(self, other: "Blacklist", keys: Iterable[Key]) -> "Blacklist":
        if self.rules != other.rules:
            raise ValueError("the blacklists differ in case_sensitive or whole_words; make both alike")
        result = self._empty()
        for key in keys:
            result._entries[key] = _merged([side._entries[key] for side in (self, other) if key in side._entries])
        return result

    def __or__(self, other: "Blacklist") -> "Blacklist":
        return self._combine(other, self._entries | other._entries)

    def __and__(self, other: "Blacklist") -> "Blacklist":
        return self._combine(other, [k for k in self._entries if k in other._entries])

    def __sub__(self, other: "Blacklist") -> "Blacklist":
        return self._combine(other, [k for k in self._entries if k not in other._entries])

    def save(self, path: str | Path) -> None:
        """Write CSV `term,kind,match,type`, mode 0600. The file holds the terms in clear."""
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["term", "kind", "match", "type"])
            for key in sorted(self._entries):
                text, kind, everywhere, of = self._entries[key]
                writer.writerow([text, kind, AMBIGUOUS[everywhere], of])

    load = from_file

    # --- where its terms stand

    def finder(self, tokenizer: PreTrainedTokenizerBase | None = None) -> Finder:
        """What finds its terms in texts; with a tokenizer also what that reads like one (without case, accents, …)."""
        return Finder([(key, *self._entries[key][1:3]) for key in self._ids], self.rules, tokenizer)

    def find(self, text: str, identifiers: Iterable[Mapping] = ()) -> list[Hit]:
        """The terms in a text: sorted, disjoint spans. `identifiers` are the record's annotated spans, if any."""
        return self._finder.find(text, identifiers)

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
        everywhere = self._empty()
        everywhere._entries = {key: (text, kind, True, of) for key, (text, kind, _, of) in self._entries.items()}
        counts = Counter((hit.term_id, hit.gold) for found in everywhere.find_all(corpus) for hit in found)
        table = self.terms(reveal)
        for name, gold in (("annotated", True), ("elsewhere", False)):
            table[name] = [counts[i, gold] for i in table["term_id"]]
        return table[table["elsewhere"] > 0].sort_values("elsewhere", ascending=False, ignore_index=True)


def _data(module: str) -> ModuleType:
    """A module of the room `data`, looked up when called: it imports this one."""
    return import_module(f"sani.data.{module}")


def _merged(entries: Sequence[tuple[str, str, bool, str]]) -> tuple[str, str, bool, str]:
    """One entry of several of a term: of the strongest kind, of the first type that is known."""
    texts, kinds, everywhere, types = zip(*entries)
    return texts[0], min(kinds, key=KINDS.index), any(everywhere), next(filter(None, types), "")


def _taken(kind: type, options: dict) -> dict:
    """The options that are fields of a dataclass, taken out of all of them."""
    return {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
