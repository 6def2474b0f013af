"""synthetic-emotions: determinism, shares, cues that mislead on purpose, and how hard it is."""

import collections
import functools
import hashlib
import json
import re
import subprocess
import sys

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from sani.data.grammars import emotions
from sani.data.hub_sets import EMOTIONS

GOLDEN = "924aa7f1f8c26e746a3fea2f9a117c74cf3ce27effd9ede72b5039df536f71fa"


@functools.cache
def corpus(records: int = 3000, seed: int = 0, split: str = "private") -> list[dict]:
    return list(emotions.generate(records, seed, split))


def patterns() -> list[str]:
    return [line for block in emotions.grammar()["patterns"].values() for line in block]


def digest(records: list[dict]) -> str:
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def test_a_record_depends_on_seed_split_and_index_only():
    assert digest(corpus()[:20]) == GOLDEN
    assert list(emotions.generate(7, 0, "private")) == corpus()[:7]
    assert corpus(50, 1) != corpus(50, 0) != corpus(50, 0, "public")
    code = "import json, sani.data.grammars.emotions as e; print(json.dumps(list(e.generate(20, 0, 'private'))))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert json.loads(out) == corpus()[:20]


def test_records_are_short_plain_and_without_identifiers():
    for row in corpus():
        assert row.keys() == {"text", "record_id", "person_id", "identifiers", "label"}
        assert row["identifiers"] == [] and row["label"] in EMOTIONS
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", row["text"]) and 4 <= len(row["text"].split()) <= 35, row["text"]
        words = row["text"].split()
        assert all(one != two for one, two in zip(words, words[1:])), row["text"]
    assert len({row["record_id"] for row in corpus()}) == len(corpus())
    assert corpus()[12]["record_id"] == corpus()[12]["person_id"] == "private-0-00012"


def test_labels_have_the_shares_of_the_emotion_set():
    counts = collections.Counter(row["label"] for row in corpus())
    expected = {"joy": 0.34, "sadness": 0.29, "anger": 0.13, "fear": 0.12, "love": 0.08, "surprise": 0.04}
    assert counts.keys() == expected.keys()
    for label, share in expected.items():
        assert counts[label] / len(corpus()) == pytest.approx(share, abs=0.025)


def test_some_labels_are_wrong_on_purpose(monkeypatch):
    monkeypatch.setattr(emotions, "WRONG", 0)
    right = list(emotions.generate(3000, 0, "private"))
    assert [row["text"] for row in right] == [row["text"] for row in corpus()]
    wrong = sum(one["label"] != two["label"] for one, two in zip(right, corpus()))
    assert 0.02 < wrong / len(right) < 0.04


def test_the_grammar_is_varied():
    data = emotions.grammar()
    assert len(set(patterns())) == len(patterns()) >= 60
    feelings = [word for words in (*data["words"].values(), *data["shared"].values()) for word in words]
    assert len(set(feelings)) == len(feelings) >= 300
    causes = [cause for found in data["causes"].values() for cause in found] + data["scenes"]
    assert len(set(causes)) == len(causes) >= 150
    assert len({row["text"] for row in corpus()}) > 0.95 * len(corpus())
    used = " | ".join(row["text"] for row in corpus())
    assert sum(f" {word}" in used for word in feelings) > 0.9 * len(feelings)


def test_cues_are_shared_denied_and_turned(monkeypatch):
    """The same word stands for two emotions, and a word of one emotion stands in sentences of another."""
    monkeypatch.setattr(emotions, "WRONG", 0)
    rows = list(emotions.generate(6000, 0, "private"))

    def labels(cue):
        return {row["label"] for row in rows if f" {cue} " in f" {row['text']} "}

    data = emotions.grammar()
    for pair, words in data["shared"].items():
        for word in words:
            assert labels(word) >= set(pair.split()), word
    for word, label in (("happy", "sadness"), ("sad", "joy"), ("angry", "joy"), ("afraid", "sadness")):
        assert label in labels(word)
    assert "sadness" in labels("i dont feel happy") and "joy" in labels("i dont feel sad")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bag_of_words_is_good_but_not_perfect(seed):
    rows = corpus(3000, seed)
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    for strength in (1, 10):
        model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000, C=strength))
        predicted = model.fit(texts[:2000], labels[:2000]).predict(texts[2000:])
        assert 0.80 < f1_score(labels[2000:], predicted, average="weighted") < 0.95


def test_unknown_split_and_empty_corpus_are_refused():
    with pytest.raises(ValueError, match="private, public"):
        emotions.generate(3, 0, "secret")
    with pytest.raises(ValueError, match="at least 1"):
        emotions.generate(0, 0, "private")
