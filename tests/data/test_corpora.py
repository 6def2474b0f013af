"""Corpora: every format round trip, the errors, pseudonyms and counterfactuals."""

import csv
import datetime
import json
import os
import re
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from xml.sax.saxutils import escape, quoteattr

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sani import Blacklist
from sani.data.corpora import FEATURES, SOURCES, load_corpus, with_strangers
from sani.data.entities import annotate, capitalized, find_entities, read_spans
from sani.data.grammars import emotions, stories
from sani.data.hub_sets import BOOK_WORDS, EMOTIONS, cut_book
from sani.data.readers import read_n2c2
from sani.data.surrogates import GENERIC, MONTH, counterfactual, pseudonymize

DATA = Path(__file__).parents[1] / "files"
REAL = os.environ.get("SANI_REAL_DATA")
real = pytest.mark.skipif(not REAL, reason="SANI_REAL_DATA is not set: tests on real data are skipped")
SECRET = "Zanzibarius"
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def spans(row):
    return [tuple(span[key] for key in ("start", "end", "type", "kind")) for span in row["identifiers"]]


def values(row):
    return [row["text"][span["start"] : span["end"]] for span in row["identifiers"]]


def outside(row):
    parts, done = [], 0
    for span in row["identifiers"]:
        parts.append(row["text"][done : span["start"]])
        done = span["end"]
    return [*parts, row["text"][done:]]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(path, *rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def corpus(*rows):
    """Rows of (text with [[TYPE:value]] marks)."""
    out = []
    for n, marked in enumerate(rows):
        text, found = "", []
        for piece in re.split(r"(\[\[\w+:.*?\]\])", marked):
            if mark := re.fullmatch(r"\[\[(\w+):(.*)\]\]", piece):
                found.append({"start": len(text), "end": len(text) + len(mark[2]), "type": mark[1], "kind": "direct"})
                piece = mark[2]
            text += piece
        out.append({"text": text, "record_id": f"r{n}", "person_id": f"p{n}", "identifiers": found})
    return Dataset.from_list(out, features=FEATURES)


# Formats


def test_n2c2_fixture():
    one, two = load_corpus("n2c2-2006", folder=DATA / "n2c2.xml")
    assert (one["record_id"], one["person_id"], two["record_id"]) == ("801", "801", "802")
    assert values(one) == ["03/14", "Harborview General", "Élise Vann", "Tobias Quill", "71"]
    assert [span["type"] for span in one["identifiers"]] == ["DATE", "HOSPITAL", "DOCTOR", "PATIENT", "AGE"]
    assert {span["kind"] for span in one["identifiers"]} == {"direct"}
    assert "Dr.  Élise Vann  & team; pain 3 < 5 😀 for\nTobias Quill (71).\n" in one["text"]
    assert two["text"] == "No names are mentioned here." and two["identifiers"] == []


def test_n2c2_folder_and_prefix(tmp_path):
    for name in "ba":
        write(
            tmp_path / f"{name}.xml",
            "<ROOT>" + "".join(f'<RECORD ID="{name}{n}"><TEXT>text {n}</TEXT></RECORD>' for n in range(3)) + "</ROOT>",
        )
    assert load_corpus("n2c2-2006", folder=tmp_path, records=4)["record_id"] == ["a0", "a1", "a2", "b0"]


def n2c2(records):
    return (
        "<ROOT>" + "".join(f"<RECORD ID='{i}'><TEXT>{text}</TEXT></RECORD>" for i, text in records.items()) + "</ROOT>"
    )


def test_a_whole_n2c2_folder_loads_each_record_once(tmp_path):
    """Train, test and ground truth: the last two share ids, and the truth is the annotated one, whatever the order."""
    truth = {"7": "Seen by <PHI TYPE='DOCTOR'>Vann</PHI>.", "8": "No name."}
    plain = {i: re.sub("<[^>]*>", "", text) for i, text in truth.items()}
    for name, records in (("c_train", {"1": "<PHI TYPE='AGE'>71</PHI>"}), ("a_test", plain), ("b_truth", truth)):
        write(tmp_path / f"{name}.xml", n2c2(records))
    rows = load_corpus("n2c2-2006", folder=tmp_path)
    assert rows["record_id"] == ["7", "8", "1"] and [len(spans) for spans in rows["identifiers"]] == [1, 0, 1]
    (tmp_path / "a_test.xml").rename(tmp_path / "d_test.xml")
    assert {row["record_id"]: len(row["identifiers"]) for row in load_corpus("n2c2-2006", folder=tmp_path)} == {
        "7": 1, "8": 0, "1": 1,
    }  # fmt: skip
    for other in ({"7": "Seen by Hill."}, {"7": "Seen by <PHI TYPE='PATIENT'>Vann</PHI>."}):
        write(tmp_path / "e.xml", n2c2(other))
        with pytest.raises(ValueError, match="e.xml, record 1: record_id '7' occurs twice, with another text or other"):
            load_corpus("n2c2-2006", folder=tmp_path)


def test_a_home_of_nobody_is_named():
    for name in ("~nobody-of-this-name/x", "~nobody-of-this-name/x.jsonl"):
        with pytest.raises(ValueError, match="home folder of no known user"):
            load_corpus(name)


def test_a_file_of_the_benchmark_names_its_call(tmp_path):
    (tmp_path / "echr_dev.json").write_bytes((DATA / "tab.json").read_bytes())
    for path in (tmp_path / "echr_dev.json", tmp_path):
        with pytest.raises(ValueError, match=r"Text Anonymization Benchmark use load_corpus\('tab', folder=…\)"):
            load_corpus(path)


def test_n2c2_is_streamed_and_deep_nesting_is_no_problem(tmp_path):
    path = tmp_path / "big.xml"
    with path.open("w") as out:
        out.write("<ROOT>")
        for n in range(3000):
            out.write(f'<RECORD ID="{n}"><TEXT>{"word " * 40}</TEXT>{"<S><T>x</T></S>" * 40}</RECORD>\n')
        out.write("</ROOT>")
    tracemalloc.start()
    assert sum(1 for _ in read_n2c2(path)) == 3000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 < path.stat().st_size
    deep = write(tmp_path / "deep.xml", f"<R><RECORD ID='1'><TEXT>{'<B>' * 5000}x{'</B>' * 5000}y</TEXT></RECORD></R>")
    assert load_corpus("n2c2-2006", folder=deep)["text"] == ["xy"]


def test_tab_fixture():
    one, two = load_corpus("tab", folder=DATA / "tab.json")
    assert one["record_id"] == "case-1" and two["identifiers"] == []
    assert list(zip(values(one), [span[3] for span in spans(one)])) == [
        ("Ülkü Demir", "direct"),
        ("4711/02", "direct"),
        ("born in 1965", "indirect"),
        ("Lake Town", "indirect"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "Ann 😀 Bö", "record_id": "x", "person_id": 7, "identifiers": [{"start": 6, "end": 8, "type": "PER"}]},
        {
            "full_text": "Ann 😀 Bö",
            "doc_id": "x",
            "person_id": "7",
            "spans": [{"entity_type": "PER", "entity_value": "Bö", "start_position": 6, "end_position": 8}],
        },
        {"id": "x", "person_id": "7", "text": "Ann 😀 Bö", "label": [[6, 8, "PER"]]},
        {
            "id": "x",
            "person_id": "7",
            "text": "Ann 😀 Bö",
            "entities": [{"id": 1, "label": "PER", "start_offset": 5, "end_offset": 8}],
        },
        {
            "id": "x",
            "person_id": "7",
            "text": "Ann 😀 Bö",
            "label": [{"start": 6, "end": 8, "text": "Bö", "labels": ["PER"]}],
        },
        {
            "id": "x",
            "person_id": "7",
            "data": {"text": "Ann 😀 Bö"},
            "annotations": [{"result": [{"value": {"start": 6, "end": 8, "labels": ["PER"]}}] * 2}],
        },
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_dialects(tmp_path, row, suffix):
    path = write(tmp_path / f"a{suffix}", json.dumps(row))
    (got,) = load_corpus(path)
    assert got == {
        "text": "Ann 😀 Bö",
        "record_id": "x",
        "person_id": "7",
        "identifiers": [{"start": 6, "end": 8, "type": "PER", "kind": "direct"}],
    }


def test_kinds_and_defaults(tmp_path):
    path = jsonl(
        tmp_path / "a.jsonl",
        {
            "text": "abc",
            "id": 0,
            "spans": [
                {"start": 0, "end": 1, "type": "A", "kind": "indirect"},
                {"start": 1, "end": 2, "type": "B"},
                {"start": 2, "end": 3, "type": "C", "kind": ""},
            ],
        },
        {"text": "d", "label": "joy"},
    )
    one, two = load_corpus(path, default_kind="confidential")
    assert [span[3] for span in spans(one)] == ["indirect", "confidential", ""]
    assert one["record_id"] == "0" and two["record_id"] == "a-2" == two["person_id"]
    assert load_corpus(path).features == FEATURES


def test_folder_txt_with_standoff_bom_crlf(tmp_path):
    write(tmp_path / "b.txt", b"\xef\xbb\xbfDr\r\nK\xc3\xa9l \xf0\x9f\x98\x80 Zed\r\n")
    write(tmp_path / "b.json", json.dumps([{"start": 4, "end": 7, "type": "PER"}, [10, 13, "PER"]]))
    write(tmp_path / "a.txt", "Ann and Bo")
    write(tmp_path / "a.ann", "T1\tPER 0 3;8 10\tAnn Bo\nR1\trel Arg1:T1\n")
    write(tmp_path / "c.csv", '﻿text,record_id\r\n"x\r\n""y"" ' + "long " * 40_000 + '",c1\r\n')
    write(tmp_path / "notes.md", "ignored")
    one, two, three = load_corpus(tmp_path)
    assert [one["record_id"], two["record_id"], three["record_id"]] == ["a", "b", "c1"]
    assert values(one) == ["Ann", "Bo"] and values(two) == ["Kél", "Zed"]
    assert two["text"] == "Dr\r\nKél 😀 Zed\r\n" and three["text"].startswith('x\r\n"y" long')
    assert load_corpus(tmp_path, records=2)["record_id"] == ["a", "b"]


def test_offsets_of_brat_are_held_against_its_copy_of_the_text(tmp_path):
    """Of a file with \\r\\n, tools count a line end as two characters or as one; neither shifts a span."""
    text = "Dr Lee\r\nsaw\r\nBob Stone"
    for offsets in ("13 22", "11 20", "13 16;17 22", "11 14;15 20"):
        write(tmp_path / "a.txt", text)
        write(tmp_path / "a.ann", f"T1\tPER 3 6\tLee\r\nT2\tPER {offsets}\tBob Stone\r\n")
        (row,) = load_corpus(tmp_path)
        assert " ".join(values(row)) == "Lee Bob Stone" and row["text"].split() == text.split()
    for wrong in ("T1\tPER 12 21\tBob Stone", "T1\tPER 13 20\tBob Stone", "T1\tPER 3 6\tLeo"):
        write(tmp_path / "a.ann", f"#1\tnote\n{wrong}\n")
        with pytest.raises(ValueError, match=r"a\.ann, line 2: another text at these offsets") as caught:
            load_corpus(tmp_path)
        assert "Bob" not in str(caught.value)


def test_a_folder_is_read_whole_or_refused(tmp_path):
    write(tmp_path / "a.txt", "Ann was here")
    for folder in (".hidden", "pictures"):
        (tmp_path / folder).mkdir()
    for name in (".hidden/b.txt", ".c.txt", "pictures/b.png"):
        write(tmp_path / name, "x")
    assert load_corpus(tmp_path)["record_id"] == ["a"]
    for standoff in (
        {"text": "Bob", "spans": []},
        {"made": 2024},
        [{"text": "Bob"}],
        [{"full_text": "B", "spans": []}],
    ):
        write(tmp_path / "a.json", json.dumps(standoff))
        with pytest.raises(ValueError, match=r"a\.json: no spans, or not those of a\.txt"):
            load_corpus(tmp_path)
    write(tmp_path / "a.json", json.dumps({"text": "Ann was here", "spans": [[0, 3, "PER"]]}))
    assert values(load_corpus(tmp_path)[0]) == ["Ann"]
    write(tmp_path / "a.ann", "T1\tPER 0 3\tAnn\n")
    with pytest.raises(ValueError, match=r"a\.json: .* no \.ann; rename"):
        load_corpus(tmp_path)
    (tmp_path / "ward" / "one").mkdir(parents=True)
    write(tmp_path / "ward" / "one" / "d.csv", "text\nx\n")
    with pytest.raises(ValueError, match="files lie in its folders ward too; load one folder at a time"):
        load_corpus(tmp_path)
    (tmp_path / "xml").mkdir()
    write(tmp_path / "xml" / "a.xml", "<ROOT/>")
    with pytest.raises(
        ValueError, match=r"no \.jsonl.* file in this folder; for n2c2 XML use load_corpus\('n2c2-2006'"
    ):
        load_corpus(tmp_path / "xml")
    for path in ("/dev/null", "/dev/zero"):
        with pytest.raises(ValueError, match=r"not a \.jsonl, .* file"):
            load_corpus(path)


def test_home_is_spelt_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    jsonl(tmp_path / "a.jsonl", {"text": "one", "id": "r0"})
    assert load_corpus("~/a.jsonl")["text"] == ["one"]
    jsonl(tmp_path / "spans.jsonl", {"id": "r0", "spans": [[0, 3, "PER"]]})
    assert read_spans("~/spans.jsonl", load_corpus("~/a.jsonl"))[0][0]["end"] == 3


def test_cancelled_annotations_of_label_studio_are_none(tmp_path):
    one, two = ({"result": [{"value": {"start": s, "end": s + 3, "labels": ["PER"]}}]} for s in (0, 2))
    task = {"data": {"text": "Ann Lee"}, "annotations": [two | {"was_cancelled": True}, one | {"was_cancelled": False}]}
    assert values(load_corpus(jsonl(tmp_path / "a.jsonl", task))[0]) == ["Ann"]


def test_spans_in_several_columns(tmp_path):
    """An empty column hides no other; the labels of a text classifier are no spans; two that differ are refused."""
    found = [[0, 3, "PER"]]
    for row in (
        {"identifiers": [], "spans": found}, {"spans": found, "identifiers": found}, {"ents": found, "entities": None},
        {"spans": found, "labels": ["joy", "fear"]}, {"annotations": "", "label": found},
    ):  # fmt: skip
        assert values(load_corpus(jsonl(tmp_path / "a.jsonl", {"text": "Ann Lee", **row}))[0]) == ["Ann"]
        assert len(read_spans([row], corpus("Ann Lee"))[0]) == 1
    both = {"text": "Ann Lee", "spans": found, "entities": [[4, 7, "PER"]]}
    with pytest.raises(ValueError, match="line 1: different spans in the columns spans, entities; keep one"):
        load_corpus(jsonl(tmp_path / "a.jsonl", both))


def test_text_column_and_line_separator_in_json(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"note": "one\u2028two"}\n\n{"note": "three"}\r\n')
    assert load_corpus(path, text_column="note")["text"] == ["one\u2028two", "three"]


def test_synthetic_clinical():
    five = load_corpus("synthetic-clinical", records=5, seed=3)
    assert five.features == FEATURES and len(five) == 5
    assert load_corpus("synthetic-clinical", records=3, seed=3).to_list() == five.to_list()[:3]


@pytest.mark.parametrize("name, grammar", [("stories", stories), ("emotions", emotions)])
def test_the_other_synthetic_corpora(name, grammar):
    for split in ("private", "public"):
        rows = load_corpus(f"synthetic-{name}", records=5, seed=3, split=split)
        raw = list(grammar.generate(5, 3, split))
        assert rows["text"] == [row["text"] for row in raw] and len(rows) == 5
        assert [spans(row) for row in rows] == [spans(row) for row in raw]
        assert load_corpus(f"synthetic-{name}", records=3, seed=3, split=split).to_list() == rows.to_list()[:3]
    assert load_corpus(f"synthetic-{name}", records=5, seed=3).to_list() != rows.to_list()
    assert len(load_corpus(f"synthetic-{name}")) == {"stories": 300, "emotions": 2000}[name]


@pytest.mark.parametrize("name, heldout", [("clinical", 6), ("clinical", 0), ("emotions", 6)])
def test_strangers_are_later_records_of_persons_unseen(name, heldout):
    corpus, strangers, again = with_strangers(f"synthetic-{name}", 30, heldout, seed=4)
    stream = load_corpus(f"synthetic-{name}", records=60 + 2 * heldout, seed=4).to_list()
    seen = {row["person_id"] for row in stream[:30]}
    assert corpus.to_list() == stream[:30]
    assert strangers.to_list() == [row for row in stream[30:] if row["person_id"] not in seen][:heldout]
    assert len(strangers) == heldout and strangers.features == corpus.features
    later = [row for row in stream[30:] if row["person_id"] in seen]
    assert again.to_list() == later if name == "clinical" else again is None
    assert bool(later) == (name == "clinical")


# Emotions

LABELLED = Features({**FEATURES, "label": Value("string")})
EMOTION_ROWS = [("i feel fine; really", "joy"), ("i feel 😀 blue", "sadness"), ("i feel odd", "surprise")]


def emotion_file(folder, suffix, stem="train"):
    path = folder / f"{stem}.{suffix}"
    numbered = [{"text": text, "label": EMOTIONS.index(label)} for text, label in EMOTION_ROWS]
    if suffix == "txt":
        lines = "".join(f"{text};{label}\r\n" for text, label in EMOTION_ROWS)
        return write(path, f"\ufefftext;label_name\r\n{lines}\r\n")
    if suffix == "jsonl":
        return jsonl(path, *numbered)
    Dataset.from_list(numbered).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "parquet"])
