"""Make the small weights that ship: `python -m sani.weights.build [name …]`, resumable, two hours on two cores.

The settings below were frozen on the base and the unprotected model alone, before any method was run on them; the bound
of the students of sanitised teachers was set when they had been measured (GPT-2's says more than its base model). The
manifest of each model records command, seed, corpus, versions, sha256 and the figures measured, next to the thresholds
they must pass; weights rebuilt elsewhere may differ in bits and pass them all the same.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from datasets import Dataset, concatenate_datasets
from faker.providers.person.en_US import Provider as NameProvider

from ..blocks import corpus_fingerprint, encode
from ..data.corpora import load_corpus, with_strangers
from ..data.entities import find_entities
from ..data.surrogates import counterfactual
from ..evaluation import Report, evaluate
from ..models import load_model
from ..runs import WEIGHTS, code_fingerprint, commit, fingerprint, run_folder, runs_folder
from ..study.distillation import PLANS, distilled, model_of
from ..study.prepare import OTHERS
from ..study.pretraining import ARCHITECTURE, GPT2_ARCHITECTURE, GPT2_PHASES, PHASES, PUBLIC, pretrain
from ..study.setting import SETTINGS, Setting
from ..text.blacklists import Blacklist
from ..training import fine_tune
from . import ner

VOCABULARY = 6000
NAME_WEIGHT = 40  # how often each name of Faker's lists counts when the vocabulary is learned
BLOCK_SIZE = 128
HELDOUT = 100  # records of persons whom the leaky models have not read
BERT, GPT2, STORIES = (SETTINGS[name] for name in ("tiny", "tiny-gpt2", "tiny-stories"))
CORPUS = {"records": BERT.records, "seed": 0}  # what the leaky model has seen
GPT2_VOCABULARY = 3000  # keeps its logits few: a causal model learns from every token
STORIES_VOCABULARY = 4000
NER_WORLDS = {"worlds": 40, "records": 60, "first_seed": 100}  # of the public split
NER_TRAINING = {"vocabulary": 3000, "epochs": 8, "seed": 0}
MAX_BYTES = 4_000_000


def clinical(records: int) -> tuple[Dataset, Blacklist]:
    """The clinical corpus that a leaky model is fine-tuned on, and its blacklist."""
    corpus = load_corpus("synthetic-clinical", records=records, seed=0)
    return corpus, Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)


def stories() -> tuple[Dataset, Blacklist]:
    """The stories that `tiny-bert-stories` has read, and the annotated names in them."""
    corpus = load_corpus("synthetic-stories", records=STORIES.records, seed=0)
    return corpus, Blacklist.from_annotations(corpus)


def names() -> list[str]:
    """Faker's names, each as often as it counts for the vocabulary.

    As bert-base-uncased's, a vocabulary holds common names, whichever split uses them. The weights saw the public
    split only, and know no more of a private name than that it is a token.
    """
    return sorted({*NameProvider.first_names, *NameProvider.last_names}) * NAME_WEIGHT


class Recipe(NamedTuple):
    """How a model is made and measured, and which values of each figure pass, given its base model's figures."""

    make: Callable
    measure: Callable
    base: str | None
    thresholds: Callable[[dict[str, float]], dict[str, tuple[float, float]]]
    corpus: dict
    setting: dict
    half: bool = False  # saved in fp16


def pretrained(name: str, vocabulary: int, measure: Callable, bounds: dict, causal: bool = False, **options) -> Recipe:
    """A model that has read, as has its vocabulary, the public split of a corpus and what `options` add to it."""
    phases, architecture = (GPT2_PHASES, GPT2_ARCHITECTURE) if causal else (PHASES, ARCHITECTURE)

    def make(folder):
        corpus = load_corpus(name, split="public", **PUBLIC)
        return *pretrain(corpus, folder, vocabulary, phases=phases, causal=causal, **options), corpus

    return Recipe(make, measure, None, lambda _: bounds, PUBLIC, {"pretraining": phases} | architecture)


def unprotected(
    base: str, setting: Setting, text: Callable[[], tuple[Dataset, Blacklist | None]], measure: Callable,
    thresholds: Callable,
) -> Recipe:  # fmt: skip
    """A shipped base model trained on a text, as a setting says, without protection.

    A row never ends inside a blacklisted term, so with a blacklist its rows are cut as those it is measured on. A
    causal model says much less by heart of a row that begins some tokens earlier or later than in training.
    """
    training = {name: getattr(setting, name) for name in ("epochs", "learning_rate", "batch_size")} | {"seed": 0}

    def make(folder):
        corpus, blacklist = text()
        model, tokenizer = load_model(base)
        blocks = encode(corpus, tokenizer, blacklist, block_size=BLOCK_SIZE)
        listed = blacklist.fingerprint if blacklist else ""
        run_dir = run_folder(base, "sani.training", corpus=corpus_fingerprint(corpus), listed=listed, **training)
        return fine_tune(model, blocks, run_dir=run_dir, **training), tokenizer, corpus

    return Recipe(make, measure, base, thresholds, {"records": setting.records, "seed": 0}, training)


