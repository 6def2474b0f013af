"""synthetic-stories: determinism, exact spans, disjoint splits, names that recur unevenly, facts that never change."""

import collections
import functools
import hashlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys

import pytest
from conftest import make_corpus

from sani import Blacklist
from sani.data.grammars import SPLITS, fits, stories

GOLDEN = "14b34862732afb52b233631fac5481136c52914009502c1e8add356c0a7b9dd2"
NUMBERS = "one two three four five six seven eight nine ten eleven twelve twenty hundred thousand dozen twice".split()
MONTHS = "january february march april june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
WORLDS = list(itertools.product(SPLITS, (0, 1, 2)))


@functools.cache
def corpus(records: int = 300, seed: int = 0, split: str = "private") -> list[dict]:
    return list(stories.generate(records, seed, split))


def patterns() -> list[str]:
    """Every sentence pattern of the grammar, titles included."""
    data = stories.grammar()
    blocks = [*data["patterns"].values(), *(plot[key] for plot in data["plots"].values() for key in stories.STAGES)]
    return [line for block in blocks for line in block]


def digest(records: list[dict]) -> str:
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def terms(record: dict, *types: str) -> list[str]:
    return [record["text"][x["start"] : x["end"]] for x in record["identifiers"] if not types or x["type"] in types]


def counts(records: list[dict], *types: str) -> collections.Counter:
    return collections.Counter(term for record in records for term in terms(record, *types))


def name_words(records: list[dict]) -> set[str]:
    return {word.lower() for record in records for term in terms(record) for word in re.findall("[A-Za-z]+", term)}


def marked(record: dict, mark: str = "{}") -> str:
    """The text with `mark` around each type and term, e.g. "<PER Ann>"."""
    text = record["text"]
    for x in reversed(record["identifiers"]):
        text = text[: x["start"]] + mark.format(x["type"], text[x["start"] : x["end"]]) + text[x["end"] :]
    return text


def outside(records: list[dict]) -> collections.Counter:
    """The lower-cased words of the records outside their names."""
    return collections.Counter(word for x in records for word in re.findall("[a-z]+", marked(x, " # ").lower()))


def test_same_seed_same_records():
    assert digest(list(stories.generate(50, 3, "public"))) == digest(corpus(50, 3, "public"))
    assert digest(corpus(50, 3, "public")) != digest(corpus(50, 4, "public"))


def test_same_records_in_a_fresh_process():
    code = "import json, sani.data.grammars.stories as s; print(json.dumps(list(s.generate(30, 0, 'private'))))"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, env=environment)
    assert digest(json.loads(done.stdout)) == digest(corpus()[:30])


def test_golden_records():
    assert digest(corpus()[:20]) == GOLDEN


def test_fewer_records_are_a_prefix():
    assert list(stories.generate(7, 0, "private")) == corpus()[:7]
    assert corpus(3000)[:300] == corpus()


def test_ids_name_split_seed_and_index():
    for index, record in enumerate(corpus()):
        assert record["record_id"] == record["person_id"] == f"private-0-{index:05d}"


@pytest.mark.parametrize(("split", "seed"), WORLDS)
def test_spans_are_exact(split, seed):
    for record in corpus(300, seed, split):
        assert record.keys() == {"text", "record_id", "person_id", "identifiers"}
        at = 0
        for span in record["identifiers"]:
            assert span.keys() == {"start", "end", "type", "kind"} and span["kind"] == "confidential"
            assert span["type"] in ("PER", "LOC", "ORG", "MISC")
            assert at <= span["start"] < span["end"] <= len(record["text"])
            at = span["end"]
            term = record["text"][span["start"] : span["end"]]
            assert re.fullmatch(r"[A-Z][a-z]+( (& )?[A-Z][a-z]+)?", term)
            assert all(len(word) <= stories.LONGEST for word in term.split())
            assert not record["text"][: span["start"]][-1:].isalnum()
            assert not record["text"][span["end"] : span["end"] + 1].isalnum()


@pytest.mark.parametrize("split", SPLITS)
def test_every_name_is_annotated_wherever_it_stands(split):
    records = corpus(3000, 0, split)
    assert not name_words(records) & outside(records).keys()
    # Capitals stand at the start of a sentence or in a title only.
    for record in records:
        title, prose = marked(record, "#").split("\n\n", 1)
        inside = re.sub(r"(?:^|(?<=[.:;?!] ))[A-Z]", "", prose, flags=re.M)
        assert not re.search("[A-Z]", inside), inside