def test_emotion_files(tmp_path, suffix):
    path = emotion_file(tmp_path, suffix)
    for place in (path, tmp_path):
        got = load_corpus("emotion", folder=place)
        assert got.features == LABELLED
        assert list(zip(got["text"], got["label"])) == EMOTION_ROWS
        assert got["record_id"] == got["person_id"] == ["train-1", "train-2", "train-3"]
        assert got["identifiers"] == [[], [], []]
    assert pseudonymize(got, Stub())["label"] == got["label"]


def test_emotion_folder_and_splits(tmp_path):
    for stem in ("train", "val", "test"):
        write(tmp_path / f"{stem}.txt", f"text;label\ni feel {stem};anger\n")
    assert load_corpus("emotion", folder=tmp_path)["record_id"] == ["test-1", "train-1", "val-1"]
    for split, stem in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert load_corpus("emotion", folder=tmp_path, split=split)["text"] == [f"i feel {stem}"]
    (tmp_path / "test.txt").unlink()
    with pytest.raises(ValueError, match="no file whose name starts with the split 'test'"):
        load_corpus("emotion", folder=tmp_path, split="test")


def test_emotion_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        rows = [{"text": text, "label": EMOTIONS.index(label)} for text, label in EMOTION_ROWS]
        return Dataset.from_list(rows, features=Features(text=Value("string"), label=ClassLabel(names=list(EMOTIONS))))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    got = load_corpus("emotion")
    assert got.features == LABELLED and list(zip(got["text"], got["label"])) == EMOTION_ROWS
    assert load_corpus("emotion", split="test", records=1)["record_id"] == ["test-1"]
    assert asked == [(("dair-ai/emotion", "split"), {"split": split}) for split in ("train", "test")]


