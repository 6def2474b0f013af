"""The main road on real public text, with counts recounted another way. Needs SANI_REAL_DATA; skipped without."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model
from transformers import AutoTokenizer

import sani
from sani.blocks import info, tensors

REAL = Path(os.environ.get("SANI_REAL_DATA", "/nonexistent"))
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="SANI_REAL_DATA names no folder of real data")

# Terms of a blacklist file as a hospital might write one: surnames, a place, drugs, an n-gram.
TERMS = ["Seattle", "Claritin", "Smith", "Jones", "Dr. X", "General Hospital", "Foley catheter", "Coumadin", "Lasix"]


def mtsamples(tmp_path):
    """A user's .jsonl and blacklist file; few enough records for a test."""
    lines = (REAL / "clinical" / "mtsamples.jsonl").read_text(encoding="utf-8").splitlines()[:150]
    with open(tmp_path / "notes.jsonl", "w", encoding="utf-8") as file:
        for i, line in enumerate(lines):
            file.write(json.dumps({"record_id": f"n{i}", "text": json.loads(line)["text"]}) + "\n")
    (tmp_path / "terms.txt").write_text("\n".join(TERMS), encoding="utf-8")
    return sani.load_corpus(tmp_path / "notes.jsonl"), sani.Blacklist.from_file(tmp_path / "terms.txt")


def echr(tmp_path):
    corpus = sani.load_corpus(REAL / "legal" / "echr_fr.jsonl", records=20)
    return corpus, sani.Blacklist.from_annotations(corpus)


def presidio(tmp_path):
    corpus = sani.load_corpus(REAL / "pii" / "presidio_synth_v2.json", records=400)
    return corpus, sani.Blacklist.from_annotations(corpus)


def shipped():
    return sani.load_model("tiny-bert-leaky")


def bert_base_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(REAL / "tokenizers" / "bert-base-uncased")
    return make_model(len(tokenizer), positions=128), tokenizer


def recount(corpus, blacklist):
    """Hits by one regular expression per term over the text, longest first, and what is left; annotated spans first."""
    table = blacklist.terms(reveal=True)
    patterns = []
    for row in table.itertuples():
        atoms = re.findall(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f])*|\d+|[^\w\s\-\u00ad\u00b7\u2010-\u2015]", row.term)
        while not atoms[0][0].isalnum():
            atoms.pop(0)
        while not atoms[-1][0].isalnum():
            atoms.pop()
        gap = r"[\s_\-\u00ad\u2010-\u2015]*"
        body = gap.join(re.escape(a) for a in atoms)
        before, after = (r"\d" if atom.isdigit() else r"[^\W\d_]" for atom in (atoms[0], atoms[-1]))
        pattern = re.compile(rf"(?<!{before}){body}(?!{after}|[\u0300-\u036f])", re.I)
        patterns.append((row.term_id, row.match, len(atoms), pattern))
    counts = Counter()
    for text, spans in zip(corpus["text"], corpus["identifiers"]):
        taken = np.zeros(len(text), dtype=bool)
        for span in spans:
            words = len(re.findall(r"[^\W_]+", text[span["start"] : span["end"]]))
            counts["annotated"] += max(1, -(-words // 12))  # a clause counts as several terms
            taken[span["start"] : span["end"]] = True
        found = [
            (m.end() - m.start(), -m.start(), term)
            for term, match, _, pattern in patterns
            if match == "everywhere"
            for m in pattern.finditer(text)
        ]
        for length, start, _ in sorted(found, reverse=True):
            left = ["\0" if used else c for c, used in zip(text[-start : -start + length], taken[-start:])]
            taken[-start : -start + length] = True
            counts["matched"] += sum(any(map(str.isalnum, piece)) for piece in "".join(left).split("\0"))
    return counts


@pytest.mark.parametrize("load", [mtsamples, echr, presidio])
@pytest.mark.parametrize("weights", [shipped, bert_base_tokenizer])
def test_the_main_job_and_its_counts(load, weights, tmp_path):
    corpus, blacklist = load(tmp_path)
    model, tokenizer = weights()
    blocks = sani.encode(corpus, tokenizer, blacklist, block_size=128)
    columns = {name: values.numpy() for name, values in tensors(blocks).items()}
    text = columns["record_ids"] >= 0

    # Every token of the text is there, in order, and sensitive exactly where its offsets touch a hit.
    expected_sensitive = 0
    for record, (body, spans) in enumerate(zip(corpus["text"], corpus["identifiers"])):
        encoding = tokenizer(body, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        here = columns["record_ids"] == record
        assert columns["input_ids"][here].tolist() == encoding["input_ids"]
        covered = np.zeros(len(body) + 1, dtype=bool)
        for hit in blacklist.find(body, spans):
            covered[hit.start : hit.end] = True
        slow = [covered[a:b].any() for a, b in encoding["offset_mapping"]]
        assert (columns["sensitive"][here] > 0).tolist() == slow
        expected_sensitive += sum(slow)
    assert info(blocks)["sensitive_tokens"] == expected_sensitive

    # Hits recounted by one regular expression per term; the matcher may differ where two terms of one length cross.
    counts = recount(corpus, blacklist)
    assert info(blocks)["matched"] == pytest.approx(counts.total(), rel=0.005)
    if counts["annotated"]:
        gold_units = len(np.unique(columns["unit_ids"][text & (columns["gold"] > 0)]))
        assert gold_units == pytest.approx(counts["annotated"], rel=0.01)

    # One epoch of SANI and one pass of evaluation, on a slice that a test has time for.
    part = blocks.select(range(min(len(blocks), 24)))
    clean = sani.sanitize(model, part, epochs=1, seed=0, progress=False)
    report = sani.evaluate(clean, part, base=model, progress=False)
    rows = tensors(part)
    listed = torch.unique(rows["unit_ids"][rows["sensitive"] > 0])
    table = report.counts.set_index(["metric", "kind", "spans", "context"])
    assert table.loc[("in_place", "all", "matched", "visible"), "total"] == len(listed) == len(set(listed.tolist()))
    assert table.loc[("utility_all", "none", "matched", "visible"), "total"] == int((rows["unit_ids"] >= 0).sum())
    assert table.loc[("utility", "none", "matched", "visible"), "total"] == int((rows["sensitive"] == 0).sum())
    assert 0 <= report.regurgitation <= 1 and 0 <= report.utility < 1
    clean.save_pretrained(tmp_path / "clean")
    tokenizer.save_pretrained(tmp_path / "clean")
    again, _ = sani.load_model(tmp_path / "clean")
    assert sani.evaluate(again, part, progress=False).regurgitation == report.regurgitation


def test_counterfactual_of_real_judgments_keeps_no_name():
    corpus = sani.load_corpus(REAL / "legal" / "echr_fr.jsonl", records=40)
    other = sani.counterfactual(corpus, seed=0)
    names = {
        corpus[i]["text"][s["start"] : s["end"]]
        for i in range(len(corpus))
        for s in corpus[i]["identifiers"]
        if s["type"] == "PER"
    }
    values = [row["text"][s["start"] : s["end"]] for row in other for s in row["identifiers"]]
    assert len(names) > 100 and not names & set(values)
