"""The weights that ship: whole, small, as their manifests say, and past their thresholds when measured again."""

import hashlib
from functools import cache

import pytest
from transformers import AutoModelForTokenClassification, AutoTokenizer

from sani import load_corpus, load_model
from sani.blocks import corpus_fingerprint
from sani.data.corpora import with_strangers
from sani.data.surrogates import counterfactual
from sani.models import shipped
from sani.runs import WEIGHTS
from sani.weights import build
from sani.weights.build import manifest

NAMES = list(build.RECIPES)


def test_all_that_is_built_ships_and_is_small():
    assert sorted(NAMES) == shipped()
    sizes = {name: sum(p.stat().st_size for p in (WEIGHTS / name).iterdir()) for name in NAMES}
    assert max(sizes.values()) <= 4_000_000 and sum(sizes.values()) <= 20_000_000


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_the_manifest(name):
    told = manifest(name)
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (WEIGHTS / name).iterdir()}
    files.pop("manifest.json")
    assert files == told["sha256"] and "model.safetensors" in files
    assert told["command"] == f"python -m sani.weights.build {name}"


@pytest.mark.parametrize("name", NAMES)
def test_measured_again_they_pass_their_thresholds(name):
    told = manifest(name)
    folder = WEIGHTS / name
    tagger = AutoModelForTokenClassification, AutoTokenizer
    loaded = [kind.from_pretrained(folder) for kind in tagger] if name == "tiny-ner" else load_model(name)
    measured = build.RECIPES[name].measure(*loaded)
    for figure, value in told["measured"].items():
        assert measured[figure] == pytest.approx(value, abs=0.002), figure
    for figure, (low, high) in told["thresholds"].items():
        assert low <= measured[figure] <= high, figure


def test_the_setting_meets_what_was_frozen():
    base, leaky = manifest("tiny-bert")["measured"], manifest("tiny-bert-leaky")["measured"]
    assert base["privacy_direct"] >= 0.95
    assert leaky["privacy_direct"] <= base["privacy_direct"] - 0.10
    assert leaky["utility"] >= base["utility"] + 0.03


def test_the_causal_and_the_stories_setting_meet_what_was_frozen():
    assert 0.3 <= manifest("tiny-gpt2-leaky")["measured"]["privacy"] <= 0.7
    public, leaky = manifest("tiny-bert-stories-public")["measured"], manifest("tiny-bert-stories")["measured"]
    assert public["regurgitation"] <= 0.1 and 0.15 <= leaky["regurgitation"] <= 0.6


def test_corpora_are_those_of_the_manifests():
    @cache
    def clinical(split, records):
        return load_corpus("synthetic-clinical", records=records, split=split, seed=0)

    def stories(split, records):
        return load_corpus("synthetic-stories", records=records, split=split, seed=0)

    private = clinical("private", 200)
    expected = {
        "tiny-bert": clinical("public", 4000),
        "student-bert": clinical("public", 4000),
        "student-bert-leaky": private,
        "student-bert-sani": private,
        "student-gpt2": clinical("public", 4000),
        "student-gpt2-leaky": clinical("private", 120),
        "student-gpt2-sani": clinical("private", 120),
        "tiny-bert-leaky": private,
        "tiny-bert-counterfactual": counterfactual(private, seed=0),
        "tiny-gpt2": clinical("public", 4000),
        "tiny-gpt2-leaky": clinical("private", 120),
        "tiny-bert-stories-public": stories("public", 4000),
        "tiny-bert-stories": stories("private", 300),
    }
    for name, corpus in expected.items():
        assert manifest(name)["corpus_sha256_16"] == corpus_fingerprint(corpus), name


def test_heldout_persons_were_never_trained_on():
    others = with_strangers("synthetic-clinical", build.CORPUS["records"], build.HELDOUT, build.CORPUS["seed"])[1]
    corpus, _ = build.clinical(build.CORPUS["records"])
    assert len(others) == 100 and not set(others["person_id"]) & set(corpus["person_id"])