def build_ner(folder):
    """`tiny-ner`: trained on stories of many worlds of the public split; no name of the private split is in any."""
    seeds = range(NER_WORLDS["first_seed"], NER_WORLDS["first_seed"] + NER_WORLDS["worlds"])
    options = {"records": NER_WORLDS["records"], "split": "public"}
    worlds = [load_corpus("synthetic-stories", seed=seed, **options) for seed in seeds]
    return *ner.train(worlds, folder, **NER_TRAINING), concatenate_datasets(worlds)


def _report(model, tokenizer, corpus: Dataset, blacklist: Blacklist, others: Dataset) -> Report:
    """What is measured on a corpus with its blacklist, and on records of other persons."""
    blocks = encode(corpus, tokenizer, blacklist, block_size=BLOCK_SIZE)
    unseen = encode(others, tokenizer, Blacklist.from_annotations(others), block_size=BLOCK_SIZE)
    return evaluate(model, blocks, heldout=unseen)


def measure_clinical(records: int, model, tokenizer) -> dict[str, float]:
    """What a manifest records of a clinical model: measured on the corpus of the leaky one."""
    others = with_strangers("synthetic-clinical", CORPUS["records"], HELDOUT, CORPUS["seed"])[1]
    report = _report(model, tokenizer, *clinical(records), others)
    return {
        "privacy": report.privacy,
        "privacy_direct": 1 - report.value("in_place", kind="direct"),
        "privacy_indirect": 1 - report.value("in_place", kind="indirect"),
        "privacy_direct_isolated": 1 - report.value("in_place", kind="direct", context="isolated"),
        "utility": report.utility,
        "utility_all": report.value("utility_all", kind="none"),
        "utility_heldout": report.value("utility_heldout", kind="none"),
    }


def measure_stories(model, tokenizer) -> dict[str, float]:
    """What a manifest records of a model of stories, on the private ones."""
    others = load_corpus("synthetic-stories", records=60, seed=OTHERS, split="public")
    report = _report(model, tokenizer, *stories(), others)
    return {
        "regurgitation": report.regurgitation,
        "regurgitation_isolated": report.value("in_place", context="isolated"),
        "utility": report.utility,
        "utility_heldout": report.value("utility_heldout", kind="none"),
    }


def measure_ner(model, tokenizer) -> dict[str, float]:
    """Precision and recall of `tiny-ner` on the private stories, none of whose names it has read."""
    corpus, _ = stories()
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return ner.scores(find_entities(corpus, folder, run_dir=Path(folder) / "found"), corpus)


def _students(setting: Setting, measure: Callable) -> dict[str, Recipe]:
    """The demo's models in fp16: the small base model, and students of seed 0 of the study in `sani.distillation`."""
    name, plan = setting.model.replace("tiny", "student"), PLANS[setting.name]

    def recipe(make: Callable, privacy: Callable, corpus: dict, made_with: dict, slack: float = 0.0) -> Recipe:
        def bounds(base):
            return {"privacy_direct": privacy(base["privacy_direct"]), "utility": (base["utility"] - slack, 1.0)}

        return Recipe(make, measure, setting.model, bounds, corpus, made_with, half=True)

    def base(folder):
        return *load_model(setting.model), load_corpus("synthetic-clinical", split="public", **PUBLIC)

    def student(method: str, privacy: Callable) -> Recipe:
        def make(folder):
            taught = model_of(setting, plan, 0, distilled(method, "private"))
            return taught, load_model(setting.model)[1], clinical(setting.records)[0]

        return recipe(make, privacy, {"records": setting.records, "seed": 0}, {"teacher": method} | plan._asdict())

    def forgets(_):
        return manifest(f"{name}-leaky")["measured"]["privacy_direct"] + 0.05, 1.0

    return {
        name: recipe(base, lambda base: (base - 0.01, 1.0), PUBLIC, {"same as": setting.model}, slack=0.01),
        f"{name}-leaky": student("unprotected", lambda base: (0.0, base - 0.02)),
        f"{name}-sani": student("sani", forgets),
    }


