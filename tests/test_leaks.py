"""A whole run, scanned with every term: logs, metrics, parameters, exceptions, reports, model folders, caches."""

import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import AutoTokenizer

import sani
from sani import load_corpus
from sani.runs import WEIGHTS
from sani.weights import build

RUN = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
import sani
from pathlib import Path

runs = Path({runs!r})
corpus = sani.load_corpus("synthetic-clinical", records=12, seed=4)
print(corpus)
blacklist = sani.Blacklist.from_annotations(corpus) | sani.Blacklist.from_rare_words(corpus)
print(blacklist, blacklist.coverage(corpus), blacklist.terms(), blacklist.collisions(corpus), sep="\\n")
model, tokenizer = sani.load_model("tiny-bert")
blocks = sani.encode(corpus, tokenizer, blacklist, block_size=64)
print(blocks, blocks.info.description)

def measure(model, epoch):
    report = sani.evaluate(model, blocks)
    print(report, report.counts.to_string(), report.terms.to_string(), report.units.to_string(), sep="\\n")
    return {{"privacy": report.privacy, "utility": report.utility}}

leaky = sani.fine_tune(model, blocks, epochs=2, run_dir=runs / "leaky", measure_at=(0, 2), measure=measure)
other = sani.encode(sani.counterfactual(corpus, seed=1), tokenizer, block_size=64)
for method, how in sani.sanitizing.METHODS.items():
    run_dir = runs / method if how.trains and method != "task-vector" else None  # which keeps nothing
    options = {{}} if run_dir is None else {{"run_dir": run_dir}}
    options |= dict(base=model, counterfactual_blocks=other, training_epochs=1)
    clean = sani.sanitize(leaky, blocks, method, epochs=2 if method == "scrub" else 1, **options)
    clean.save_pretrained(runs / f"saved-{{method}}")

print(sani.evaluate(clean, blocks, base=model))

def attempt(call):
    try:
        call()
    except Exception as error:
        logging.exception("refused")
        print(type(error), error)
    else:
        print("NOT REFUSED", call)

import copy, torch
everything = sani.Blacklist([w for text in corpus["text"] for w in text.split()])
attempt(lambda: sani.encode(corpus, tokenizer, everything, block_size=64))
attempt(lambda: sani.encode(corpus, tokenizer, sani.Blacklist([corpus["text"][0]]), block_size=64))
attempt(lambda: sani.encode(corpus, tokenizer, sani.Blacklist(["Zanzibarian"]), block_size=64))
attempt(lambda: sani.evaluate(model, blocks, reveal=True))
attempt(lambda: blacklist | sani.Blacklist(case_sensitive=True))
attempt(lambda: sani.Blacklist.from_file(runs / "none.csv"))
attempt(lambda: sani.fine_tune(model, blocks, epochs=5, run_dir=runs / "leaky"))
broken = copy.deepcopy(model)
with torch.no_grad():
    broken.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
