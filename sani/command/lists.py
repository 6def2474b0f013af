"""A list beside its text: which terms stand there, which only nearly do, and what the tokenizer's vocabulary holds."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.term_files import read_terms
from ..text.blacklists import Blacklist
from ..text.matching import WORD, fold

SHORTEST = 4  # letters of a word that may be misspelt or inflected; shorter ones are near too many others
ENDING = 3  # letters that an inflected word may have more


def matches(blacklist: Blacklist, corpus: Dataset, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """A row per term, as `Blacklist.terms(reveal=True)`, with `found`: "yes", "nearly" or "no".

    Nearly: all its words stand in one record, but apart, in another order, inflected or with one letter wrong.
    """
    finder, terms = blacklist.finder(tokenizer), blacklist.terms(reveal=True)
    seen = {
        hit.term_id
        for text, identifiers in zip(corpus["text"], corpus["identifiers"])
        for hit in finder.candidates(text, identifiers)
    }
    there = terms["term_id"].map(lambda i: finder.counted_as.get(i, i) in seen)
    near = _near(terms.loc[~there, ["term_id", "term"]], corpus)
    found = there.map({True: "yes", False: "no"}).where(there | ~terms["term_id"].isin(near), "nearly")
    return terms.assign(found=found)


def _near(terms: pd.DataFrame, corpus: Dataset) -> set[int]:
    """The ids of the terms of which one record holds every word, as it is or nearly."""
    words = {i: {fold(word) for word in WORD.findall(term)} for i, term in terms.itertuples(index=False)}
    sought = set().union(*words.values()) if words else set()
    cut, terms_of = defaultdict(set), defaultdict(set)
    for word in sought:
        for shorter in _with_one_less(word) if len(word) >= SHORTEST else ():
            cut[shorter].add(word)
    for i, of_term in words.items():
        for word in of_term:
            terms_of[word].add(i)

    @cache
    def nearly(word: str) -> frozenset[str]:
        """The sought words that one of the text may stand for."""
        found = {word} & sought
        if len(word) >= SHORTEST:
            found |= set().union(*(cut.get(shorter, ()) for shorter in _with_one_less(word)))
            stems = (word[:-n] for n in range(1, ENDING + 1))
            found |= {stem for stem in stems if len(stem) >= SHORTEST and stem in sought}
        return frozenset(found)

    near = set()
    for text in corpus["text"] if sought else ():
        here = set().union(*(nearly(word) for word in {fold(word) for word in WORD.findall(text)}))
        possible = set().union(*(terms_of[word] for word in here)) - near
        near |= {i for i in possible if words[i] and words[i] <= here}
    return near


def _with_one_less(word: str) -> Iterator[str]:
    """The word itself, and without each of its letters: two that share one differ by a letter, or by two exchanged."""
    yield word
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]


def lines(path: str, blacklist: Blacklist) -> dict[int, int]:
    """The line of a list's file on which each term, by its id, first stands; {} where there is no file."""
    terms = blacklist.terms(reveal=True)
    ids = dict(zip(map(blacklist.key, terms["term"]), terms["term_id"]))
    found: dict[int, int] = {}
    try:
        rows = read_terms(path).rows
    except (FileNotFoundError, ValueError):  # of the corpus's annotations
        return found
    for row in rows:
        found.setdefault(ids.get(blacklist.key(row.term), -1), row.line)
    return found


def whole_tokens(blacklist: Blacklist, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many listed terms the tokenizer's vocabulary holds as one token, alone or after a blank."""

    def alone(text: str) -> bool:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return len(ids) == 1 and ids[0] != tokenizer.unk_token_id

    return sum(alone(term) or alone(f" {term}") for term in blacklist.terms(reveal=True)["term"])
