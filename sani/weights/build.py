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
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from datasets import Dataset, concatenate_datasets
from faker.providers.person.en_US import Provider as NameProvider

from ..blacklists import Blacklist
from ..blocks import corpus_fingerprint, encode
from ..data.corpora import load_corpus, with_strangers
from ..data.entities import find_entities
from ..data.surrogates import counterfactual
from ..evaluation import evaluate
from ..models import load_model
from ..runs import code_fingerprint, commit, fingerprint, run_folder, runs_folder, weights_folder
from ..study.distillation import PLANS, distilled, model_of
from ..study.prepare import OTHERS
from ..study.pretraining import ARCHITECTURE, GPT2_ARCHITECTURE, GPT2_PHASES, PHASES, PUBLIC, pretrain
from ..study.setting import SETTINGS, Setting
from ..training import fine_tune
from . import ner

VOCABULARY = 6000
NAME_WEIGHT = 40  # how often each name of Faker's lists counts when the vocabulary is learned
BLOCK_SIZE = 128
HELDOUT = 100  # records of persons whom the leaky models have not read
CORPUS = {"records": 200, "seed": 0}  # what the leaky model has seen
FINE_TUNING = {"epochs": 64, "learning_rate": 3e-3, "batch_size": 4, "seed": 0}
GPT2_VOCABULARY = 3000  # keeps its logits few: a causal model learns from every token
GPT2 = SETTINGS["tiny-gpt2"]
GPT2_CORPUS = {"records": GPT2.records, "seed": 0}
GPT2_TRAINING = {
    "epochs": GPT2.epochs, "learning_rate": GPT2.learning_rate, "batch_size": GPT2.batch_size, "seed": 0,
}  # fmt: skip
STORIES = SETTINGS["tiny-stories"]
STORIES_VOCABULARY = 4000
STORIES_PUBLIC = {"records": 4000, "seed": 0}
STORIES_CORPUS = {"records": STORIES.records, "seed": 0}
STORIES_TRAINING = {
    "epochs": STORIES.epochs, "learning_rate": STORIES.learning_rate, "batch_size": STORIES.batch_size, "seed": 0,
}  # fmt: skip
NER_WORLDS = {"worlds": 40, "records": 60, "first_seed": 100}  # of the public split
NER_TRAINING = {"vocabulary": 3000, "epochs": 8, "seed": 0}
MAX_BYTES = 4_000_000


def clinical(records: int) -> tuple[Dataset, Blacklist]:
    """The clinical corpus that a leaky model is fine-tuned on, and its blacklist."""
    corpus = load_corpus("synthetic-clinical", records=records, seed=0)
    return corpus, Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)


def stories() -> tuple[Dataset, Blacklist]:
    """The stories that `tiny-bert-stories` has read, and the annotated names in them."""
    corpus = load_corpus("synthetic-stories", **STORIES_CORPUS)
    return corpus, Blacklist.from_annotations(corpus)


def names() -> list[str]:
    """Faker's names, each as often as it counts for the vocabulary.

    As bert-base-uncased's, a vocabulary holds common names, whichever split uses them. The weights saw the public
    split only, and know no more of a private name than that it is a token.
    """
    return sorted({*NameProvider.first_names, *NameProvider.last_names}) * NAME_WEIGHT


def build_base(folder):
    """`tiny-bert`: trained on the public split only; its vocabulary on that split and on lists of names."""
    public = load_corpus("synthetic-clinical", split="public", **PUBLIC)
    return *pretrain(public, folder, VOCABULARY, also=names(), seed=PUBLIC["seed"]), public


def build_gpt2(folder):
    """`tiny-gpt2`: trained on the public split only, as is its vocabulary."""
    public = load_corpus("synthetic-clinical", split="public", **PUBLIC)
    return *pretrain(public, folder, GPT2_VOCABULARY, phases=GPT2_PHASES, seed=PUBLIC["seed"], causal=True), public


def build_stories_public(folder):
    """`tiny-bert-stories-public`: trained on stories of the public split only, in which other names occur."""
    public = load_corpus("synthetic-stories", split="public", **STORIES_PUBLIC)
    return *pretrain(public, folder, STORIES_VOCABULARY, also=names(), seed=STORIES_PUBLIC["seed"]), public


def trained_on(base: str, corpus: Dataset, training: dict, blacklist: Blacklist | None = None):
    """A shipped base model trained on a corpus without protection.

    A row never ends inside a blacklisted term, so with a blacklist its rows are cut as those it is measured on. A
    causal model says much less by heart of a row that begins some tokens earlier or later than in training.
    """
    model, tokenizer = load_model(base)
    blocks = encode(corpus, tokenizer, blacklist, block_size=BLOCK_SIZE)
    listed = blacklist.fingerprint if blacklist else ""
    run_dir = run_folder(base, "sani.training", corpus=corpus_fingerprint(corpus), listed=listed, **training)
    return fine_tune(model, blocks, run_dir=run_dir, **training), tokenizer, corpus