_BERT, _GPT2 = (partial(measure_clinical, setting.records) for setting in (BERT, GPT2))
RECIPES = {
    "tiny-bert": pretrained(
        "synthetic-clinical", VOCABULARY, _BERT, {"privacy_direct": (0.95, 1.0), "utility": (0.5, 1.0)}, also=names()
    ),
    "tiny-bert-leaky": unprotected(
        "tiny-bert", BERT, lambda: (clinical(BERT.records)[0], None), _BERT,
        lambda base: {"privacy_direct": (0.0, base["privacy_direct"] - 0.10), "utility": (base["utility"] + 0.03, 1.0)},
    ),
    "tiny-bert-counterfactual": unprotected(
        "tiny-bert", BERT, lambda: (counterfactual(clinical(BERT.records)[0], seed=0), None), _BERT,
        lambda base: {"privacy_direct": (0.95, 1.0), "utility": (base["utility"], 1.0)},
    ),
    "tiny-gpt2": pretrained(
        "synthetic-clinical", GPT2_VOCABULARY, _GPT2, {"privacy_direct": (0.85, 1.0), "utility": (0.4, 1.0)},
        causal=True,
    ),
    "tiny-gpt2-leaky": unprotected(
        "tiny-gpt2", GPT2, lambda: clinical(GPT2.records), _GPT2,
        lambda base: {"privacy": (0.3, 0.7), "utility": (base["utility"] + 0.03, 1.0)},
    ),
    **_students(BERT, _BERT),
    **_students(GPT2, _GPT2),
    "tiny-ner": Recipe(
        build_ner, measure_ner, None, lambda _: {"precision": (0.8, 1.0), "recall": (0.8, 1.0)}, NER_WORLDS,
        NER_TRAINING | ARCHITECTURE,
    ),
    "tiny-bert-stories-public": pretrained(
        "synthetic-stories", STORIES_VOCABULARY, measure_stories, {"regurgitation": (0.0, 0.1), "utility": (0.3, 1.0)},
        also=names(),
    ),
    "tiny-bert-stories": unprotected(
        "tiny-bert-stories-public", STORIES, stories, measure_stories,
        lambda base: {"regurgitation": (0.15, 0.6), "utility": (base["utility"], 1.0)},
    ),
}  # fmt: skip


def manifest(name: str) -> dict:
    """What a shipped model's manifest says."""
    return json.loads((WEIGHTS / name / "manifest.json").read_text(encoding="utf-8"))


def build(name: str) -> dict:
    """Make one model, measure it, check it against its thresholds and put it in place; returns its manifest."""
    started, recipe = time.monotonic(), RECIPES[name]
    # A vocabulary is learned in this folder and found there by a rerun, which must not meet another recipe's.
    key = fingerprint(code_fingerprint("sani.study.pretraining"), recipe.corpus, recipe.setting)
    temporary = runs_folder() / f"{name}-{key}.part"
    temporary.mkdir(parents=True, exist_ok=True)
    model, tokenizer, corpus = recipe.make(temporary)
    shutil.rmtree(temporary / "trainer", ignore_errors=True)
    model = model.half() if recipe.half else model
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    measured = recipe.measure(model.float(), tokenizer)
    bounds = recipe.thresholds(manifest(recipe.base)["measured"] if recipe.base else {})
    if failed := [f"{k}={measured[k]:.4f}" for k, (low, high) in bounds.items() if not low <= measured[k] <= high]:
        raise SystemExit(f"{name} misses its thresholds {bounds}: {', '.join(failed)}; left in runs/{temporary.name}")
    if (size := sum(p.stat().st_size for p in temporary.iterdir())) > MAX_BYTES:
        raise SystemExit(f"{name} takes {size} bytes, more than {MAX_BYTES}")
    told = {
        "name": name,
        "command": f"python -m sani.weights.build {name}",
        "commit": commit(),
        "corpus": recipe.corpus,
        "corpus_sha256_16": corpus_fingerprint(corpus),
        "setting": recipe.setting,
        "versions": {p: version(p) for p in ("torch", "transformers", "tokenizers", "faker")},
        "seconds": round(time.monotonic() - started),
        "measured": {k: round(v, 4) for k, v in measured.items()},
        "thresholds": bounds,
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(temporary.iterdir())},
    }
    (temporary / "manifest.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    target = WEIGHTS / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(temporary, target)
    for path in (target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*RECIPES], choices=[*RECIPES], metavar="name")
    for name in parser.parse_args().names:
        told = build(name)
        print(name, told["measured"], f"{told['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