EMOTION_CASES = [
    ("a.txt", f"text;label\n{SECRET}\n", r"a\.txt, line 2: no ';' between text and label"),
    ("a.txt", f"{SECRET};joy\n{SECRET};{SECRET}\n", r"line 2: unknown label; known: sadness, joy, .*0 to 5"),
    ("a.txt", f"{SECRET};joy\n;joy\n", r"line 2: the text is empty"),
    ("a.txt", f"{SECRET};joy\n".encode() + b"caf\xe9;joy", r"a\.txt: not UTF-8 \(byte 19\)"),
    ("a.txt", "text;label\n", "corpus is empty"),
    ("a.jsonl", json.dumps({"text": SECRET}), "line 1: expected an object with text and label"),
    ("a.jsonl", json.dumps([SECRET]), "line 1: expected an object with text and label"),
    ("a.jsonl", json.dumps({"text": SECRET, "label": 6}), "line 1: unknown label"),
    ("a.jsonl", json.dumps({"text": SECRET, "label": -1}), "line 1: unknown label"),
    ("a.jsonl", json.dumps({"text": SECRET, "label": True}), "line 1: unknown label"),
    ("a.jsonl", json.dumps({"text": [SECRET], "label": 1}), "line 1: text must be a string, found list"),
    ("a.jsonl", f'{{"text": "{SECRET}', "line 1: invalid JSON"),
    ("a.parquet", SECRET, r"a\.parquet: not a whole Parquet file"),
    ("a.csv", SECRET, r"not a \.txt, \.jsonl, \.parquet file"),
]


