"""Files of terms: every row is listed, blank or an error that names its line; none is lost and none is told."""

import csv
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sani.data.term_files import read_terms

SECRET = "Zanzibarius"


def read(folder, content):
    path = folder / "terms.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_terms(path)


@pytest.mark.parametrize(
    "header, row",
    [
        ("term,kind,match", "{t},indirect,span"),
        ("\ufeffTerm,Kind,Match", "{t},Indirect,SPAN"),
        (" term , kind,match ", "  {t} , indirect, span "),
        ("MATCH;term;kind", "span;{t};indirect"),
        ("term\tkind\tmatch", "{t}\tindirect\tspan"),
        ("term | kind | match", "{t} | indirect | span"),
        ('\n \n"kind","term","match"', '"indirect", "{t}", span'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_header_is_read_by_what_it_means(tmp_path, header, row, end):
    content = "\n".join([header, row.format(t="Bob Stone"), "", row.format(t="Ann"), ""])
    rows, blank = read(tmp_path, content.replace("\n", end))
    first = 2 + header.count("\n")
    assert [row[:4] for row in rows] == [
        (first, "Bob Stone", "indirect", "span"),
        (first + 2, "Ann", "indirect", "span"),
    ]
    assert blank == 1 + header.count("\n")


def test_columns_may_be_missing_and_cells_empty(tmp_path):
    rows, blank = read(
        tmp_path, 'term,kind\r\n"Smith, John",\r\n"Ann\r\nLee",direct\r\n,\r\n"5"" nail",\r\nBob "B" Ott,\r\n'
    )
    assert blank == 1 and [row[:4] for row in rows] == [
        (2, "Smith, John", None, None), (3, "Ann\r\nLee", "direct", None), (6, '5" nail', None, None),
        (7, 'Bob "B" Ott', None, None),
    ]  # fmt: skip
    assert read(tmp_path, "kind;term\n;Smith, John\n").rows == [(2, "Smith, John", None, None, None)]
    assert read(tmp_path, 'term\n"a\u2028b\u2028c\u2028d\u2028e\u2028f"\n').rows[0].line == 2
    long = "x" * 140_000
    assert (
        read(tmp_path, f"term\n{long}\n").rows
        == read(tmp_path, f'"term"\n"{long}"').rows
        == [(2, long, None, None, None)]
    )


def test_a_term_per_line_is_taken_as_it_stands(tmp_path):
    rows, blank = read(
        tmp_path, '\ufeffAnn, the baker\r\n\r\n  Bob \n"Smith, John"\nterm of art\ndirect\nname\u2028x\nAnn'
    )
    assert blank == 1 and [row[:2] for row in rows] == [
        (1, "Ann, the baker"), (3, "Bob"), (4, '"Smith, John"'), (5, "term of art"), (6, "direct"), (7, "name\u2028x"),
        (8, "Ann"),
    ]  # fmt: skip
    assert read(tmp_path, "Direct, Inc.\n").rows == [(1, "Direct, Inc.", None, None, None)]


@pytest.mark.parametrize(
    "content, line, message",
    [
        # Rows that would run together, or lose a part.
        (f'term,kind\nAnn,direct\n"{SECRET},direct\nBob,direct\n', 3, "invalid CSV"),
        (f'term,kind\n"{SECRET},direct\nBob"x,direct\n', 2, "invalid CSV"),
        (f'term,kind\n"{SECRET},direct\nBob,direct\nCid",direct\n', 2, "several fields or rows in one term"),
        (f'term\n"{SECRET}\na\nb\nc\nd\ne"\n', 2, "several fields or rows in one term"),
        (f"term\nAnn\n{SECRET}, John\n", 3, "the row has not as many fields as the header (2, not 1)"),
        (f"term,kind\n{SECRET}, John,direct\n", 2, "the row has not as many fields as the header (3, not 2)"),
        (f"term,kind\n\n{SECRET}\n", 3, "the row has not as many fields as the header (1, not 2)"),
        (f"term;kind\n{SECRET},direct\n", 2, "the row has not as many fields as the header (1, not 2)"),
        (f"term\n{SECRET};direct\n", 2, "several fields or rows in one term"),
        # Rows without anything to find.
        ("term,kind\n--,direct\n", 2, "no letter or digit in the term"),
        ("term,kind\n,direct\n", 2, "no letter or digit in the term"),
        (f"{SECRET}\n…\n", 2, "no letter or digit in the term"),
        ("---\n", 1, "no letter or digit in the term"),
        # Values and headers that are unknown.
        (f"term,kind\n{SECRET},secret\n", 2, "unknown kind or match; kinds are direct, indirect, confidential"),
        (f"term,match\n{SECRET},always\n", 2, "unknown kind or match"),
        (f"term,{SECRET}\nAnn,x\n", 1, "another header; expected a term per line, or CSV"),
        ("term,kind,kind\nAnn,direct,direct\n", 1, "another header"),
        ("term,kind,\nAnn,direct,\n", 1, "another header"),
        (f"name,kind\n{SECRET},direct\n", 1, "another header"),
        ("\nTerms;Type\nAnn;direct\n", 2, "another header"),
        ("last_name\tfirst_name\nAnn\tLee\n", 1, "another header"),
        (f"patient;kind\n{SECRET};direct\n", 1, "another header"),
        ("Names\nAnn\n", 1, "another header"),
        ("sep=;\nterm;kind\nAnn;direct\n", 1, "another header"),
        (f'{{"term": "{SECRET}"}}\n', 1, "another header"),
        # CSV without a header.
        (f"Ann\n{SECRET},direct\n", 2, "several fields or rows in one term; is a quote missing, or"),
        (f'"{SECRET}, A.";"Confidential"\n', 1, "several fields"),
        (f"{SECRET}\tindirect\tspan\n", 1, "several fields"),
        (f'Ann\n"{SECRET} ""Z"" Lee"\n', 2, "quotes as in CSV, but no header"),
        (f'"{SECRET}\nLee"\n', 1, "quotes as in CSV, but no header"),
        # Other encodings.
        (f"Ann\n{SECRET} Zoë".encode("latin-1"), 2, "not UTF-8 at byte 18; save the file as UTF-8"),
        (SECRET.encode("utf-16"), 1, "not UTF-8 at byte 0"),
        (f"Ann\n{SECRET}".encode("utf-16-le"), 1, "a NUL character, as in UTF-16"),
        (f"Ann\n{SECRET}\0\n", 2, "a NUL character"),
    ],
)  # fmt: skip
def test_what_cannot_be_listed_is_named_by_its_line(tmp_path, content, line, message):
    with pytest.raises(ValueError, match=re.escape(f"terms.csv, line {line}: {message}")) as caught:
        read(tmp_path, content)
    assert SECRET not in str(caught.value) and caught.value.__suppress_context__ == bool(caught.value.__context__)


def test_what_is_no_file_of_terms(tmp_path, monkeypatch):
    for content in ("", "\n \n", "\ufeff", "term,kind\n", "Term\n\n"):
        with pytest.raises(ValueError, match="no term in it; expected a term per line"):
            read(tmp_path, content)
    for path in (tmp_path, "/dev/null"):
        with pytest.raises(ValueError, match="no blacklist file"):
            read_terms(path)
    with pytest.raises(FileNotFoundError, match="no blacklist file"):
        read_terms(tmp_path / "none.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text("Ann")
    assert read_terms("~/mine.txt").rows == [(1, "Ann", None, None, None)]


def test_types_are_read_as_they_stand(tmp_path):
    rows = read(tmp_path, "type;term\nPER;Ann\n;Bob\n").rows
    assert [(row.term, row.type) for row in rows] == [("Ann", "PER"), ("Bob", None)]


WORDS = (
    st.text(st.sampled_from("aZ9é \"',;\t|\u2028-"), max_size=12).map(str.strip).filter(lambda t: re.search(r"\w", t))
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(WORDS, min_size=1), st.sampled_from(",;\t|"), st.sampled_from(["", "\n", "\r\n"]))
def test_what_csv_writes_is_read_whole(tmp_path_factory, terms, separator, inside):
    path = tmp_path_factory.mktemp("x") / "a.csv"
    terms = [inside.join(term.partition(" ")) if inside else term for term in terms]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([("term", "kind"), *((term, "direct") for term in terms)])
    assert [(row.term, row.kind) for row in read_terms(path).rows] == [(term.strip(), "direct") for term in terms]
