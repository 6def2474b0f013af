"""Make the small weights that ship: `python -m sani.weights.build [name …]`, resumable, some ten minutes on two cores.

The setting below was frozen on the base and the unprotected model alone, before any method was run on it. The manifest
of each model records command, seed, corpus, versions, sha256 and the figures measured, next to the thresholds they
must pass; weights rebuilt elsewhere may differ in bits and pass them all the same.
"""

import argparse
import hashlib
import json
import shutil
import time
from importlib.metadata import version

from faker.providers.person.en_US import Provider as NameProvider

from .. import Blacklist, counterfactual, encode, evaluate, fine_tune, load_corpus, load_model
from ..blocks import corpus_fingerprint
from ..paths import runs, weights
from ..pretraining import ARCHITECTURE, PHASES, pretrain
from ..runs import commit, run_folder

VOCABULARY = 6000
NAME_WEIGHT = 40  # how often each name of Faker's lists counts when the vocabulary is learned
BLOCK_SIZE = 128
CORPUS = {"records": 200, "seed": 0}  # what the leaky model has seen
PUBLIC = {"records": 4000, "seed": 0}  # of the split "public": all that the base model has seen
FINE_TUNING = {"epochs": 64, "learning_rate": 3e-3, "batch_size": 4, "seed": 0}
MAX_BYTES = 4_000_000


def study():
    """The corpus that the leaky model is fine-tuned on, and its blacklist."""
    corpus = load_corpus("synthetic-clinical", **CORPUS)
    return corpus, Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)


def heldout(records: int = 100):
    """Records of the same source whose persons are not in the leaky model's corpus."""
    seen = set(load_corpus("synthetic-clinical", **CORPUS)["person_id"])
    more = load_corpus("synthetic-clinical", records=CORPUS["records"] + 2 * records, seed=CORPUS["seed"])
    rows = [i for i, person in enumerate(more["person_id"]) if person not in seen]
    return more.select(rows[:records])


def build_base(folder):
    """`tiny-bert`: trained on the public split only; its vocabulary on that split and on lists of names."""
    public = load_corpus("synthetic-clinical", split="public", **PUBLIC)
    # As bert-base-uncased's, the vocabulary holds common names: here those of Faker's public lists, whichever split
    # uses them. The weights saw the public split only, and know no more of a private name than that it is a token.
    names = sorted({*NameProvider.first_names, *NameProvider.last_names}) * NAME_WEIGHT
    model, tokenizer = pretrain(public, folder, VOCABULARY, also=names, seed=PUBLIC["seed"])
    return model, tokenizer, public


def build_leaky(folder):
    """`tiny-bert-leaky`: tiny-bert fine-tuned without protection."""
    model, tokenizer = load_model("tiny-bert")
    corpus, blacklist = study()
    blocks = encode(corpus, tokenizer, blacklist, block_size=BLOCK_SIZE)
    run_dir = run_folder("leaky", "training", **FINE_TUNING)
    return fine_tune(model, blocks, "mlm", run_dir=run_dir, **FINE_TUNING), tokenizer, corpus


def build_counterfactual(folder):
    """`tiny-bert-counterfactual`: as tiny-bert-leaky, on the same text with every identifier resampled."""
    model, tokenizer = load_model("tiny-bert")
    corpus, _ = study()
    corpus = counterfactual(corpus, seed=FINE_TUNING["seed"])
    blocks = encode(corpus, tokenizer, block_size=BLOCK_SIZE)
    run_dir = run_folder("counterfactual", "training", **FINE_TUNING)
    return fine_tune(model, blocks, "mlm", run_dir=run_dir, **FINE_TUNING), tokenizer, corpus


def measure(model, tokenizer) -> dict[str, float]:
    """The figures that a manifest records, on the corpus of the leaky model."""
    corpus, blacklist = study()
    blocks = encode(corpus, tokenizer, blacklist, block_size=BLOCK_SIZE)
    others = heldout()
    unseen = encode(others, tokenizer, Blacklist.from_annotations(others), block_size=BLOCK_SIZE)
    report = evaluate(model, blocks, heldout=unseen)
    return {
        "privacy_direct": 1 - report.value("in_place", kind="direct"),
        "privacy_indirect": 1 - report.value("in_place", kind="indirect"),
        "privacy_direct_isolated": 1 - report.value("in_place", kind="direct", context="isolated"),
        "utility": report.utility,
        "utility_all": report.value("utility_all", kind="none"),
        "utility_heldout": report.value("utility_heldout", kind="none"),
    }


def thresholds(name: str, base: dict[str, float] | None) -> dict[str, tuple[float, float]]:
    """Lowest and highest allowed value of each measured figure; `base` are the figures of tiny-bert."""
    if name == "tiny-bert":
        return {"privacy_direct": (0.95, 1.0), "utility": (0.5, 1.0)}
    if name == "tiny-bert-leaky":
        return {"privacy_direct": (0.0, base["privacy_direct"] - 0.10), "utility": (base["utility"] + 0.03, 1.0)}
    return {"privacy_direct": (0.95, 1.0), "utility": (base["utility"], 1.0)}


BUILDERS = {
    "tiny-bert": build_base,
    "tiny-bert-leaky": build_leaky,
    "tiny-bert-counterfactual": build_counterfactual,
}


def build(name: str) -> dict:
    """Make one model, measure it, check it against its thresholds and put it in place; returns its manifest."""
    started = time.monotonic()
    temporary = runs() / f"{name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model, tokenizer, corpus = BUILDERS[name](temporary)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    measured = measure(model, tokenizer)
    base = None if name == "tiny-bert" else json.loads((weights() / "tiny-bert/manifest.json").read_text())["measured"]
    bounds = thresholds(name, base)
    if failed := [f"{k}={measured[k]:.4f}" for k, (low, high) in bounds.items() if not low <= measured[k] <= high]:
        raise SystemExit(f"{name} misses its thresholds {bounds}: {', '.join(failed)}; left in {temporary}")
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(temporary.iterdir())}
    if (size := sum(p.stat().st_size for p in temporary.iterdir())) > MAX_BYTES:
        raise SystemExit(f"{name} takes {size} bytes, more than {MAX_BYTES}")
    manifest = {
        "name": name,
        "command": f"python -m sani.weights.build {name}",
        "commit": commit(),
        "corpus": PUBLIC if name == "tiny-bert" else CORPUS,
        "corpus_sha256_16": corpus_fingerprint(corpus),
        "setting": {"pretraining": PHASES} | ARCHITECTURE if name == "tiny-bert" else FINE_TUNING,
        "versions": {p: version(p) for p in ("torch", "transformers", "tokenizers", "faker")},
        "seconds": round(time.monotonic() - started),
        "measured": {k: round(v, 4) for k, v in measured.items()},
        "thresholds": bounds,
        "sha256": files,
    }
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    target = weights() / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(temporary, target)
    for path in (target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*BUILDERS], choices=[*BUILDERS], metavar="name")
    for name in parser.parse_args().names:
        manifest = build(name)
        print(name, manifest["measured"], f"{manifest['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