@pytest.mark.parametrize("name, content, message", EMOTION_CASES, ids=range(len(EMOTION_CASES)))
def test_bad_emotion_files(tmp_path, name, content, message):
    path = bad(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus("emotion", folder=path)
    assert SECRET not in str(caught.value) and caught.value.__suppress_context__ == bool(caught.value.__context__)


# Books


PROSE = st.lists(
    st.tuples(
        st.integers(1, 400),
        st.sampled_from([" ", "\n", ". ", ".\n", '." ', "?”\n", ".\r\n\r\n", ".\n \n", "\n\n\n", "  "]),
    ),
    max_size=40,
)


@MANY
@given(PROSE, st.randoms(use_true_random=False))
def test_books_are_cut_where_they_read_best(runs, random):
    text = "".join(
        " ".join(f"w{random.randint(0, 9 ** random.randint(1, 6))}" for _ in range(n)) + gap for n, gap in runs
    )
    records = list(cut_book([text]))
    words = [match.span() for match in re.finditer(r"\S+", text)]
    assert [word for record, _ in records for word in record.split()] == text.split()
    assert [len(record.split()) for record, _ in records] == [count for _, count in records]

    def rank(k):
        """How well the gap before word k reads as an end: 0 blank line, 1 sentence and line, 2 sentence, 3 word."""
        before, gap = text[slice(*words[k - 1])], text[words[k - 1][1] : words[k][0]]
        sentence = before.rstrip("\"'”’)]")[-1:] in tuple(".!?…")
        return 0 if gap.count("\n") > 1 else 3 if not sentence else 1 if "\n" in gap else 2

    def distance(k):
        return abs(words[k - 1][1] - words[first + 999][1])

    first = 0
    for _, count in records[:-1]:
        assert 750 <= count <= 1250 < len(words) - first
        places = range(first + 750, first + 1251)
        best = min(map(rank, places))
        assert rank(first + count) == best
        # Measured to the end of a gap there and to its beginning here.
        assert distance(first + count) <= min(distance(k) for k in places if rank(k) == best) + 12
        first += count
    assert len(words) - first <= 1250
    # The same however the text arrives.
    places = sorted(random.randint(0, len(text)) for _ in range(8))
    assert list(cut_book(text[a:b] for a, b in zip([0, *places], [*places, len(text)]))) == records


def book(seed, paragraphs=60):
    return "\n\n".join(" ".join(f"word{seed}x{i}." for i in range(50 + (i * 7 + seed) % 90)) for i in range(paragraphs))


def test_books_from_a_folder_by_number_of_words(tmp_path):
    for n, name in enumerate(("b_Two", "a_One", "c_Empty")):
        write(tmp_path / f"{name}.txt", "\ufeff" + book(n) if n < 2 else " \n")
    everything = load_corpus("bookcorpus", folder=tmp_path)
    assert everything.features == FEATURES
    assert sum(len(text.split()) for text in everything["text"]) == len((book(0) + " " + book(1)).split())
    assert list(dict.fromkeys(everything["person_id"])) == ["a_One", "b_Two"]
    assert everything["record_id"][:2] == ["a_One-1", "a_One-2"] and not any(everything["identifiers"])
    ours = [text for text, person in zip(everything["text"], everything["person_id"]) if person == "a_One"]
    assert "\n\n".join(ours) == book(1)
    for words in (1, 999, len(everything[0]["text"].split()) - 2, 7000):
        some = load_corpus("bookcorpus", folder=tmp_path, words=words)
        assert sum(len(text.split()) for text in some["text"]) == words
        assert some["text"][:-1] == everything["text"][: len(some) - 1]
        assert everything["text"][len(some) - 1].startswith(some["text"][-1])
    assert load_corpus("bookcorpus", folder=tmp_path, words=7000, records=2)["text"] == everything["text"][:2]
    total = len(" ".join(everything["text"]).split())
    assert len(load_corpus("bookcorpus", folder=tmp_path, words=total)) == len(everything)
    with pytest.raises(ValueError, match=f"{total:,} words, fewer than words={total + 1:,}"):
        load_corpus("bookcorpus", folder=tmp_path, words=total + 1)


def test_books_from_parquet_have_a_sentence_a_row(tmp_path):
    sentences = [f"the sentence number {i} of the set ." for i in range(900)]
    rows = [{"text": text} for text in [*sentences, "", None]]
    Dataset.from_list(rows[:400]).to_parquet(tmp_path / "train-0.parquet")
    Dataset.from_list(rows[400:]).to_parquet(tmp_path / "train-1.parquet")
    got = load_corpus("bookcorpus", folder=tmp_path)
    assert "\n".join(got["text"]).split("\n") == sentences
    assert set(got["person_id"]) == {"bookcorpus"} and got["record_id"][0] == "bookcorpus-1"
    assert {len(text.split()) for text in got["text"][:-1]} <= set(range(990, 1011))


@pytest.mark.parametrize("lazy", [True, False])
def test_books_from_the_hub(monkeypatch, lazy):
    pulled, asked = [], []

    def rows():
        for i in range(100_000):
            pulled.append(i)
            yield {"text": f"the sentence number {i} of the set ."}

    def load_dataset(*names, **options):
        asked.append((names, options))
        return IterableDataset.from_generator(rows) if lazy else Dataset.from_list([*islice(rows(), 3000)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    got = load_corpus("bookcorpus", words=2500)
    assert sum(len(text.split()) for text in got["text"]) == 2500 and set(got["person_id"]) == {"bookcorpus"}
    assert asked == [(("rojagtap/bookcorpus",), {"split": "train", "streaming": True})]
    assert len(pulled) <= 3000
    monkeypatch.setattr("sani.data.hub_sets.BOOK_WORDS", 1200)
    assert BOOK_WORDS == 77_000_000 and sum(map(len, map(str.split, load_corpus("bookcorpus")["text"]))) == 1200
    monkeypatch.setattr("sani.data.hub_sets.BOOK_WORDS", 800_001)
    with pytest.raises(ValueError, match="rojagtap/bookcorpus: .* words, fewer than words=800,001"):
        load_corpus("bookcorpus")


@pytest.mark.parametrize("name", ["bookcorpus", "emotion"])
def test_a_hub_out_of_reach_is_said(monkeypatch, name):
    def load_dataset(*names, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=rf"{name}: \S+/{name} could not be fetched .*ConnectionError.*folder="):
        load_corpus(name)


def test_books_are_streamed(tmp_path):
    """One huge line is read no further than it is needed, in little memory."""
    write(tmp_path / "a.txt", "a word and more " * 2_000_000)
    load_corpus("bookcorpus", folder=tmp_path, words=10)
    tracemalloc.start()
    got = load_corpus("bookcorpus", folder=tmp_path, words=20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000 < 30_000_000 < (tmp_path / "a.txt").stat().st_size
    assert [len(text.split()) for text in got["text"]] == [1000] * 20


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", f"{SECRET} " * 20_000 + "café", None),
        ("a.txt", f"{SECRET} ".encode() * 20_000 + b"caf\xe9 au lait", r"a\.txt: not UTF-8 \(byte 240003\).*iconv"),
        ("a.txt", b"\xef\xbb\xbf" + f"{SECRET} caf".encode() + b"\xe9 au", r"a\.txt: not UTF-8 \(byte 18\)"),
        ("a.txt", f"{SECRET} caf".encode() + b"\xc3", r"a\.txt: not UTF-8 \(byte 15\)"),
        ("a.txt", " \n", "the corpus is empty"),
        ("a.parquet", SECRET, r"a\.parquet: not a whole Parquet file"),
        ("a.jsonl", SECRET, r"not a \.txt, \.parquet file"),
    ],
    ids=range(7),
)
def test_bad_books(tmp_path, name, content, message):
    path = bad(tmp_path, name, content)
    if message is None:
        assert load_corpus("bookcorpus", folder=path)["text"][-1].endswith("café")
        return
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus("bookcorpus", folder=path)
    assert SECRET not in str(caught.value) and caught.value.__suppress_context__ == bool(caught.value.__context__)


@pytest.mark.parametrize("rows, message", [([{SECRET: "x"}], "no column text"), ([{"text": 7}], "else than strings")])
def test_bad_parquet_columns(tmp_path, rows, message):
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus("bookcorpus", folder=tmp_path)
    assert SECRET not in str(caught.value)


# XML holds no control characters and turns line ends into \n; the others hold any text.
XML_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), max_size=40
)
ANY_TEXT = st.text(st.one_of(st.sampled_from('aZ é😀\r\n\t",;\u2028'), st.characters(codec="utf-8")), max_size=40)


