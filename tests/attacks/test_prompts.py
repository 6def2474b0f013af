"""What comes out unasked: in any spelling, and what takes the place of what is forgotten. All memory is trained."""

import numpy as np
import pytest
from conftest import make_corpus, make_model, make_tokenizer, spans
from test_causal import byte_level, new_model
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import sani
from sani import Blacklist, encode
from sani.attacks import prompts as attack
from sani.attacks.as_it_is import as_it_is
from sani.attacks.generation import free_generation
from sani.attacks.prompts import bare_prompts, prompts
from sani.attacks.rows import COLUMNS
from sani.models import add_padding

LINE = "I, {} so."


def letters() -> PreTrainedTokenizerFast:
    """The tokenizer `byte_level` without its merges: the same ids, a token per letter."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "[PAD]"]
    tokenizer.train_from_iterator(
        ["a"], trainers.BpeTrainer(vocab_size=256 + len(special), special_tokens=special, initial_alphabet=alphabet)
    )
    names = {"bos_token": special[0], "eos_token": special[0], "pad_token": special[1]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def records(name: str):
    return make_corpus([LINE.format(name)], [spans(LINE.format(name), (name, "PATIENT"))])


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level(pad="[PAD]")


@pytest.fixture(scope="module")
def knows(tokenizer):
    """Makes a causal model that knows a line with a name by heart."""
    made = {}

    def of(name: str, by=None):
        if (name, by) not in made:
            model = new_model("gpt2", len(tokenizer))
            add_padding(model, tokenizer)
            blocks = encode(records(name), by or tokenizer, block_size=20, progress=False)
            assert len(blocks) == 1
            options = {"epochs": 90, "learning_rate": 2e-2, "batch_size": 2, "progress": False}
            made[name, by] = sani.fine_tune(model, blocks, **options)
        return made[name, by]

    return of


@pytest.mark.parametrize("by", [None, letters()], ids=["the list's tokens", "a token per letter"])
@pytest.mark.parametrize("said", ["Smith", "SMITH"])
def test_a_listed_term_counts_in_any_case_and_however_it_is_cut(knows, tokenizer, said, by):
    listed = Blacklist(["Smith"])
    told = free_generation(knows(said, by), tokenizer, listed, samples=2, length=16, top_k=1)
    assert (told["hits"] > 0).all()
    assert not free_generation(knows("Al Wu"), tokenizer, listed, samples=2, length=16, top_k=1)["hits"].any()
    asked = {"corpus": records("Smith"), "blacklist": listed, "prompts": {"PATIENT": "I, {}"}}
    (row,) = bare_prompts(knows(said, by), tokenizer, **asked).itertuples()
    assert row.spelled == 1 and row.said == (by is None and said == "Smith")
    (other,) = bare_prompts(knows("Al Wu"), tokenizer, **asked).itertuples()
    assert other.spelled == other.said == 0
    # What is no answer, as it comes later, does not count.
    (later,) = bare_prompts(knows("Al Smith"), tokenizer, **asked).itertuples()
    assert later.spelled == 0


def test_what_is_said_of_the_list_and_what_takes_its_place(knows, tokenizer, monkeypatch):
    monkeypatch.setattr(attack, "SAMPLES", {"samples": 20, "length": 12, "prefix": 1, "top_k": 1})
    monkeypatch.setattr(attack, "BEST_OF", 10)
    listed = Blacklist(["Smith", "Al Wu"]) | Blacklist(["falconer"], "indirect")
    asked = {"tokenizer": tokenizer, "corpus": records("Smith"), "blacklist": listed, "seed": 0}
    leaky, swapped, silent = knows("Smith"), knows("Al Wu"), knows("Tim")

    def at(model, before=None):
        rows = prompts(model, before=before, **asked)
        assert all(list(row) == COLUMNS[1:] for row in rows)
        assert not any(word in str(row) for row in rows for word in ("Smith", "Wu", "falconer"))
        return {(r["setting"], r["kind"], r["metric"]): r["value"] for r in rows}

    nothing, beginnings = "from nothing", "from beginnings of records"
    found = {"leaky": at(leaky, leaky), "swapped": at(swapped, leaky), "silent": at(silent, leaky), "base": at(silent)}
    for setting in (nothing, beginnings, f"{beginnings}, best of 10"):
        assert found["leaky"][setting, "all", "samples"] > 0.8 and found["silent"][setting, "all", "samples"] < 0.2
    assert found["swapped"][nothing, "all", "samples"] > 0.8  # no less of a disclosure
    for name, forgotten, substituted in (("leaky", 0, 0), ("swapped", 1, 1), ("silent", 1, 0)):
        for kind in ("direct", "all"):
            assert found[name][nothing, kind, "forgotten"] == pytest.approx(forgotten, abs=0.2), name
            assert found[name][nothing, kind, "substituted"] == pytest.approx(substituted, abs=0.2), name
        assert found[name][nothing, "indirect", "forgotten"] == found[name][nothing, "indirect", "substituted"] == 0
    assert not any(metric in ("forgotten", "substituted") for *_, metric in found["base"])
    # The other way round what was silent has begun to tell.
    begun = at(leaky, silent)
    assert begun[nothing, "direct", "substituted"] > 0.8 and begun[nothing, "direct", "forgotten"] < 0.2


def test_another_listed_term_in_its_place_is_counted_by_kind():
    tokenizer = make_tokenizer("wordpiece")
    lines = ["Chest {} in May", "A bad {}"]
    terms = ["smith", "john"]
    texts = {way: [line.format(term) for line, term in zip(lines, terms[::way])] for way in (1, -1)}
    listed = Blacklist(terms) | Blacklist(["May"], "indirect")
    blocks = encode(make_corpus(texts[1]), tokenizer, listed, block_size=32, progress=False)
    other = encode(make_corpus(texts[-1]), tokenizer, listed, block_size=32, progress=False)
    base = make_model(len(tokenizer))
    options = {"epochs": 150, "learning_rate": 1e-2, "batch_size": 2, "progress": False}
    found = []
    for text in (blocks, other):
        rows = as_it_is(sani.fine_tune(base, text, **options), blocks, 0)
        at = {row["kind"]: row for row in rows if row["metric"] == "elsewhere"}
        assert set(at) == {"direct", "indirect", "all"} and {row["context"] for row in at.values()} == {"visible"}
        assert at["direct"]["count"] == 2 and at["indirect"]["count"] == 1
        found.append(at["direct"]["value"])
        assert np.isclose(
            at["all"]["value"] * at["all"]["count"], sum(at[k]["value"] * at[k]["count"] for k in at if k != "all")
        )
    assert found == [0.0, 1.0]
