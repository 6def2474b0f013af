"""What a study works on: its setting, and for each seed the texts, the blacklist and the base model (PAPER §4)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .blacklists import Blacklist
from .blocks import encode
from .corpora import load_corpus
from .entities import annotate
from .models import is_causal, load_model, source
from .paths import PACKAGE
from .surrogates import counterfactual, pseudonymize

# After which share of the epochs of fine-tuning is measured: in A after 0, 4, 8, 16, 32, 64.
TRAINED_AT = {"A": (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), "B": (0, 1)}
REPAIRED_AT = (0, 1, 2, 5, 13)  # in A; in B after each epoch
KEPT_OUT = 0.5


@dataclass(frozen=True)
class Setting:
    """One setting of a use case: the defaults are the tiny preset of use case A.

    `corpus` is a name or path of `load_corpus`. In use case A the blacklist is what is annotated and what is rare, in
    B what the model `ner` finds; there `epochs` are those in which the model comes to be the off-the-shelf one.
    """

    name: str = "tiny"
    use_case: str = "A"
    model: str = "tiny-bert"
    corpus: str = "synthetic-clinical"
    folder: str = ""  # where the corpora that do not come with this project lie
    words: int = 0  # of bookcorpus, from the beginning; 0 for all of a folder, and of the Hub's the paper's 77 million
    half: str = ""  # "private": the half of the records that the base model was not pre-trained on
    records: int = 200  # at most; of the private corpus
    heldout_records: int = 60  # of persons never trained on
    heldout_share: float = 0.0  # of the persons of a fixed corpus; 0 for as few as the held-out records need
    block_size: int = 128
    epochs: int = 64
    repair_epochs: int = 13
    fraction: float = 0.5  # of the neurons that SANI erases
    learning_rate: float = 3e-3
    batch_size: int = 4
    ner: str = ""  # B: the model that finds the terms: shipped name, local folder or Hub id; "" for capitalised words
    classes: tuple[str, ...] = ()  # B: of the model's entities; () for all
    min_share: float = (
        0.05  # B: terms that the model finds in a smaller share of the places where they stand are dropped
    )
    min_count: int = 1  # B: terms found fewer times are dropped
    top: int = 0  # B: only so many terms, the most frequent; 0 for all
    emotions: str = ""  # B: the corpus of the downstream classifier; "" for none
    emotions_folder: str = ""
    emotion_records: int = 2000  # at most; two thirds to train on, one third to test on
    classifier_learning_rate: float = 3e-3

    @property
    def trained_at(self) -> list[int]:
        """The epochs of fine-tuning after which is measured."""
        return sorted({round(share * self.epochs) for share in TRAINED_AT[self.use_case]})

    @property
    def repaired_at(self) -> list[int]:
        """The epochs of unlearning after which is measured."""
        if self.use_case == "B":
            return list(range(1, self.repair_epochs + 1))
        return sorted({*(e for e in REPAIRED_AT if e < self.repair_epochs), self.repair_epochs})

    @property
    def with_gaps(self) -> bool:
        """Whether SANI is also run with blacklists that miss terms, and on half of the records (BERT in use case A)."""
        return self.use_case == "A" and not self.causal

    @property
    def causal(self) -> bool:
        return is_causal(self.model)

    @property
    def objectives(self) -> tuple[str, str, str]:
        """How its family names fine-tuning on raw text, on pseudonymised text, and without listed targets."""
        return ("clm", "clma", "ppclm") if self.causal else ("mlm", "mlma", "ppmlm")


SETTINGS = {
    "tiny": Setting(),
    "tiny-gpt2": Setting(name="tiny-gpt2", model="tiny-gpt2", records=120, learning_rate=3e-4, batch_size=8),
    "tiny-stories": Setting(
        name="tiny-stories", use_case="B", model="tiny-bert-stories-public", corpus="synthetic-stories", records=300,
        repair_epochs=4, ner="tiny-ner", emotions="synthetic-emotions",
    ),
}  # fmt: skip


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
    if (persons := len(set(corpus["person_id"]))) < 4:
        raise ValueError(
            f"{persons} persons (or books) are too few to pre-train on some, train on others and hold out others: give "
            "at least four, each in a file or with a person_id of its own"
        )
    order = np.random.default_rng(0).permutation(sorted(set(corpus["person_id"])))
    public = set(order[: len(order) // 2].tolist())
    rows = {"public": [], "private": []}
    for i, person in enumerate(corpus["person_id"]):
        rows["public" if person in public else "private"].append(i)
    return {name: corpus.select(chosen) for name, chosen in rows.items()}


def split(setting: Setting, seed: int) -> tuple[Dataset, Dataset, Dataset | None]:
    """The private corpus, records of persons never trained on, and new records of the same persons (or None).

    The synthetic stream has another corpus for each seed; of a fixed corpus the seed draws who is held out, and the
    others' first records come before their second ones.
    A corpus of one person (the Hub's bookcorpus) is split by record. Raises ValueError if nobody is left to train on.
    """
    n = setting.records
    if setting.corpus == "synthetic-stories":  # the books share one cast, so others are books of the other split
        more = load_corpus(setting.corpus, records=n + setting.heldout_records, seed=seed)
        others = load_corpus(setting.corpus, records=setting.heldout_records, seed=OTHERS + seed, split="public")
        return more.select(range(n)), others, more.select(range(n, len(more)))
    if setting.corpus.startswith("synthetic-"):
        more = load_corpus(setting.corpus, records=2 * n + 2 * setting.heldout_records, seed=seed)
        corpus = more.select(range(n))
        seen = set(corpus["person_id"])
        known = [person in seen for person in more["person_id"]]
        others = [i for i in range(n, len(more)) if not known[i]][: setting.heldout_records]
        again = [i for i in range(n, len(more)) if known[i]]
        return corpus, more.select(others), more.select(again) if again else None
    corpus = load_corpus(setting.corpus, folder=setting.folder or None, words=setting.words or None)
    if len(set(corpus["person_id"])) == 1:
        rows = [row | {"person_id": row["record_id"]} for row in corpus]
        corpus = Dataset.from_list(rows, features=corpus.features)
    corpus = halves(corpus)[setting.half] if setting.half else corpus
    persons = np.random.default_rng(seed).permutation(sorted(set(corpus["person_id"])))
    rank = {person: i for i, person in enumerate(persons.tolist())}
    person = list(corpus["person_id"])
    order = sorted(range(len(corpus)), key=lambda i: (rank[person[i]], i))
    others = {person[i] for i in order[: setting.heldout_records]}
    if setting.heldout_share:
        others = set(persons[: round(setting.heldout_share * len(persons))].tolist())
    turn = pd.Series(person).groupby(person).cumcount()
    order.sort(key=lambda i: turn[i])
    train = [i for i in order if person[i] not in others][: setting.records]
    heldout = [i for i in order if person[i] in others][: setting.heldout_records]
    if not train or not setting.heldout_records:
        raise ValueError(
            f"{setting.corpus}: {len(corpus)} records of {len(persons)} persons leave nobody to train on after "
            f"heldout_records={setting.heldout_records} (which must be at least 1)"
        )
    return corpus.select(train), corpus.select(heldout), None


@lru_cache(maxsize=64)
def inputs(setting: Setting) -> str:
    """Fingerprint of the files that a setting reads: models, texts, grammars; looked at once in a process."""
    named = [Path(source(name)[0]) for name in (setting.model, setting.ner) if name]
    named += [Path(path) for path in (setting.corpus, setting.folder, setting.emotions_folder) if path]
    return digest_of([*named, PACKAGE / "grammars"])


def digest_of(paths: Iterable[Path]) -> str:
    """16 hex digits that change with the name or content of any file at or below some paths, where there is one."""
    digest = sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix != ".pyc" and p.is_file())
        for file in files if path.exists() else ():
            digest.update(file.name.encode() + sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=8)
def prepare(setting: Setting, seed: int) -> Data:
    """Load, list and encode everything that the runs of one seed need."""
    corpus, others, again = split(setting, seed)
    model, tokenizer = load_model(setting.model)
    if setting.use_case == "A":
        blacklist = Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)
        resampled, of_others = counterfactual(corpus, seed), Blacklist.from_annotations(others)
    else:
        blacklist = _names(setting, corpus)
        try:
            of_others = blacklist | _names(setting, others)
        except ValueError:  # no name in them
            of_others = blacklist
        corpus, others = _with_hits(corpus, blacklist), _with_hits(others, of_others)
        resampled = counterfactual(corpus, seed) if setting.epochs else None

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
    options |= {"classes": setting.classes or None, "min_share": setting.min_share, "progress": False}
    return Blacklist.from_ner(corpus, setting.ner, **options)


def _with_hits(corpus: Dataset, blacklist: Blacklist) -> Dataset:
    """The corpus with what the blacklist finds in its text as its annotated spans, in place of those it has."""
    found = [
        [{"start": h.start, "end": h.end, "type": "NAME"} for h in blacklist.find(text)] for text in corpus["text"]
    ]
    return annotate(corpus, found, "confidential")


def _emotions(setting: Setting, seed: int) -> tuple[Dataset, Dataset] | None:
    """Two thirds of the emotion corpus to train on, one third to test on, drawn by the seed."""
    if not setting.emotions:
        return None
    corpus = load_corpus(setting.emotions, folder=setting.emotions_folder or None)
    order = np.random.default_rng(seed).permutation(len(corpus))[: setting.emotion_records]
    cut = 2 * len(order) // 3
    return corpus.select(order[:cut]), corpus.select(order[cut:])