def pieces(text):
    """Texts that alternate between plain and annotated; the annotated ones are trimmed and not empty."""
    value = text.map(str.strip).filter(bool)
    return st.lists(st.tuples(text, value, st.sampled_from(["PATIENT", "ID", 'ODD & "TYPE"'])), max_size=5)


def laid_out(found, tail):
    text, marks = "", []
    for before, value, type_ in found:
        text += before
        marks.append((len(text), len(text) + len(value), type_, "direct"))
        text += value
    return text + tail, marks


@MANY
@given(pieces(XML_TEXT), XML_TEXT)
def test_n2c2_round_trip(tmp_path_factory, found, tail):
    text, marks = laid_out(found, tail + "end")
    body = "".join(
        f"{escape(before)}<PHI TYPE={quoteattr(type_)}>{escape(value)}</PHI>" for before, value, type_ in found
    ) + escape(tail + "end")
    path = write(tmp_path_factory.mktemp("x") / "a.xml", f'<ROOT><RECORD ID="1"><TEXT>{body}</TEXT></RECORD></ROOT>')
    (row,) = load_corpus("n2c2-2006", folder=path)
    assert (row["text"], spans(row)) == (text, marks)


@MANY
@given(pieces(ANY_TEXT), ANY_TEXT, st.booleans())
def test_user_files_round_trip(tmp_path_factory, found, tail, ascii_only):
    text, marks = laid_out(found, tail + "end")
    folder = tmp_path_factory.mktemp("x")
    identifiers = [dict(zip(("start", "end", "type", "kind"), mark)) for mark in marks]
    row = {"text": text, "record_id": "1", "identifiers": identifiers}
    line = json.dumps(row, ensure_ascii=ascii_only)
    paths = [write(folder / "a.jsonl", line), write(folder / "a.json", f"[{line}]")]
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, row, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerow({**row, "identifiers": json.dumps(identifiers)})
    (folder / "t").mkdir()
    write(folder / "t/a.txt", text.removeprefix("\ufeff"))
    paths += [folder / "a.csv"]
    for path in paths:
        (got,) = load_corpus(path)
        assert (got["text"], spans(got)) == (text, marks)
    assert load_corpus(folder / "t")["text"] == [text.removeprefix("\ufeff")]


def test_fresh_process_gives_the_same_and_leaves_no_copy_in_the_datasets_cache(tmp_path):
    cache = tmp_path / "cache"
    path = jsonl(
        tmp_path / "a.jsonl",
        {
            "text": f"Mr {SECRET} on 03/14/2011 in Élysée, 12-AB",
            "spans": [[3, 14, "PER"], [18, 28, "DATE"], [32, 38, "LOC"], [40, 45, "ID"]],
        },
        {"text": "Ann", "spans": [[0, 3, "PER"]]},
    )
    code = (
        "import json, sys\nfrom sani import *\nfrom sani import Blacklist\nold = load_corpus(sys.argv[1])\n"
        "from sani.data.grammars import clinical, emotions, stories\n"  # their data are read when they are used
        "assert not any(grammar.grammar.cache_info().misses for grammar in (clinical, emotions, stories))\n"
        "class B(Blacklist):\n  def find(self, t, i): return []\npseudonymize(old, B())\nassert not old.cache_files\n"
        "new = counterfactual(old, 4)\nassert not new.cache_files\nprint(json.dumps(new.to_list()))"
    )
    env = {
        **os.environ,
        "HF_DATASETS_CACHE": str(cache),
        "HF_HOME": str(cache),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONHASHSEED": "77",
    }
    out = subprocess.run([sys.executable, "-c", code, path], env=env, check=True, capture_output=True).stdout
    for file in tmp_path.rglob("*"):
        assert file == path or not file.is_file() or SECRET.encode() not in file.read_bytes()
    assert json.loads(out) == counterfactual(load_corpus(path), 4).to_list()
    assert json.loads(out) != counterfactual(load_corpus(path), 5).to_list()


# Errors


def bad(tmp_path, name, content):
    return str(write(tmp_path / name, content))


def line(**row):
    return json.dumps({"text": f"{SECRET} was here", "record_id": "r7", **row})


def span_line(*found):
    return line(spans=list(found))


CASES = [
    ("a.jsonl", line() + f'\n{{"text": "{SECRET}\n', r"a\.jsonl, line 2: invalid JSON"),
    ("a.json", f'[{{"text": "{SECRET}"]', r"a\.json: invalid JSON"),
    ("a.jsonl", "[" * 100_000, r"line 1: invalid JSON"),
    ("a.jsonl", f'"{SECRET}"', r"line 1: expected an object"),
    ("a.jsonl", json.dumps({"body": SECRET, SECRET: 1}), r"no text column 'text'; columns there: body and 1 not shown"),
    ("a.csv", f"{SECRET} came,{SECRET}\nb,c\n", r"no text column .* none and 2 not shown.*text_column="),
    ("a.csv", f'text,id\n"{SECRET}"x,1\n', r"line 2: invalid CSV"),
    ("a.csv", f'text,id\n"a\nb",1\n"{SECRET}\nb,1\n', r"line 4: invalid CSV"),
    ("a.csv", f"text,id\n{SECRET},was,here\n", r"line 2: .*not as many fields"),
    ("a.csv", f"text,id\n{SECRET}\n", r"line 2: .*not as many fields"),
    ("a.csv", f"text,spans\n{SECRET},[{SECRET}\n", r"line 2, column spans: invalid JSON"),
    ("a.csv", f"text,spans\n{SECRET},{SECRET}\n", r"line 2: no list of spans in column spans"),
    ("a.csv", "text,id\n", "corpus is empty"),
    ("a.csv", "", "corpus is empty"),
    ("a.csv", f"text,id,text\n{SECRET},1,\n", "the header has a column twice"),
    ("a.json", "", "invalid JSON"),
    ("a.json", line(annotations={"me": []}), "no list of spans in column annotations.*load_corpus.'tab'"),
    ("a.jsonl", span_line({"start": 1, "end": 4, "type": "PER", "entity_value": SECRET}), "another text than it says"),
    ("a.jsonl", span_line({"start": 1, "end": 4, "type": "PER", "text": SECRET[:3]}), "another text than it says"),
    ("a.jsonl", "", "corpus is empty"),
    ("a.json", "[]", "corpus is empty"),
    ("a.txt", " \n", "corpus is empty: 1 records"),
    ("a.jsonl", line(text=[SECRET]), "line 1: text must be a string, found list"),
    ("a.jsonl", line(record_id={SECRET: 1}), "record_id must be a string, found dict"),
    ("a.jsonl", line(text=f"{SECRET} \ud800"), "half a surrogate pair at offset 12"),
    ("a.txt", f"{SECRET} caf".encode() + b"\xe9", r"a\.txt: not UTF-8 \(byte 15\).*iconv"),
    ("a.jsonl", b"\xef\xbb\xbf" + SECRET.encode("utf-16"), r"not UTF-8 \(byte 3\)"),
    ("a.jsonl", span_line([0, 99, "PER"]), r"record_id 'r7': annotation \[0, 99\) is out of range"),
    ("a.jsonl", span_line([-1, 3, "PER"]), "out of range"),
    ("a.jsonl", span_line([5, 5, "PER"]), "out of range"),
    ("a.jsonl", span_line([5, 3, "PER"]), "out of range"),
    ("a.jsonl", span_line([0, 3.0, "PER"]), "whole numbers as start and end, found int and float"),
    ("a.jsonl", span_line([True, 3, "PER"]), "whole numbers"),
    ("a.jsonl", span_line({"start": 1, "type": "PER"}), "found int and NoneType"),
    ("a.jsonl", span_line({"start": 1, "end": 2}), "has no type"),
    ("a.jsonl", span_line({"start": 1, "end": 2, "type": "PER", "kind": SECRET}), "unknown kind; known: direct"),
    ("a.jsonl", span_line(SECRET), "an annotation must be an object"),
    ("a.jsonl", span_line([11, 12, "PER"]), "only white space"),
    ("a.jsonl", span_line([0, 6, "PER"], [5, 11, "PER"]), r"'r7': annotations overlap: \[0, 6\) and \[5, 11\)"),
    ("a.jsonl", span_line([0, 6, "PER"], [0, 6, "LOC"]), "annotations overlap"),
    ("a.jsonl", line() + "\n" + line(), r"line 2: record_id 'r7' occurs twice"),
    ("a.pdf", SECRET, r"not a \.jsonl, \.json, \.csv, \.txt file"),
    ("a.xml", SECRET, "use load_corpus.'n2c2-2006'"),
]