def build_ner(folder):
    """`tiny-ner`: trained on stories of many worlds of the public split; no name of the private split is in any."""
    first, records = NER_WORLDS["first_seed"], NER_WORLDS["records"]
    worlds = [
        load_corpus("synthetic-stories", records=records, seed=first + world, split="public")
        for world in range(NER_WORLDS["worlds"])
    ]
    return *ner.train(worlds, folder, **NER_TRAINING), concatenate_datasets(worlds)


def measure_clinical(records: int) -> Callable:
    """What a manifest records of a clinical model: measured on the corpus of the leaky one."""

    def measure(model, tokenizer) -> dict[str, float]:
        corpus, blacklist = clinical(records)
        others = with_strangers("synthetic-clinical", CORPUS["records"], HELDOUT, CORPUS["seed"])[1]
        blocks = encode(corpus, tokenizer, blacklist, block_size=BLOCK_SIZE)
        unseen = encode(others, tokenizer, Blacklist.from_annotations(others), block_size=BLOCK_SIZE)
        report = evaluate(model, blocks, heldout=unseen)
        return {
            "privacy": report.privacy,
            "privacy_direct": 1 - report.value("in_place", kind="direct"),
            "privacy_indirect": 1 - report.value("in_place", kind="indirect"),
            "privacy_direct_isolated": 1 - report.value("in_place", kind="direct", context="isolated"),
            "utility": report.utility,
            "utility_all": report.value("utility_all", kind="none"),
            "utility_heldout": report.value("utility_heldout", kind="none"),
        }

    return measure


def measure_stories(model, tokenizer) -> dict[str, float]:
    """What a manifest records of a model of stories, on the private ones."""
    corpus, blacklist = stories()
    others = load_corpus("synthetic-stories", records=60, seed=OTHERS, split="public")
    blocks = encode(corpus, tokenizer, blacklist, block_size=BLOCK_SIZE)
    unseen = encode(others, tokenizer, Blacklist.from_annotations(others), block_size=BLOCK_SIZE)
    report = evaluate(model, blocks, heldout=unseen)
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


class Recipe(NamedTuple):
    """How a model is made and measured, and which values of each figure pass, given its base model's figures."""

    make: Callable
    measure: Callable
    base: str | None
    thresholds: Callable[[dict[str, float]], dict[str, tuple[float, float]]]
    corpus: dict
    setting: dict
    half: bool = False  # saved in fp16


def _trained(base: str, text: Callable, training: dict) -> Callable:
    """`text` returns a corpus, or a corpus and a blacklist."""

    def make(folder):
        found = text()
        corpus, blacklist = found if isinstance(found, tuple) else (found, None)
        return trained_on(base, corpus, training, blacklist)

    return make


def _students(setting: Setting) -> dict[str, Recipe]:
    """The demo's models in fp16: the small base model, and students of seed 0 of the study in `sani.distillation`."""
    name, plan = setting.model.replace("tiny", "student"), PLANS[setting.name]
    measure, private = measure_clinical(setting.records), {"records": setting.records, "seed": 0}

    def base(folder):
        return *load_model(setting.model), load_corpus("synthetic-clinical", split="public", **PUBLIC)

    def taught_by(method: str) -> Callable:
        def make(folder):
            student = model_of(setting, plan, 0, distilled(method, "private"))
            return student, load_model(setting.model)[1], clinical(setting.records)[0]

        return make

    def student(method: str, thresholds: Callable) -> Recipe:
        told = {"teacher": method} | plan._asdict()
        return Recipe(taught_by(method), measure, setting.model, thresholds, private, told, half=True)

    def near(base):
        return {"privacy_direct": (base["privacy_direct"] - 0.01, 1.0), "utility": (base["utility"] - 0.01, 1.0)}

    def leaks(base):
        return {"privacy_direct": (0.0, base["privacy_direct"] - 0.02), "utility": (base["utility"], 1.0)}

    def forgets(base):
        leaky = manifest(f"{name}-leaky")["measured"]["privacy_direct"]
        return {"privacy_direct": (leaky + 0.05, 1.0), "utility": (base["utility"], 1.0)}

    return {
        name: Recipe(base, measure, setting.model, near, PUBLIC, {"same as": setting.model}, half=True),
        f"{name}-leaky": student("unprotected", leaks),
        f"{name}-sani": student("sani", forgets),
    }


