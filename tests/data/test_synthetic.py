"""synthetic-clinical: determinism, exact spans, disjoint splits, recurrence, and sections that agree."""

import collections
import functools
import hashlib
import json
import re
import statistics
import subprocess
import sys

import pytest

from sani.data.grammars import SPLITS, clinical

TYPES = {"PATIENT", "DOCTOR", "HOSPITAL", "ID", "DATE", "LOCATION", "PHONE", "AGE"}
GOLDEN = "6b11d691afc96c6cb00dc6dab68ccb911cb9a1441c598473e6e658626587cd80"
MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
SHAPES = {
    "PATIENT": r"[A-Z][\w']+( [A-Z][\w']+)?|[A-Z']+, [A-Z]+",
    "DOCTOR": r"[A-Z][\w']+( [A-Z][\w']+)?|[A-Z']+, [A-Z]+",
    "HOSPITAL": r"[A-Z][\w']+( [A-Z]\w+)*",
    "ID": r"\d{7}|\d{9}|[A-Z]\d{4}",
    "DATE": rf"\d{{1,2}}/\d{{1,2}}(/\d{{4}})?|({MONTH}) \d{{1,2}}(, \d{{4}})?|\d{{1,2}} ({MONTH})",
    "LOCATION": r"(\d+ )?[A-Z][\w']+( [A-Z][\w']+)*",
    "PHONE": r"\(\d{3}\) \d{3}-\d{4}|\d{3}([.-])\d{3}\1\d{4}|\d{5}",
    "AGE": r"9\d|10\d",
}


@functools.cache
def corpus(records: int = 1500, seed: int = 0, split: str = "private") -> list[dict]:
    return list(clinical.generate(records, seed, split))


def patterns() -> list[str]:
    """Every sentence pattern of the grammar."""
    data = clinical.grammar()
    blocks = list(data["patterns"].values())
    blocks += [disease[key] for disease in data["diagnoses"].values() for key in clinical.SPECIFIC]
    return [line for block in blocks for line in block]


def digest(records: list[dict]) -> str:
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def texts(record: dict, *types: str) -> list[str]:
    return [record["text"][x["start"] : x["end"]] for x in record["identifiers"] if not types or x["type"] in types]


def words(record: dict) -> set[str]:
    """The lower-cased words of a record outside its identifiers."""
    text = record["text"]
    for span in reversed(record["identifiers"]):
        text = text[: span["start"]] + " " + text[span["end"] :]
    return set(re.findall("[a-z]+", text.lower()))


def persons(records: list[dict]) -> dict[str, list[dict]]:
    found = collections.defaultdict(list)
    for record in records:
        found[record["person_id"]].append(record)
    return found


def section(text: str, key: str) -> str:
    """The body of a section, up to the next heading."""
    titles = [title for names in clinical.grammar()["headings"].values() for title in names]
    heading = "|".join(clinical.grammar()["headings"][key])
    body = re.search(rf"^(?:{heading}) ?:\s(.*?)(?=^(?:{'|'.join(titles)}) ?:|\Z)", text, re.S | re.M)
    assert body, (key, text)
    return body[1].strip()


def test_same_seed_same_records():
    assert digest(list(clinical.generate(50, 3, "public"))) == digest(corpus(50, 3, "public"))
    assert digest(corpus(50, 3, "public")) != digest(corpus(50, 4, "public"))


def test_same_records_in_a_fresh_process():
    code = "import json, sani.data.grammars.clinical as c; print(json.dumps(list(c.generate(20, 0, 'private'))))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert digest(json.loads(out)) == digest(corpus()[:20])


def test_golden_records():
    assert digest(corpus()[:20]) == GOLDEN


def test_fewer_records_are_a_prefix():
    assert list(clinical.generate(7, 0, "private")) == corpus()[:7]
    assert list(clinical.generate(300, 0, "private")) == corpus()[:300]