@pytest.mark.parametrize("name, content, message", CASES, ids=range(len(CASES)))
def test_bad_user_files(tmp_path, name, content, message):
    path = bad(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus(path)
    assert SECRET not in str(caught.value) and caught.value.__suppress_context__ == bool(caught.value.__context__)


@pytest.mark.parametrize(
    "content, message",
    [
        (
            (DATA / "n2c2_malformed.xml").read_bytes(),
            r"a\.xml, line 4, column \d+: malformed XML \(mismatched tag\); .*corrected archive",
        ),
        ((DATA / "n2c2_bomb.xml").read_bytes(), r"a\.xml: .*refused"),
        (f'<!DOCTYPE R SYSTEM "file:///{SECRET}"><R><RECORD/></R>', "refused"),
        (f'<!DOCTYPE R [<!ENTITY x SYSTEM "file:///{SECRET}">]><R>&x;</R>', "refused"),
        (f"<R><RECORD><TEXT>&{SECRET};</TEXT></RECORD></R>", r"line 1, column 17: malformed XML \(undefined entity\)"),
        (f"<R>{SECRET}</R>", "no RECORD element"),
        (f"<R><RECORD>{SECRET}</RECORD></R>", "record 1: expected one TEXT element, found 0"),
        (f"<R><RECORD ID='9'><TEXT><PHI>{SECRET}</PHI></TEXT></RECORD></R>", "PHI without TYPE at offset 0"),
        (f"<R><RECORD ID='9'><TEXT>{SECRET}<PHI TYPE='ID'> </PHI></TEXT></RECORD></R>", "'9': .*only white space"),
        (f"<R><RECORD ID='9'><TEXT><PHI TYPE='A'>{SECRET}<PHI TYPE='B'>x</PHI></PHI></TEXT></RECORD></R>", "overlap"),
        (f"<?xml version='1.0' encoding='{SECRET}'?><R/>", "unknown encoding"),
        ("", "malformed XML"),
    ],
    ids=range(12),
)  # pytest would put the text into the name of the folder
def test_bad_xml(tmp_path, content, message):
    path = bad(tmp_path, "a.xml", content)
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus("n2c2-2006", folder=path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"text": SECRET},
        [SECRET],
        [{"text": SECRET, "doc_id": "1", "annotations": []}],
        [
            {
                "text": SECRET,
                "doc_id": "1",
                "annotations": {
                    "a": {
                        "entity_mentions": [
                            {"start_offset": 0, "end_offset": 3, "entity_type": "PERSON", "identifier_type": SECRET}
                        ]
                    }
                },
            }
        ],
    ],
)
def test_bad_tab(tmp_path, content):
    with pytest.raises(ValueError, match="record 1: not the Text Anonymization Benchmark") as caught:
        load_corpus("tab", folder=bad(tmp_path, "a.json", json.dumps(content)))
    assert SECRET not in str(caught.value)


