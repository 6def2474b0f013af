"""One person's request of erasure: what is listed of whom, and that no person_id is told."""

import hypothesis.strategies as st
import pytest
from conftest import make_corpus, spans
from hypothesis import given, settings

import sani
from sani.text.matching import WORD, fold

TEXTS = [
    "John Smith, a falconer of Ely, saw Dr. Jane Gray at St Mary Hospital in May.",
    "Smith returned in May to Dr. Gray with gout.",
    "Paul Brown of Ely saw Dr. Gray with gout at St Mary Hospital in June.",
]
FOUND = [
    spans(TEXTS[0], ("John Smith", "PATIENT"), ("Jane Gray", "DOCTOR")),
    spans(TEXTS[1], ("Smith", "PATIENT"), ("Gray", "DOCTOR")),
    spans(TEXTS[2], ("Paul Brown", "PATIENT"), ("Gray", "DOCTOR")),
]
for i in (0, 2):
    FOUND[i] += spans(TEXTS[i], ("Ely", "CITY"), kind="indirect")
PERSONS = ["Smith, Johannes", "Smith, Johannes", "Brown, Paulus"]


@pytest.fixture
def corpus():
    return make_corpus(TEXTS, FOUND, PERSONS)


def listed(blacklist, kind):
    table = blacklist.terms(reveal=True)
    return set(table["term"][table["kind"] == kind])


def test_what_is_of_one_person_by_hand(corpus):
    mine = sani.Blacklist.for_person(corpus, "Smith, Johannes")
    assert listed(mine, "direct") == {"John Smith", "Smith", "Jane Gray", "Gray"}
    # Not what Brown's record has too: Ely, gout, Hospital; nor words of one letter.
    assert listed(mine, "indirect") == {"falconer", "May", "returned", "to"}
    his = sani.Blacklist.for_person(corpus, "Brown, Paulus")
    assert listed(his, "direct") == {"Paul Brown", "Gray"} and listed(his, "indirect") == {"June"}
    assert listed(sani.Blacklist.for_person(corpus, "Smith, Johannes", types=["PATIENT"]), "direct") == {
        "John Smith",
        "Smith",
    }
    plain = sani.Blacklist.for_person(corpus, "Smith, Johannes", rare=False)
    assert listed(plain, "direct") == listed(mine, "direct") and not listed(plain, "indirect")


def test_without_annotations_rare_words_are_listed():
    blacklist = sani.Blacklist.for_person(make_corpus(["a falcon flew", "a hawk flew"], None, ["one", "two"]), "one")
    assert listed(blacklist, "indirect") == {"falcon"} and len(blacklist) == 1


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from("red blue green gold".split()), min_size=1)),
                min_size=2, max_size=6))  # fmt: skip
def test_a_rare_word_stands_in_no_record_of_another(records):
    persons, texts = [p for p, _ in records], [" ".join(words) for _, words in records]
    own = {fold(w) for p, t in zip(persons, texts) if p == persons[0] for w in WORD.findall(t)}
    others = {fold(w) for p, t in zip(persons, texts) if p != persons[0] for w in WORD.findall(t)}
    try:
        found = listed(sani.Blacklist.for_person(make_corpus(texts, None, persons), persons[0]), "indirect")
    except ValueError:
        found = set() if others else own - others
        assert not found or not others
        return
    assert found == own - others


def test_refusals_do_not_tell_who_was_asked_for(corpus):
    for options, message in (
        ({"person_id": "Smith, Johanna"}, "none of the 3 records is of that person_id"),
        ({"person_id": 3}, "person_id must be a text, not 3"),
        ({"person_id": "Smith, Johannes", "types": ["PHONE"]}, "no identifiers of type"),
    ):
        with pytest.raises((TypeError, ValueError), match=message) as raised:
            sani.Blacklist.for_person(corpus, **options)
        assert "Johann" not in str(raised.value)
    with pytest.raises(ValueError, match="no other person"):
        sani.Blacklist.for_person(corpus.select([0, 1]), "Smith, Johannes")
    with pytest.raises(ValueError, match="nothing of that person is annotated"):
        sani.Blacklist.for_person(make_corpus(["a b", "a b c"], None, ["one", "two"]), "one")


def test_a_person_id_is_in_no_file_and_no_message(corpus, home, capfd):
    """It may be a name. What a run writes, prints and raises holds none, nor does the folder of its blocks."""
    model, tokenizer = sani.load_model("tiny-bert")
    blacklist = sani.Blacklist.for_person(corpus, "Smith, Johannes")
    blocks = sani.encode(corpus, tokenizer, blacklist, block_size=32)
    options = {"epochs": 1, "batch_size": 2, "progress": False}
    leaky = sani.fine_tune(model, blocks, run_dir=home / "runs" / "leaky", **options)
    clean = sani.sanitize(leaky, blocks, run_dir=home / "runs" / "clean", **options)
    report = sani.evaluate(clean, blocks, progress=False)
    with pytest.raises(ValueError, match="longer than a row") as raised:
        sani.encode(corpus, tokenizer, sani.Blacklist([TEXTS[0]]), block_size=8)
    said = (
        "".join(capfd.readouterr()) + str(raised.value) + report.counts.to_csv() + report.units.to_csv() + repr(blocks)
    )
    assert "Johannes" not in said and "Paulus" not in said
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert b"Johannes" not in path.read_bytes() and "Johannes" not in str(path), path.name