def test_ids_name_split_seed_and_index():
    record = corpus()[12]
    assert record["record_id"] == "private-0-00012"
    assert re.fullmatch(r"private-0-p\d{4}", record["person_id"])


@pytest.mark.parametrize("split", SPLITS)
def test_spans_are_exact(split):
    for record in corpus(split=split):
        at = 0
        for span in record["identifiers"]:
            assert span.keys() == {"start", "end", "type", "kind"} and span["kind"] == "direct"
            assert at <= span["start"] < span["end"] <= len(record["text"])
            at = span["end"]
            value = record["text"][span["start"] : span["end"]]
            assert re.fullmatch(SHAPES[span["type"]], value), (span["type"], value)


def test_all_types_occur():
    counts = collections.Counter(span["type"] for record in corpus() for span in record["identifiers"])
    assert counts.keys() == TYPES
    assert 0.03 < sum(bool(texts(record, "AGE")) for record in corpus()) / len(corpus()) < 0.12


def test_ages_below_ninety_are_no_identifiers():
    for record in corpus():
        for age in re.finditer(r"(\d+)-year-old", record["text"]):
            marked = any(x["start"] == age.start() and x["type"] == "AGE" for x in record["identifiers"])
            assert marked == (int(age[1]) >= 90)


def test_no_identifier_is_left_unmarked():
    for record in corpus():
        rest = record["text"]
        for span in reversed(record["identifiers"]):
            rest = rest[: span["start"]] + "#" + rest[span["end"] :]
        assert not re.search(rf"\d/\d+/\d|\b({MONTH})\b(?! (be|need))|\d{{5}}|\{{|\}}", rest), rest
        for name in texts(record, "PATIENT"):
            assert not re.search(rf"\b{re.escape(name)}\b", rest), (name, rest)


def test_sizes():
    lengths = [len(record["text"].split()) for record in corpus()]
    counts = [len(record["identifiers"]) for record in corpus()]
    assert 170 < statistics.mean(lengths) < 225 and min(lengths) >= 120 and max(lengths) <= 300
    assert 13 < statistics.mean(counts) < 19 and min(counts) >= 9 and max(counts) <= 28


def test_text_is_clean():
    for record in corpus():
        assert not re.search(r" [.,;]|\.\.|  |\b[Aa] [aeio8]|\n\n\n|^\s|\s$| \n", record["text"]), record["text"]


def test_patterns_are_many_and_distinct():
    assert len(set(patterns())) == len(patterns()) >= 200
    assert len(clinical.grammar()["diagnoses"]) >= 12
    assert len(clinical.grammar()["trades"]) >= 120 and len(clinical.grammar()["hobbies"]) >= 120
    assert len(clinical.grammar()["accidents"]) >= 60


def test_splits_never_share_an_identifier():
    seen = {split: set() for split in SPLITS}
    names = {split: set() for split in SPLITS}
    traits = {split: set() for split in SPLITS}
    days = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in (0, 1, 2):
            for record in corpus(500, seed, split):
                seen[split].update(text.lower() for text in texts(record))
                for name in texts(record, "PATIENT", "DOCTOR"):
                    names[split].update(re.findall(r"[\w']+", name.lower()))
                for day in texts(record, "DATE"):
                    if found := re.match(r"(\d+)/(\d+)", day):
                        days[split].add((int(found[1]), int(found[2])))
        for kind in clinical._rare(split).values():
            traits[split].update(kind[0] + kind[1])
    for values in (seen, names, traits, days):
        assert values["private"] and not values["private"] & values["public"]


def test_doctors_hospitals_and_places_recur_unevenly():
    for kind in ("DOCTOR", "HOSPITAL", "LOCATION"):
        values = [{name.split()[-1].title() for name in texts(r, kind) if "," not in name} for r in corpus()]
        counts = collections.Counter(value for found in values for value in found)
        top, median = max(counts.values()), statistics.median(counts.values())
        assert top > 2 * median and top > len(corpus()) / 20, kind