_BERT = measure_clinical(CORPUS["records"])
_GPT2 = measure_clinical(GPT2_CORPUS["records"])
RECIPES = {
    "tiny-bert": Recipe(
        build_base, _BERT, None, lambda _: {"privacy_direct": (0.95, 1.0), "utility": (0.5, 1.0)}, PUBLIC,
        {"pretraining": PHASES} | ARCHITECTURE,
    ),
    "tiny-bert-leaky": Recipe(
        _trained("tiny-bert", lambda: clinical(CORPUS["records"])[0], FINE_TUNING), _BERT, "tiny-bert",
        lambda base: {"privacy_direct": (0.0, base["privacy_direct"] - 0.10), "utility": (base["utility"] + 0.03, 1.0)},
        CORPUS, FINE_TUNING,
    ),
    "tiny-bert-counterfactual": Recipe(
        _trained("tiny-bert", lambda: counterfactual(clinical(CORPUS["records"])[0], seed=0), FINE_TUNING), _BERT,
        "tiny-bert", lambda base: {"privacy_direct": (0.95, 1.0), "utility": (base["utility"], 1.0)},
        CORPUS, FINE_TUNING,
    ),
    "tiny-gpt2": Recipe(
        build_gpt2, _GPT2, None, lambda _: {"privacy_direct": (0.85, 1.0), "utility": (0.4, 1.0)}, PUBLIC,
        {"pretraining": GPT2_PHASES} | GPT2_ARCHITECTURE,
    ),
    "tiny-gpt2-leaky": Recipe(
        _trained("tiny-gpt2", lambda: clinical(GPT2_CORPUS["records"]), GPT2_TRAINING), _GPT2, "tiny-gpt2",
        lambda base: {"privacy": (0.3, 0.7), "utility": (base["utility"] + 0.03, 1.0)}, GPT2_CORPUS, GPT2_TRAINING,
    ),
    **_students(SETTINGS["tiny"]),
    **_students(GPT2),
    "tiny-ner": Recipe(
        build_ner, measure_ner, None, lambda _: {"precision": (0.8, 1.0), "recall": (0.8, 1.0)}, NER_WORLDS,
        NER_TRAINING | ARCHITECTURE,
    ),
    "tiny-bert-stories-public": Recipe(
        build_stories_public, measure_stories, None,
        lambda _: {"regurgitation": (0.0, 0.1), "utility": (0.3, 1.0)}, STORIES_PUBLIC,
        {"pretraining": PHASES} | ARCHITECTURE,
    ),
    "tiny-bert-stories": Recipe(
        _trained("tiny-bert-stories-public", stories, STORIES_TRAINING), measure_stories,
        "tiny-bert-stories-public",
        lambda base: {"regurgitation": (0.15, 0.6), "utility": (base["utility"], 1.0)}, STORIES_CORPUS,
        STORIES_TRAINING,
    ),
}  # fmt: skip


def manifest(name: str) -> dict:
    """What a shipped model's manifest says."""
    return json.loads((weights_folder() / name / "manifest.json").read_text(encoding="utf-8"))


def build(name: str) -> dict:
    """Make one model, measure it, check it against its thresholds and put it in place; returns its manifest."""
    started, recipe = time.monotonic(), RECIPES[name]
    # A vocabulary is learned in this folder and found there by a rerun, which must not meet another recipe's.
    temporary = (
        runs_folder()
        / f"{name}-{fingerprint(code_fingerprint('sani.study.pretraining'), recipe.corpus, recipe.setting)}.part"
    )
    temporary.mkdir(parents=True, exist_ok=True)
    model, tokenizer, corpus = recipe.make(temporary)
    shutil.rmtree(temporary / "trainer", ignore_errors=True)
    model = model.half() if recipe.half else model
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    measured = recipe.measure(model.float(), tokenizer)
    bounds = recipe.thresholds(manifest(recipe.base)["measured"] if recipe.base else {})
    if failed := [f"{k}={measured[k]:.4f}" for k, (low, high) in bounds.items() if not low <= measured[k] <= high]:
        raise SystemExit(f"{name} misses its thresholds {bounds}: {', '.join(failed)}; left in {_shown(temporary)}")
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(temporary.iterdir())}
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
        "sha256": files,
    }
    (temporary / "manifest.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    target = weights_folder() / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(temporary, target)
    for path in (target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return told


def _shown(path: Path) -> Path:
    return path.relative_to(runs_folder().parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*RECIPES], choices=[*RECIPES], metavar="name")
    for name in parser.parse_args().names:
        told = build(name)
        print(name, told["measured"], f"{told['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