def test_blacklist_of_the_names_finds_the_names_and_nothing_else():
    records = corpus()
    data = make_corpus([x["text"] for x in records], [x["identifiers"] for x in records])
    blacklist = Blacklist.from_annotations(data)
    assert set(blacklist.terms()["match"]) == {"everywhere"}
    for record, hits in zip(records, blacklist.find_all(data)):
        assert [(hit.start, hit.end) for hit in hits] == [(x["start"], x["end"]) for x in record["identifiers"]]


def test_splits_never_share_a_name_and_no_name_is_an_ordinary_word():
    records = {split: [x for seed in (0, 1, 2) for x in corpus(1000, seed, split)] for split in SPLITS}
    words = {split: name_words(records[split]) for split in SPLITS}
    ordinary = set(outside(records["private"] + records["public"]))
    for split in SPLITS:
        assert len(words[split]) > 400 and all(fits(word, split) for word in words[split])
        assert not words[split] & ordinary and not words[split] & stories.ordinary()
    assert not words["private"] & words["public"]
    assert ordinary <= stories.ordinary() | {"a", "an", "s", "the"}
    pools = [{x for pool in stories.names(split).values() for x in pool} for split in SPLITS]
    assert not pools[0] & pools[1] and min(map(len, pools)) > 500


@pytest.mark.parametrize(("split", "seed"), WORLDS)
def test_names_recur_from_once_to_hundreds_of_times(split, seed):
    found = counts(corpus(300, seed, split))
    assert max(found.values()) >= 200 and len(found) >= 150
    assert sum(count <= 2 for count in found.values()) >= 30
    assert sum(5 <= count <= 50 for count in found.values()) >= 50
    kinds = {kind: counts(corpus(300, seed, split), kind) for kind in ("PER", "LOC", "ORG", "MISC")}
    assert kinds["PER"].total() > kinds["LOC"].total() > kinds["ORG"].total() > 200 < kinds["MISC"].total()
    assert len(kinds["ORG"]) <= stories.ORGANISATIONS and len(kinds["MISC"]) <= sum(stories.THINGS.values())
    # A term has a single type.
    assert sum(map(len, kinds.values())) == len(found)


def test_the_top_term_of_many_books_stands_there_thousands_of_times():
    found = counts(corpus(3000))
    assert max(found.values()) >= 2000 and sum(count <= 2 for count in found.values()) >= 300


def test_most_books_mention_a_name_that_hardly_occurs_elsewhere():
    found = counts(corpus())
    rare = [sum(found[term] <= 2 for term in set(terms(record))) for record in corpus()]
    assert statistics.mean(count > 0 for count in rare) > 0.5 and max(rare) <= 5


def test_persons_go_by_first_name_family_name_or_both():
    first = {name for sex in "MF" for name in stories.names("private")[sex]}
    found = counts(corpus(1500), "PER")
    shares = collections.Counter()
    for term, count in found.items():
        shares["full" if " " in term else "first" if term in first else "family"] += count / found.total()
    assert shares == pytest.approx({"first": 0.6, "family": 0.3, "full": 0.1}, abs=0.04)


@pytest.mark.parametrize(("split", "seed"), WORLDS)
def test_facts_are_the_same_in_every_book(split, seed):
    """What the texts say of a name, read back by rules of our own, is a single thing over all books."""
    name, place, org, thing = "<PER ([^>]+)>", "<LOC ([^>]+)>", "<ORG ([^>]+)>", "<MISC ([^>]+)>"
    told = {
        "trade and home": rf"{name}, the ([a-z ]+) of {place}",
        "trade": rf"{name} of <LOC [^>]+> was an? ([a-z ]+) by trade",
        "home of a trade": rf"[Tt]he ([a-z ]+) of {place} was called",
        "seat": rf"{org} in {place}",
        "pressed in": rf"{thing}, which was printed in {place}",
        "festival": rf"{thing} was held in {place} every (\w+)",
        "goods": rf"[Tt]he ([a-z]+) was {thing}",
        "habit": rf"Of all the people in <LOC [^>]+>, only {name} ([a-z ]+)",
    }
    seen = {fact: collections.defaultdict(set) for fact in told}
    for record in corpus(3000, seed, split):
        text = marked(record, "<{} {}>")
        for fact, pattern in told.items():
            for match in re.finditer(pattern, text):
                key, *values = match.groups()
                seen[fact][key].add(tuple(values))
    for fact, values in seen.items():
        assert values and all(len(found) == 1 for found in values.values()), fact
    assert len(seen["trade and home"]) > 60 and len(seen["seat"]) > 8
    trades = [found for (found,) in seen["trade and home"].values()]
    # At most the first, family and full name of a character share a trade and home.
    assert max(collections.Counter(trades).values()) <= 3 and len(set(trades)) > 30