def test_persons_come_back_unchanged():
    groups = persons(corpus())
    several = [group for group in groups.values() if len(group) > 1]
    assert 0.15 < (len(corpus()) - len(groups)) / len(corpus()) < 0.35
    for group in several:
        assert len({number for r in group for number in texts(r, "ID") if len(number) == 7}) == 1
        assert len({name for r in group for name in texts(r, "PATIENT") if "," in name}) <= 1
        chronic = [section(r["text"], "admission_drugs") for r in group]
        drugs = [set(re.findall("[a-z]+", text.lower())) & chronic_drugs() for text in chronic]
        assert all(found == drugs[0] for found in drugs)


def test_ages_follow_the_dates():
    for group in persons(corpus()).values():
        ages = [int(found[1]) for r in group if (found := re.search(r"(\d+)-year-old", r["text"]))]
        years = [int(re.search(r"(?:ADMI\w+|ADMISSION)[^:]*: .*?(\d{4})$", r["text"], re.M)[1]) for r in group]
        assert ages == sorted(ages) and years == sorted(years)
        if len(ages) == len(years):
            assert all(abs((ages[-1] - ages[0]) - (years[-1] - years[0])) <= 1 for _ in ages)


def chronic_drugs() -> set[str]:
    return {drug.split()[0] for drugs in clinical.grammar()["chronic"].values() for drug in drugs}


def test_discharge_drugs_fit_the_disease():
    data = clinical.grammar()
    by_name = {name: disease for disease in data["diagnoses"].values() for name in disease["names"]}
    known = {drug for disease in by_name.values() for choice in disease["drugs"] for drug in choice}
    known |= {drug for drugs in data["chronic"].values() for drug in drugs}
    for record in corpus():
        name = re.search(r"^(?:PRINCIPAL |FINAL )?DIAGNOSIS(?: AT DISCHARGE)? ?: (.*)\.$", record["text"], re.M)[1]
        past = section(record["text"], "past").lower()
        allowed = {drug for choice in by_name[name]["drugs"] for drug in choice}
        allowed |= {drug for illness, drugs in data["chronic"].items() if illness in past for drug in drugs}
        body = section(record["text"], "discharge_drugs").lower()
        given = {drug for drug in known if drug.lower() in body}
        assert given and given <= allowed, (name, given - allowed)
        complaint = section(record["text"], "complaint").lower()
        assert any(text.lower() in complaint for text in by_name[name]["complaints"])


def test_every_section_is_there():
    for record in corpus()[:300]:
        for key in clinical.grammar()["headings"]:
            assert section(record["text"], key)


def test_names_and_dates_vary_inside_records():
    names = [len(set(texts(record, "PATIENT"))) for record in corpus()]
    assert statistics.mean(count > 1 for count in names) > 0.85
    dates = [set(re.sub(r"\d+", "0", date) for date in texts(record, "DATE")) for record in corpus()]
    assert statistics.mean(len(forms) > 1 for forms in dates) > 0.7


def test_ordinary_words_are_few_and_rare_traits_rare():
    holders = collections.defaultdict(set)
    for record in corpus():
        for word in words(record):
            holders[word].add(record["person_id"])
    rare = {word for pair in clinical._rare("private").values() for trait in sum(pair, []) for word in trait.split()}
    assert 1000 < len(holders.keys() - rare) < 1800
    traits = [trait for kind in ("trades", "hobbies") for group in clinical._rare("private")[kind] for trait in group]
    found = [len(holders[trait]) for trait in traits if trait in holders]
    assert len(found) > len(persons(corpus())) and statistics.mean(count == 1 for count in found) > 0.95
    carried = collections.Counter(person for trait in traits for person in holders.get(trait, ()))
    assert statistics.mean(carried[person] >= 2 for person in persons(corpus())) > 0.9


def test_unknown_split_and_empty_corpus_are_refused():
    with pytest.raises(ValueError, match="private, public"):
        clinical.generate(3, 0, "secret")
    with pytest.raises(ValueError, match="at least 1"):
        clinical.generate(0, 0, "private")
