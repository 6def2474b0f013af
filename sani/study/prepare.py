"""What a study works on: its setting, and for each seed the texts, the blacklist and the base model (PAPER §4)."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..blocks import encode
from ..data.corpora import load_corpus, with_strangers
from ..data.entities import annotate
from ..data.surrogates import counterfactual, pseudonymize
from ..models import load_model, source
from ..runs import PACKAGE, files_fingerprint
from ..text.blacklists import Blacklist
from .setting import KEPT_OUT, Setting


class Data(NamedTuple):
    """The texts of one seed. `raw`, `pseudonymized`, … are blocks; `again` are new records of the same persons."""

    seed: int
    corpus: Dataset
    blacklist: Blacklist
    tokenizer: PreTrainedTokenizerBase
    base: PreTrainedModel
    raw: Dataset
    pseudonymized: Dataset | None
    resampled: Dataset | None
    heldout: Dataset
    again: Dataset | None
    kept_out: np.ndarray  # numbers of the records that the runs with `kept_out` do not repair on
    emotions: tuple[Dataset, Dataset] | None  # to train and to test the downstream classifier on


OTHERS = 1_000_000  # seeds of held-out stories, far from those of any base model


def halves(corpus: Dataset) -> dict[str, Dataset]:
    """A corpus dealt by person into a public half, to pre-train on, and a private one, always the same way.

    Raises ValueError for fewer than four persons.
    """
    persons = sorted(set(corpus["person_id"]))
    if len(persons) < 4:
        raise ValueError(
            f"{len(persons)} persons (or books) are too few to pre-train on some, train on others and hold out others: "
            "give at least four, each in a file or with a person_id of its own"
        )
    public = np.isin(corpus["person_id"], np.random.default_rng(0).permutation(persons)[: len(persons) // 2])
    return {"public": corpus.select(np.flatnonzero(public)), "private": corpus.select(np.flatnonzero(~public))}


def split(setting: Setting, seed: int) -> tuple[Dataset, Dataset, Dataset | None]:
    """The private corpus, records of persons never trained on, and new records of the same persons (or None).

    The synthetic streams have another corpus for each seed; of a fixed corpus the seed draws who is held out. Raises
    ValueError if nobody is left to train on.
    """
    if setting.corpus == "synthetic-stories":
        return _of_stories(setting, seed)
    if setting.corpus.startswith("synthetic-"):
        return with_strangers(setting.corpus, setting.records, setting.heldout_records, seed)
    return *_of_a_fixed_corpus(setting, seed), None


def _of_stories(setting: Setting, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """The books of a stream share one cast, so others are books of the other split."""
    n, heldout = setting.records, setting.heldout_records
    books = load_corpus(setting.corpus, records=n + heldout, seed=seed)
    others = load_corpus(setting.corpus, records=heldout, seed=OTHERS + seed, split="public")
    return books.select(range(n)), others, books.select(range(n, len(books)))


def _of_a_fixed_corpus(setting: Setting, seed: int) -> tuple[Dataset, Dataset]:
    """Persons in an order drawn by the seed, the first held out; the others' first records before their second ones.

    A corpus of one person (the Hub's bookcorpus) is split by record.
    """
    corpus = load_corpus(setting.corpus, folder=setting.folder or None, words=setting.words or None)
    if len(set(corpus["person_id"])) == 1:
        rows = [row | {"person_id": row["record_id"]} for row in corpus]
        corpus = Dataset.from_list(rows, features=corpus.features)
    corpus = halves(corpus)[setting.half] if setting.half else corpus
    person = pd.Series(list(corpus["person_id"]))
    persons = np.random.default_rng(seed).permutation(sorted(set(person)))
    order = person.map(dict(zip(persons, range(len(persons))))).sort_values(kind="stable").index
    others = set(person[order[: setting.heldout_records]])
    if setting.heldout_share:
        others = set(persons[: round(setting.heldout_share * len(persons))])
    order = person.groupby(person).cumcount()[order].sort_values(kind="stable").index
    train = [i for i in order if person[i] not in others][: setting.records]
    heldout = [i for i in order if person[i] in others][: setting.heldout_records]
    if not train:
        raise ValueError(
            f"{setting.corpus}: {len(corpus)} records of {len(persons)} persons leave nobody to train on after "
            f"heldout_records={setting.heldout_records}; hold out fewer"
        )
    return corpus.select(train), corpus.select(heldout)


@lru_cache(maxsize=64)
def inputs(setting: Setting) -> str:
    """Fingerprint of the files that a setting reads: models, texts, grammars; looked at once in a process."""
    named = [source(name)[0] for name in (setting.model, setting.ner) if name]
    named += filter(None, (setting.corpus, setting.folder, setting.emotions_folder))
    return files_fingerprint([*map(Path, named), *sorted((PACKAGE / "data" / "grammars").glob("*.yaml"))])


@lru_cache(maxsize=8)
def prepare(setting: Setting, seed: int) -> Data:
    """Load, list and encode everything that the runs of one seed need."""
    corpus, others, again = split(setting, seed)
    model, tokenizer = load_model(setting.model)
    if setting.use_case == "A":
        blacklist = Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)
        resampled, of_others = counterfactual(corpus, seed, others), Blacklist.from_annotations(others)
    else:
        blacklist = _names(setting, corpus)
        try:
            of_others = blacklist | _names(setting, others)
        except ValueError:  # no name in them
            of_others = blacklist
        corpus, others = _with_hits(corpus, blacklist), _with_hits(others, of_others)
        resampled = counterfactual(corpus, seed, others) if setting.epochs else None

    def blocks(corpus, blacklist):
        return encode(corpus, tokenizer, blacklist, setting.block_size, allow_no_match=True, progress=False)

    kept_out = np.random.default_rng(seed).permutation(len(corpus))[: round(KEPT_OUT * len(corpus))]
    return Data(
        seed,
        corpus,
        blacklist,
        tokenizer,
        model,
        raw=blocks(corpus, blacklist),
        pseudonymized=blocks(pseudonymize(corpus, blacklist), blacklist) if setting.use_case == "A" else None,
        resampled=blocks(resampled, None) if resampled is not None else None,
        heldout=blocks(others, of_others),
        again=blocks(again, blacklist) if again is not None and setting.with_gaps else None,
        kept_out=np.sort(kept_out),
        emotions=_emotions(setting, seed),
    )


def _names(setting: Setting, corpus: Dataset) -> Blacklist:
    """What the setting's NER model finds, or its words that are seldom written in lower case."""
    options = {"min_count": setting.min_count, "top": setting.top or None}
    if not setting.ner:
        return Blacklist.from_capitalized(corpus, **options)
    chosen = {"classes": setting.classes or None, "min_share": setting.min_share}
    return Blacklist.from_ner(corpus, setting.ner, progress=False, **options, **chosen)


def _with_hits(corpus: Dataset, blacklist: Blacklist) -> Dataset:
    """The corpus with what the blacklist finds in its text as its annotated spans, in place of those it has."""
    hits = map(blacklist.find, corpus["text"])
    found = [[{"start": hit.start, "end": hit.end, "type": "NAME"} for hit in of_text] for of_text in hits]
    return annotate(corpus, found, "confidential")


def _emotions(setting: Setting, seed: int) -> tuple[Dataset, Dataset] | None:
    """Two thirds of the emotion corpus to train on, one third to test on, drawn by the seed."""
    if not setting.emotions:
        return None
    corpus = load_corpus(setting.emotions, folder=setting.emotions_folder or None)
    order = np.random.default_rng(seed).permutation(len(corpus))[: setting.emotion_records]
    cut = 2 * len(order) // 3
    return corpus.select(order[:cut]), corpus.select(order[cut:])
