"""A setting: what a study trains, on what, for how long (PAPER §4)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import get_origin

from transformers import AutoConfig

from ..erasure import TARGETS
from ..models import family_named, read
from ..results.objectives import OBJECTIVES
from ..runs import checked, one_of

# After which share of the epochs of fine-tuning is measured: in A after 0, 4, 8, 16, 32, 64.
TRAINED_AT = {"A": (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), "B": (0, 1)}
REPAIRED_AT = (0, 1, 2, 5, 13)  # in A; in B after each epoch
KEPT_OUT = 0.5

WORDS = {  # what some parameters may say; `preset`: the ledger's settings and notebooks/presets
    "use_case": ("A", "B"), "half": ("private",), "target": TARGETS,
    "preset": ("tiny", "small", "tiny-gpt2", "tiny-stories", "paper-bert", "paper-gpt", "paper-pretrained"),
}  # fmt: skip
LEAST = dict.fromkeys(("seed", "jobs", "words", "epochs", "top"), 0) | {"block_size": 8, "k": 2}  # else 1
SHARES = ("fraction", "heldout_share", "min_share")  # from 0 to 1; other numbers that are not whole are positive
KINDS = {  # of parameters; a setting's fields are added below
    **dict.fromkeys(("seed", "jobs", "k", "draws", "width", "layers", "public_records", "distillation_epochs"), int),
    **dict.fromkeys(("short_epochs", "long_epochs", "distillation_rate", "temperature"), float),
    **dict.fromkeys(("preset", "target", "blacklist_file"), str),
    "reveal": bool,
}


def check(parameters: Mapping) -> dict:
    """Those of some parameters that a study knows. Raises TypeError or ValueError for the first that cannot be."""
    known = {name: parameters[name] for name in KINDS if name in parameters}
    for name, value in known.items():
        kind, least = KINDS[name], LEAST.get(name, 1)
        if kind is int:
            known[name] = checked(name, value, int, least, 2**31 - 1)
        elif kind is float:
            known[name] = checked(name, value, float, 0, 1) if name in SHARES else checked(name, value, float, above=0)
        elif name in WORDS and not (name == "half" and value == ""):
            one_of(name, value, WORDS[name])
        else:
            checked(name, value, kind)
    return known


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
    repair_rates: tuple[tuple[str, float], ...] = ()  # by method, as `rates.chosen` has them; of others, the one above
    batch_size: int = 4
    ner: str = ""  # B: the model that finds the terms: shipped name, local folder or Hub id; "" for capitalised words
    classes: tuple[str, ...] = ()  # B: of the model's entities; () for all
    min_share: float = 0.05  # B: terms found in a smaller share of the places where they stand are dropped
    min_count: int = 1  # B: terms found fewer times are dropped
    top: int = 0  # B: only so many terms, the most frequent; 0 for all
    emotions: str = ""  # B: the corpus of the downstream classifier; "" for none
    emotions_folder: str = ""
    emotion_records: int = 2000  # at most; two thirds to train on, one third to test on
    classifier_learning_rate: float = 3e-3

    def __post_init__(self):
        check(vars(self))
        if self.use_case == "A" and not self.epochs:
            raise ValueError("epochs=0 is for use case B, whose model has read the text; give at least 1")

    @classmethod
    def from_parameters(cls, parameters: Mapping, **more) -> "Setting":
        """The setting of a notebook: of its parameters (as a mapping, `globals()`) those that are fields, and `more`.

        `preset` is the setting's name, and `classes` may be separated by commas. Of a setting of the ledger come the
        rates of its repairs, unless they are given, or model or learning rate is another. Raises TypeError or
        ValueError for a value that a parameter cannot have, be it a field or not.
        """
        classes = parameters.get("classes", ())
        classes = tuple(filter(None, classes.split(","))) if isinstance(classes, str) else classes
        known = check({**parameters, "classes": classes, **more})
        known["name"] = more.get("name", known.get("preset", cls.name))
        made = cls(**{field.name: known[field.name] for field in fields(cls) if field.name in known})
        usual = SETTINGS.get(made.name)
        same = usual and (made.model, made.learning_rate) == (usual.model, usual.learning_rate)
        if same and "repair_rates" not in known:
            made = replace(made, repair_rates=usual.repair_rates)
        return made

    @property
    def training(self) -> dict:
        """The options of `fine_tune` that fine-tuning and repair share."""
        return {"learning_rate": self.learning_rate, "batch_size": self.batch_size, "progress": False}

    def repair_rate(self, method: str) -> float:
        """The learning rate of a method's repair."""
        return dict(self.repair_rates).get(method, self.learning_rate)

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
        return _is_causal(self.model)

    @property
    def objectives(self) -> tuple[str, str, str]:
        """How its family names fine-tuning on raw text, on pseudonymised text, and without listed targets."""
        return OBJECTIVES[self.causal]


@cache
def _is_causal(model: str) -> bool:
    """By the config.json alone."""
    return family_named(read(AutoConfig, model).model_type).causal


KINDS |= {field.name: get_origin(field.type) or field.type for field in fields(Setting)}
SETTINGS = {
    "tiny": Setting(),
    # A deeper leak: found on base and unprotected models alone, with the learning rate of the tiny setting.
    "small": Setting(
        name="small", records=100, epochs=256, repair_epochs=52, batch_size=16,
        repair_rates=(
            ("sani", 3e-3), ("repair-only", 3e-3), ("pruning", 3e-3), ("untied-repair-only", 3e-3),
            ("untied-pruning", 3e-3), ("retrain-at-equal-cost", 1e-4),
            ("graddiff", 3e-4), ("npo", 3e-3), ("scrub", 3e-3), ("cf-k", 3e-3), ("eu-k", 3e-3), ("anchor", 3e-3),
            ("rewind-anchor", 1e-3), ("return-anchor", 3e-3), ("equalise", 1e-3), ("sani-equalise", 3e-3),
        ),
    ),
    "tiny-gpt2": Setting(
        name="tiny-gpt2", model="tiny-gpt2", records=120, learning_rate=3e-4, batch_size=8,
        repair_rates=(
            ("sani", 1e-3), ("repair-only", 1e-3), ("pruning", 1e-3), ("untied-repair-only", 1e-3),
            ("untied-pruning", 1e-3), ("retrain-at-equal-cost", 1e-4),
        ),
    ),
    "tiny-stories": Setting(
        name="tiny-stories", use_case="B", model="tiny-bert-stories-public", corpus="synthetic-stories", records=300,
        repair_epochs=4, ner="tiny-ner", emotions="synthetic-emotions",
    ),
}  # fmt: skip