def test_bad_standoff(tmp_path):
    write(tmp_path / "a.txt", SECRET)
    write(tmp_path / "a.ann", f"T1\tPER x y\t{SECRET}\n")
    with pytest.raises(ValueError, match=r"a\.ann, line 1: not a BRAT") as caught:
        load_corpus(tmp_path)
    (tmp_path / "a.ann").unlink()
    write(tmp_path / "a.json", '[[0, 99, "PER"]]')
    with pytest.raises(ValueError, match="record_id 'a': .*out of range"):
        load_corpus(tmp_path / "a.txt")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(name_or_path="wikipedia"), ValueError, f"unknown corpus 'wikipedia'; known: {', '.join(SOURCES)}.*jsonl"),
        (dict(name_or_path="n2c2-2006"), ValueError, "name your copy"),
        (dict(name_or_path="tab", folder=""), ValueError, "name your copy"),
        (dict(name_or_path="tab", folder="no/such"), FileNotFoundError, "no such file or folder"),
        (dict(name_or_path="no/such.jsonl"), FileNotFoundError, "no such file or folder"),
        (dict(name_or_path="no/such/folder"), FileNotFoundError, "no such file or folder"),
        (dict(name_or_path="synthetic-clinical", records=0), ValueError, "records=0 is out of range.*at least 1"),
        (dict(name_or_path="synthetic-clinical", records=True), TypeError, "records must be a whole number"),
        (
            dict(name_or_path="synthetic-clinical", split="test"),
            ValueError,
            "split 'test' is unknown; use one of private, public",
        ),
        (
            dict(name_or_path="tab", folder=".", split="public"),
            ValueError,
            "split= is for synthetic-clinical, .*leave it out",
        ),
        (dict(name_or_path="synthetic-clinical", folder="."), ValueError, "folder= is for"),
        (dict(name_or_path="synthetic-clinical", default_kind="x"), ValueError, "default_kind 'x' is unknown"),
        (
            dict(name_or_path="emotion", split="public"),
            ValueError,
            "split 'public' is unknown; use one of train, validation, test",
        ),
        (dict(name_or_path="emotion", folder="no/such"), FileNotFoundError, "no such file or folder"),
        (dict(name_or_path="bookcorpus", folder="no/such"), FileNotFoundError, "no such file or folder"),
        (dict(name_or_path="bookcorpus", words=0), ValueError, "words=0 is out of range"),
        (dict(name_or_path="bookcorpus", words=7.0), TypeError, "words must be a whole number, not 7.0"),
        (dict(name_or_path="bookcorpus", split="train"), ValueError, "leave it out for 'bookcorpus'"),
        (dict(name_or_path="synthetic-clinical", words=10), ValueError, "words= is for bookcorpus; leave it out"),
        (dict(name_or_path="synthetic-clinical", records="3"), TypeError, "records must be a whole number, not a str"),
        (dict(name_or_path="synthetic-clinical", seed=None), TypeError, "seed must be a whole number, not None"),
        (dict(name_or_path="synthetic-clinical", seed=-1), ValueError, "seed=-1 is out of range"),
        (dict(name_or_path="synthetic-clinical", text_column="a"), ValueError, "text_column= is for files of your own"),
        (dict(name_or_path="a.jsonl", text_column=["a"]), TypeError, "text_column must be a text, not a list"),
        (dict(name_or_path=None), TypeError, "by a name or a path, not by a NoneType"),
        (dict(name_or_path=["a.jsonl"]), TypeError, "by a name or a path, not by a list"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        load_corpus(**arguments)


def test_doors_name_what_is_no_corpus_blacklist_or_number():
    one = corpus("[[PER:Anna]] left")
    calls = (
        (lambda: with_strangers("emotion", 3, 3), ValueError, "synthetic corpus 'emotion' is unknown; use one of syn"),
        (lambda: with_strangers("synthetic-clinical", 0, 3), ValueError, "records=0 is out of range"),
        (lambda: with_strangers("synthetic-clinical", 3, None), TypeError, "heldout_records must be a whole number"),
        (lambda: counterfactual(["Ann"]), TypeError, "corpus must be a Dataset, not a list"),
        (lambda: counterfactual(one.remove_columns("identifiers")), ValueError, "no column identifiers; load it with"),
        (lambda: counterfactual(one, 0, ["Ann"]), TypeError, "corpus must be a Dataset, not a list"),
        (lambda: counterfactual(one, seed=None), TypeError, "seed must be a whole number, not None"),
        (lambda: pseudonymize(one, ["Anna"]), TypeError, "blacklist must be a Blacklist, not a list"),
        (lambda: pseudonymize(one, "Anna"), TypeError, "blacklist must be a Blacklist, not a str"),
        (lambda: pseudonymize(one, Blacklist(["Anna"]), 7), TypeError, "replacement must be a text, not 7"),
        (lambda: pseudonymize("Anna", Blacklist(["Anna"])), TypeError, "corpus must be a Dataset, not a str"),
        (lambda: annotate(one, [[]], kind="secret"), ValueError, "kind 'secret' is unknown"),
        (lambda: find_entities(["Anna"]), TypeError, "corpus must be a Dataset, not a list"),
        (lambda: capitalized(one, share=2), ValueError, "share=2 is out of range"),
        (lambda: find_entities(one, batch_size="8"), TypeError, "batch_size must be a whole number, not a str"),
        (lambda: find_entities(one, window=32.5), TypeError, "window must be a whole number, not 32.5"),
        (lambda: read_spans([[]], "Anna"), TypeError, "corpus must be a Dataset, not a str"),
    )
    for call, error, message in calls:
        with pytest.raises(error, match=message):
            call()


def test_empty_folder(tmp_path):
    for name in ("n2c2-2006", "tab", "emotion", "bookcorpus"):
        with pytest.raises(ValueError, match="no .* file in this folder"):
            load_corpus(name, folder=tmp_path)
    with pytest.raises(ValueError, match=r"no \.jsonl, .* file in this folder"):
        load_corpus(tmp_path)


# Pseudonyms


class Stub(Blacklist):
    """Finds the words with an upper-case letter; "indirect" those of odd length."""

    def find(self, text, identifiers=()):
        return [
            SimpleNamespace(start=m.start(), end=m.end(), kind=("direct", "indirect")[len(m[0]) % 2])
            for m in re.finditer(r"\w*[A-Z]\w*", text)
        ]


@MANY
@given(pieces(ANY_TEXT), ANY_TEXT, st.text(max_size=4))
def test_pseudonymize_leaves_the_rest(found, tail, replacement):
    text, marks = laid_out(found, tail)
    row = {
        "text": text,
        "record_id": "1",
        "person_id": "1",
        "identifiers": [dict(zip(("start", "end", "type", "kind"), mark)) for mark in marks],
    }
    (got,) = pseudonymize(Dataset.from_list([row], features=FEATURES), Stub(), replacement)
    hits = [hit for hit in Stub().find(text, None) if hit.kind == "direct"]
    expected, done = "", 0
    for hit in hits:
        expected += text[done : hit.start] + replacement
        done = hit.end
    assert got["text"] == expected + text[done:]
    left = [mark for mark in marks if not any(mark[0] < hit.end and hit.start < mark[1] for hit in hits)]
    assert values(got) == [text[start:end] for start, end, _, _ in left]
    assert [span[2:] for span in spans(got)] == [mark[2:] for mark in left]


def test_pseudonymize_kinds():
    one = corpus("[[PER:Anna]] met [[PER:Bob]] twice")
    assert pseudonymize(one, Stub())["text"] == ["X met Bob twice"]
    assert pseudonymize(one, Stub(), "[…]", kinds=("direct", "indirect"))["text"] == ["[…] met […] twice"]
    assert one["text"] == ["Anna met Bob twice"]
    with pytest.raises(ValueError, match="kind 'secret' is unknown; use one of direct"):
        pseudonymize(one, Stub(), kinds=("secret",))


# Counterfactuals


def new_values(*rows, seed=0):
    return [values(row) for row in counterfactual(corpus(*rows), seed)]


def test_names_are_consistent_over_the_corpus():
    (one, two, three, mister), (upper, doctor) = new_values(
        "[[PATIENT:John Smith]], [[PATIENT:Smith]], [[PATIENT:SMITH, JOHN]], [[PATIENT:Mr. Smith]]",
        "[[PATIENT:SMITH]] [[DOCTOR:Dr. J. de la Smith]]",
    )
    first, last = one.split()
    assert {first.lower(), last.lower()}.isdisjoint({"john", "smith"})
    assert (two, three, mister, upper) == (last, f"{last}, {first}".upper(), f"Mr. {last}", last.upper())
    assert re.fullmatch(rf"Dr\. [A-IK-Z]\. de la {last}", doctor)


def test_forms_are_kept():
    ((hospital, place, phone, code, age),) = new_values(
        "[[HOSPITAL:St. Alban's General Hospital]] [[LOCATION:12 Elm Street]] [[PHONE:(555) 010-9999]] "
        "[[ID:MRN-77a]] [[AGE:71]]"
    )
    assert re.fullmatch(r"St\. [A-Z][a-z]+'s General Hospital", hospital) and "Alban" not in hospital
    assert re.fullmatch(r"\d\d [A-Z][a-z]+ Street", place) and "Elm" not in place
    assert re.fullmatch(r"\(\d{3}\) \d{3}-\d{4}", phone) and re.fullmatch(r"[A-Z]{3}-\d\d[a-z]", code)
    assert all(new != old for new, old in zip(phone + code + age, "(555) 010-9999MRN-77a71") if old.isalnum())


def test_dates_move_by_the_same_days_in_the_same_format():
    forms = [
        "03/14/2011",
        "2011-03-14",
        "03/14/11",
        "March 14, 2011",
        "14 March 2011",
        "14 mars 2011",
        "MARCH 14, 2011",
        "Mar 14, 2011",
        "14 févr. 2011",
        "1er mars 2011",
        "March 2nd, 2011",
    ]
    ((us, iso, short, long, day_first, french, upper, abbreviated, fevr, first, second),) = new_values(
        " ".join(f"[[DATE:{form}]]" for form in forms), seed=5
    )
    moved = datetime.date.fromisoformat(iso)
    assert abs((moved - datetime.date(2011, 3, 14)).days) >= 400
    month = moved.strftime("%B")
    assert us == moved.strftime("%m/%d/%Y") and short == moved.strftime("%m/%d/%y")
    assert long == f"{month} {moved.day}, {moved.year}" and day_first == f"{moved.day} {month} {moved.year}"
    assert upper == long.upper() and re.fullmatch(rf"{month[:3]}\w? {moved.day}, {moved.year}", abbreviated)
    assert re.fullmatch(rf"{moved.day} \w+ {moved.year}", french)
    assert re.fullmatch(r"\d+ \w+\. \d{4}", fevr) and re.fullmatch(r"(1er|\d+) \w+ \d{4}", first)
    assert re.fullmatch(r"\w+ \d+(st|nd|rd|th), \d{4}", second)
    ((day, year, month_year, time, words),) = new_values(
        "[[DATE:03/14]] [[DATE:1987]] [[DATE:octobre 2010]] [[DATE:17 h 54]] [[DATE:Tuesday]]"
    )
    assert re.fullmatch(r"\d\d/\d\d", day) and re.fullmatch(r"\d{4}", year) and re.fullmatch(r"\S+ \d{4}", month_year)
    assert re.fullmatch(r"\d\d h \d\d", time) and words != "Tuesday"


def test_exhausted_forms_still_give_new_values():
    every = [f"[[AGE:{n}]]" for n in range(100)] + [f"[[DATE:{m}/{d}]]" for m in range(1, 13) for d in range(1, 32)]
    every += ["[[TITLE:Mr.]]", "[[HOSPITAL:General Hospital]]", "[[PER:J.]]", "[[PER:李 明]]", "[[ID:A]]"]
    every += [f"[[PER:{letter}.]]" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    old = set(sum(map(values, corpus(*every)), []))
    new = sum(new_values(*every), [])
    assert old.isdisjoint(new) and all(new)


def test_values_of_punctuation_stay_and_input_is_untouched():
    one = corpus("see [[PER:--]] 😀[[ID:😀]] of [[PER:Ann]]")
    before = one.to_list()
    assert values(counterfactual(one, 0)[0])[:2] == ["--", "😀"]
    assert one.to_list() == before


def test_counterfactual_takes_no_name_from_elsewhere():
    """Names of others are such as the model of the counterfactual has never read; some are, if nobody says so."""
    records, others = (load_corpus("synthetic-clinical", records=100, seed=s) for s in (3, 4))

    def words(of):
        named = {
            value for row in of for span, value in zip(row["identifiers"], values(row)) if "DOCTOR" in span["type"]
        }
        return {word.casefold() for value in named for word in re.findall(r"[^\W\d_]{3,}", value)}

    theirs = words(others) - words(records)
    assert theirs & words(counterfactual(records, 3))
    assert not theirs & words(counterfactual(records, 3, others))
    check_counterfactual(records, counterfactual(records, 3, others))


def test_counterfactual_needs_identifiers():
    with pytest.raises(ValueError, match="no annotated identifiers"):
        counterfactual(corpus("nothing here"), 0)


def check_counterfactual(old, new):
    originals = {value.casefold() for row in old for value in values(row)}
    for before, after in zip(old, new):
        assert outside(before) == outside(after)
        assert [(s["type"], s["kind"]) for s in before["identifiers"]] == [
            (s["type"], s["kind"]) for s in after["identifiers"]
        ]
        for was, now in zip(values(before), values(after)):
            if any(char.isalpha() or char.isdecimal() for char in was):
                assert now.casefold() not in originals
            assert now == now.strip() != ""


@MANY
@given(
    st.lists(st.tuples(pieces(ANY_TEXT), ANY_TEXT), min_size=1, max_size=3),
    st.integers(0, 99),
    st.sampled_from(["PATIENT", "DATE", "AGE", "ID", "LOCATION", "ODD"]),
)
def test_counterfactual_property(rows, seed, type_):
    made = []
    for n, (found, tail) in enumerate(rows):
        text, marks = laid_out([(before, value, type_) for before, value, _ in found] + [("", "Zoë", "PER")], tail)
        made.append(
            {
                "text": text,
                "record_id": str(n),
                "person_id": "",
                "identifiers": [dict(zip(("start", "end", "type", "kind"), mark)) for mark in marks],
            }
        )
    old = Dataset.from_list(made, features=FEATURES)
    check_counterfactual(old, counterfactual(old, seed))


# Real data


@real
def test_real_sources():
    legal = load_corpus(Path(REAL, "legal/echr_fr.jsonl"))
    assert (len(legal), sum(map(len, legal["identifiers"]))) == (106, 4156)
    assert len(load_corpus(Path(REAL, "clinical/mtsamples.jsonl"))) == 2000
    path = Path(REAL, "pii/presidio_synth_v2.json")
    pii, recount = load_corpus(path), json.loads(path.read_text(encoding="utf-8"))
    assert len(pii) == len(recount) == 1500
    for row, raw in zip(pii, recount):
        assert row["text"] == raw["full_text"]
        assert sorted(zip(values(row), (span[2] for span in spans(row)))) == sorted(
            (span["entity_value"], span["entity_type"]) for span in raw["spans"]
        )


@real
def test_real_emotions_and_books():
    emotions = load_corpus("emotion", folder=Path(REAL) / "emotion")
    assert len(emotions) == 18_000 and set(emotions["label"]) == set(EMOTIONS)
    lines = Path(REAL, "emotion/val.txt").read_text(encoding="utf-8").splitlines()[1:]
    val = load_corpus("emotion", folder=Path(REAL) / "emotion", split="validation")
    assert [f"{row['text']};{row['label']}" for row in val] == lines
    books = load_corpus("bookcorpus", folder=Path(REAL) / "books", words=300_000)
    assert sum(len(text.split()) for text in books["text"]) == 300_000
    first = books.filter(lambda row: row["person_id"] == books[0]["person_id"], keep_in_memory=True)
    whole = Path(REAL, "books", f"{books[0]['person_id']}.txt").read_text(encoding="utf-8")
    assert " ".join(first["text"]).split() == whole.split()
    assert all(750 <= len(text.split()) <= 1250 for text in first["text"][:-1])


@real
@pytest.mark.parametrize("name, person", [("legal/echr_fr.jsonl", "PER"), ("pii/presidio_synth_v2.json", "PERSON")])
def test_real_counterfactual(name, person):
    old = load_corpus(Path(REAL, name))
    new = counterfactual(old, 0)
    check_counterfactual(old, new)

    def words(rows, *types):
        return {
            word.casefold()
            for row in rows
            for value, span in zip(values(row), row["identifiers"])
            if not types or span["type"] in types
            for word in re.findall(r"[^\W\d_]{3,}", value)
        }

    names = words(old, person) - GENERIC - set(MONTH)
    assert len(names) > 300 and names.isdisjoint(words(new))