def test_worlds_differ_by_seed_and_split():
    tops = [counts(corpus(300, seed, split), "PER").most_common(1)[0][0] for split, seed in WORLDS]
    assert len(set(tops)) > 3


@pytest.mark.parametrize("split", SPLITS)
def test_sizes(split):
    records = corpus(3000, 0, split)
    proses = [record["text"].split("\n\n")[1:] for record in records]
    lengths = [len(" ".join(paragraphs).split()) for paragraphs in proses]
    assert min(lengths) >= 110 and max(lengths) <= 170 and 130 < statistics.mean(lengths) < 155
    assert {len(paragraphs) for paragraphs in proses} == {2, 3, 4}
    assert 15 < statistics.mean(len(record["identifiers"]) for record in records) < 25
    assert max(len(record["text"].split("\n")[0].split()) for record in records) <= 10
    titled = [record["identifiers"][0]["end"] <= record["text"].index("\n") for record in records]
    assert 0.4 < statistics.mean(titled) < 0.9


@pytest.mark.parametrize("split", SPLITS)
def test_text_is_clean(split):
    for record in corpus(3000, 0, split):
        text = record["text"]
        assert not re.search(r"[{}\[\]<>*_\d]| [.,;:]|\.\.|  |,,|\n\n\n|^\s|\s$| \n|[^.\n]\n\n.*[^.]$", text), text
        assert not re.search(r"\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]|\b(\w+) \1\b", text), text
        assert all(re.match(r"[A-Z]", sentence) for sentence in re.split(r"(?<=\.) |\n\n", text)), text


def test_no_numbers_and_no_dates():
    words = outside(corpus(3000))
    assert not words.keys() & {*NUMBERS, *MONTHS, *DAYS}


def test_pronouns_follow_the_name_they_stand_for():
    for line in patterns():
        for match in re.finditer(r"\{(?:(\w+):)?(he|his|him|self)\}", line):
            name = rf"\{{({match[1] or 'hero|subject'})\}}"
            assert re.search(name, line[: match.start()], re.I), line
        assert "{Subject}" not in line[1:], line


def test_pronouns_agree_with_the_first_name():
    """Where a book's only person is the hero, no pronoun of the other sex occurs."""
    female, male = (set(stories.names("private")[sex]) for sex in "FM")
    checked = 0
    for record in corpus(3000):
        for paragraph in marked(record, "<{} {}>").split("\n\n")[1:]:
            people = {name.split()[0] for name in re.findall("<PER ([^>]+)>", paragraph)}
            words = set(re.findall("[a-z]+", re.sub("<[^>]+>", "", paragraph).lower()))
            if people <= female:
                checked += bool(words & {"she", "her"})
                assert not words & {"he", "his", "him", "himself"}, paragraph
            if people <= male:
                checked += bool(words & {"he", "his", "him"})
                assert not words & {"she", "herself"}, paragraph
    assert checked > 1000


def test_patterns_are_many_and_distinct():
    assert len(set(patterns())) == len(patterns()) >= 120
    sentences = collections.Counter()
    for record in corpus(1500):
        sentences.update(re.split(r"(?<=\.) |\n\n", marked(record, "#"))[1:])
    assert len(sentences) > 5000


def test_every_pattern_and_word_list_is_used():
    data = stories.grammar()
    slots = {slot.lower() for line in patterns() for slot in re.findall(r"\{(\w+)", line)}
    assert set(data["words"]) <= slots
    for kind in ("trades", "possessions", "habits"):
        assert len(set(data[kind])) == len(data[kind]) >= stories.CHARACTERS
    assert {plot["mood"] for plot in data["plots"].values()} <= set(data["patterns"])


def test_ordinary_words_are_few_and_hold_feelings():
    words = outside(corpus(3000))
    assert 1000 < len(words) < 1600
    for feeling in "happy glad proud sad lonely miserable angry furious afraid anxious scared love loved".split():
        assert words[feeling] > 5, feeling
    for feeling in "surprised amazed joy fear anger sadness surprise tears hated laughed cried gentle grateful".split():
        assert words[feeling] > 5, feeling


def test_unknown_split_and_empty_corpus_are_refused():
    with pytest.raises(ValueError, match="private, public"):
        stories.generate(3, 0, "secret")
    with pytest.raises(ValueError, match="at least 1"):
        stories.generate(0, 0, "private")