attempt(lambda: sani.repair(broken, blocks, epochs=1, run_dir=runs / "broken"))
"""


def test_no_term_of_four_or_more_letters_appears_anywhere(tmp_path):
    """Everything a run prints, logs, raises or writes, but the tokenizer's public vocabulary."""
    caches = {name: str(tmp_path / name) for name in ("HF_HOME", "HF_DATASETS_CACHE", "TMPDIR", "XDG_CACHE_HOME")}
    for folder in caches.values():
        Path(folder).mkdir()
    script = tmp_path / "script.py"
    script.write_text(RUN.format(runs=str(tmp_path / "home" / "runs")))
    environment = os.environ | caches | {"SANI_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, env=environment, cwd=tmp_path)
    script.unlink()
    output = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, output[-3000:]
    assert "NOT REFUSED" not in output and output.count("refused") >= 8

    corpus = sani.load_corpus("synthetic-clinical", records=12, seed=4)
    blacklist = sani.Blacklist.from_annotations(corpus) | sani.Blacklist.from_rare_words(corpus)
    terms = {
        word.lower()
        for term in blacklist.terms(reveal=True)["term"]
        for word in (term, *re.findall(r"[^\W_]+", term))
        if sum(c.isalpha() for c in word) >= 4 or sum(c.isdigit() for c in word) >= 6
    }
    # Words that the program's own messages use too ("General Hospital", "May") say nothing.
    modules = [p for p in Path(sani.__file__).parent.rglob("*.py") if p.parent.name != "grammars"]
    source = " ".join(path.read_text().lower() for path in modules)
    # And those of the script, of its path, and of what Faker logs when it starts.
    source += RUN.lower() + re.sub(r"[_\W]", " ", str(tmp_path)).lower() + " main leaving logger event level as is "
    telling = {term for term in terms if not re.search(rf"\b{re.escape(term)}\b", source)}
    assert len(telling) > 0.75 * len(terms) > 100

    def leaks(text):
        words = set(re.findall(r"[^\W_]+", text))
        return {t for t in telling if (t in words if t.isalnum() else t in text)}

    assert not leaks(output.lower())
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    tables = [p for p in files if p.suffix == ".parquet"]
    assert len(tables) >= 5 and any(p.suffix == ".safetensors" for p in files)
    contents = {hashlib.sha256(path.read_bytes()).digest(): path for path in files}  # models are there twice
    for path in contents.values():
        assert not leaks(path.read_bytes().decode("latin-1").lower()), path.name
    for path in files:
        assert not leaks(str(path.relative_to(tmp_path)).lower())
    for path in tables:
        assert not leaks(pd.read_parquet(path).to_string().lower())

    # As token ids too, in any width, or spelled out: nowhere but in the blocks, which are text by another name.
    tokenizer = sani.load_model("tiny-bert")[1]
    written = [tokenizer(term, add_special_tokens=False)["input_ids"] for term in sorted(telling)]
    written = [ids for ids in written if len(ids) > 2]
    assert len(written) > 80
    forms = [np.array(ids, dtype).tobytes() for ids in written for dtype in ("<i2", "<i4", "<i8")]
    forms += [sign.join(map(str, ids)).encode() for ids in written for sign in (",", ", ", " ")]
    read = ((path, path.read_bytes()) for path in contents.values())
    holding = {path.parent.name[:7] for path, content in read if any(form in content for form in forms)}
    assert holding == {"blocks-"}

    # What holds text lies in the run folder alone, and only its owner can read it.
    for path in files:
        assert (tmp_path / "home" / "runs") in path.parents, f"{path.name} was left outside the run folder"
        if "saved-" not in str(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder = tmp_path / "home" / "runs"
    assert all(
        stat.S_IMODE(p.stat().st_mode) == 0o700 for p in folder.rglob("*") if p.is_dir() and "saved-" not in str(p)
    )

    # reveal=True shows them: the scan above can see what it looks for.
    assert len(leaks(blacklist.terms(reveal=True).to_string().lower())) > 0.9 * len(telling)


def test_purge_deletes_every_run_folder(tmp_path, corpus, wordpiece):
    sani.encode(corpus, wordpiece, block_size=32)
    environment = os.environ | {"SANI_HOME": str(tmp_path / "home")}
    assert [p for p in (tmp_path / "home" / "runs").iterdir()]
    command = [sys.executable, "-m", "sani", "purge", "--yes"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "1 run folders deleted" in done.stdout
    assert not (tmp_path / "home" / "runs").exists()


def test_shipped_vocabulary_holds_no_private_term_but_names_of_public_lists():
    """A name in it comes from Faker's lists, an ordinary word from the public split; numbers and places are none."""
    from faker.providers.person.en_US import Provider

    listed = {name.lower() for name in (*Provider.first_names, *Provider.last_names)}

    def words(corpora):
        return {word for corpus in corpora for text in corpus["text"] for word in re.findall(r"[^\W_]+", text.lower())}

    def public(kind, records, seeds):
        return words(load_corpus(f"synthetic-{kind}", records=records, seed=seed, split="public") for seed in seeds)

    clinical, stories = build.clinical(build.CORPUS["records"]), build.stories()
    worlds = range(build.NER_WORLDS["first_seed"], build.NER_WORLDS["first_seed"] + build.NER_WORLDS["worlds"])
    read = {"clinical": public("clinical", 4000, [0]), "stories": public("stories", 4000, [0])}
    read["ner"] = public("stories", build.NER_WORLDS["records"], worlds)
    for name in sani.models.shipped():
        kind = next((kind for kind in ("stories", "ner") if kind in name), "clinical")
        _, blacklist = clinical if kind == "clinical" else stories
        terms = {term.lower() for term in blacklist.terms(reveal=True)["term"] if len(term) >= 4}
        assert len(terms) > 300
        vocabulary = set(AutoTokenizer.from_pretrained(WEIGHTS / name).get_vocab())
        for piece in (terms & {token.lower().lstrip("ġ") for token in vocabulary}) - listed - read[kind]:
            known = any(word.startswith(piece) for word in read[kind] | listed)
            assert known, f"{name}: a private term that is no public piece"
