"""Variants are offered, by hand and by property; ids are random; nothing is listed that was not confirmed."""

import stat
from datetime import date

import hypothesis.strategies as st
import pytest
from conftest import make_corpus
from hypothesis import given, settings

import sani


def offered(term, type_="", **options):
    blacklist = sani.Blacklist()
    blacklist._add(term, "direct", True, type_)
    return set(sani.variants(blacklist, reveal=True, **options)["variant"])


@pytest.mark.parametrize(
    ("term", "some", "never"),
    [
        ("John Smith", {"Smith, John", "J. Smith", "J Smith", "JohnSmith", "Smith"}, {"John", "John Smith"}),
        ("Smith, John Paul", {"John Paul Smith", "J. P. Smith", "J. Smith", "Smith, J. P."}, set()),
        ("Dr. Jane O'Neil", {"Jane O'Neil", "Dr. Jane ONeil", "J. O'Neil"}, {"D. O'Neil"}),
        ("Jean-Pierre Müller", {"J.-P. Müller", "Jean-Pierre Muller", "Jean-Pierre Mueller"}, set()),
        ("Søren Łuk", {"Soren Luk", "Soeren Luk"}, set()),
        ("2021-03-04", {"4 March 2021", "March 4, 2021", "03/04/2021", "04/03/2021", "04.03.2021", "4 mars 2021"},
         {"3 April 2021", "April 3, 2021"}),  # a year in front is not read in two ways
        ("03/04/2021", {"4 March 2021", "3 April 2021", "2021-03-04", "2021-04-03"}, set()),
        ("31/12/2020", {"31 December 2020", "2020-12-31"}, set()),
        ("12 août 1998", {"12 August 1998", "1998-08-12", "12 de agosto de 1998"}, set()),
        ("4 de marzo de 2021", {"2021-03-04"}, set()),
        ("March 2021", {"03/2021", "Mar 2021"}, {"1 March 2021"}),
    ],
)  # fmt: skip
def test_variants_by_hand(term, some, never):
    found = offered(term)
    assert some <= found and not never & found


@pytest.mark.parametrize(
    "term",
    ["(555) 010-2345", "71", "12 Main Street", "B12", "1234-5678", "falconer", "13/14/2020", "03/14", "555-010-2345"],
)
def test_what_is_no_name_and_no_date_has_no_variant(term):
    assert offered(term) == set()


def test_a_type_tells_what_a_term_is():
    assert offered("Saint-Luke Hospital", "HOSPITAL") == set()
    assert "14 March" in offered("03/14", "DATE")


@settings(deadline=None, max_examples=10)
@given(st.dates(date(1900, 1, 1), date(2068, 12, 31)))
def test_every_form_of_a_date_leads_back_to_it(day):
    """Whatever form is listed, the ISO form is among what is offered, or the term is of it."""
    iso = day.isoformat()
    for form in offered(iso):
        if len(form) > 8 and form != iso:  # not 20210304 nor two digits for a year
            assert iso in offered(form), form


def test_nothing_is_listed_unless_confirmed():
    blacklist = sani.Blacklist(["John Smith", "2021-03-04"])
    table = sani.variants(
        blacklist, make_corpus(["J. Smith met Smith, John and John Smith on 4 March 2021."]), reveal=True
    )
    hits = table.set_index("variant")["hits"]
    assert hits["J. Smith"] == hits["Smith, John"] == hits["4 March 2021"] == 1
    assert hits["Smith"] == 2 and hits["JohnSmith"] == 0  # not where the listed John Smith stands
    assert len(blacklist) == 2
    some = sani.with_variants(blacklist, table["variant_id"][table["variant"].isin(["J. Smith", "4 March 2021"])])
    assert "J. Smith" in some and "Smith" not in some and len(some) == 4 and len(blacklist) == 2
    assert sani.with_variants(blacklist, []) == blacklist
    with pytest.raises(ValueError, match="no variant 999"):
        sani.with_variants(blacklist, [999])
    hidden = sani.variants(blacklist)
    assert not {"term", "variant"} & set(hidden.columns) and "Smith" not in hidden.to_csv()


def test_ids_are_random_and_their_file_is_for_its_owner(tmp_path):
    blacklist = sani.Blacklist(["Zoe", "Adam", "Bea"]) | sani.Blacklist(["gout"], "indirect")
    ids = sani.random_ids(blacklist, tmp_path / "key.csv")
    assert len(set(ids)) == 4 and all(len(i) == 8 for i in ids)
    assert stat.S_IMODE((tmp_path / "key.csv").stat().st_mode) == 0o600
    assert sani.random_ids(blacklist, tmp_path / "key.csv").equals(ids)
    assert list(sani.random_ids(blacklist, tmp_path / "other.csv")) != list(ids)  # by chance once in 2**128
    more = blacklist | sani.Blacklist(["Carl"])
    named = more.terms(reveal=True).assign(id=sani.random_ids(more, tmp_path / "key.csv")).set_index("term")["id"]
    old = blacklist.terms(reveal=True).assign(id=ids).set_index("term")["id"]
    assert named.loc[old.index].equals(old) and named["Carl"] not in set(old)
    (tmp_path / "notes.csv").write_text("term,kind\nZoe,direct\n")
    with pytest.raises(ValueError, match="not a key file") as raised:
        sani.random_ids(blacklist, tmp_path / "notes.csv")
    assert "Zoe" not in str(raised.value) and "Zoe" in (tmp_path / "notes.csv").read_text()
