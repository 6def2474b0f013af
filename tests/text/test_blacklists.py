"""Terms and where they are found: cases derived by hand, a slow matcher, bad input."""

import re
import stat

import pytest
from conftest import TEXTS, make_corpus, spans
from hypothesis import given, settings
from hypothesis import strategies as st

from sani import Blacklist
from sani.text.blacklists import KINDS


def found(blacklist, text, identifiers=()):
    return [text[hit.start : hit.end] for hit in blacklist.find(text, identifiers)]


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ("Smith", "Smith smithy SMITH's wordsmith, (Smith)", ["Smith", "SMITH", "Smith"]),
        ("John Smith", "John\n  Smith and John, Smith and john smith", ["John\n  Smith", "john smith"]),
        (
            "Jean-Pierre",
            "Jean Pierre, jean-pierre, Jean‑Pierre, Jeanpierre",
            ["Jean Pierre", "jean-pierre", "Jean‑Pierre"],
        ),
        ("Smith", "Smith-Jones", ["Smith"]),
        ("O'Neil", "Dr. O'Neil's note; O Neil", ["O'Neil"]),
        ("(555) 010-2345", "call 555) 010 2345 or (555) 010-2345.", ["555) 010 2345", "555) 010-2345"]),
        ("Straße", "STRASSE", ["STRASSE"]),
        ("Zoë", "Zoe\u0308 and ZOË", ["Zoe\u0308", "ZOË"]),
        ("smith", "j_smith@example.org", ["smith"]),
        ("O'Neil", "O’Neil, OʼNeil, O`Neil, O＇Neil", ["O’Neil", "OʼNeil", "O`Neil", "O＇Neil"]),
        ("Jean-Pierre", "Jean\u2212Pierre Jean\uff0dPierre Jean\ufe63Pierre Jean\u2043Pierre Jean\u05bePierre", 5),
        ("Schwarzenegger", "Schwarzen-\negger, Schwarzen- \r\n egger", ["Schwarzen-\negger", "Schwarzen- \r\n egger"]),
        ("Jean-Pierre", "Jean-\nPierre", ["Jean-\nPierre"]),
        ("Smith", "Smith² Smith1 2Smith Smithy", 3),
        ("B4711", "B4711, B-4711, B47110, 4711", ["B4711", "B-4711"]),
        ("4711", "B4711 47110", ["4711"]),
        ("田中", "昨日田中さんは田 中に", ["田中", "田 中"]),
        ("スミス", "ジョン・スミスさん", ["スミス"]),
        ("ジョン・スミス", "ジョン スミスさん", ["ジョン スミス"]),
        ("김철수", "김철수는 갔다. 김철수", ["김철수", "김철수"]),
        ("สมชาย", "นายสมชายไป", ["สมชาย"]),
        ("हिन्दी", "हिन्दी हिन्दीभाषा", ["हिन्दी"]),
    ],
)
def test_words_in_any_case_across_space_hyphens_and_scripts(term, text, expected):
    hits = found(Blacklist([term]), text)
    assert (len(hits) if isinstance(expected, int) else hits) == expected


UNSEEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u034f\ufe0f\0\ufffd\x1f\u061c\ue000\U000e0041"


@pytest.mark.parametrize("unseen", UNSEEN)
def test_what_is_not_seen_hides_no_term(unseen):
    for text in (f"Schwarzen{unseen}egger", f"{unseen}Ann {unseen} Lee{unseen}", f"Ann{unseen} Lee"):
        (hit,) = Blacklist(["Schwarzenegger", "Ann Lee"]).find(f"by {text}.")
        assert f"by {text}."[hit.start : hit.end].strip(unseen) == text.strip(unseen)
    assert Blacklist([f"Ann{unseen}e"]) == Blacklist(["Anne"])


def test_scripts_may_be_matched_by_whole_words():
    assert found(Blacklist(["田中", "김철수"], whole_words=["Han", "Hangul"]), "昨日田中 김철수는 田中 김철수") == [
        "田中",
        "김철수",
    ]
    with pytest.raises(ValueError, match="need a list of scripts out of Han"):
        Blacklist(["x"], whole_words=["Latin"])


@settings(max_examples=300)
@given(
    terms=st.lists(st.lists(st.sampled_from("abc-'"), min_size=1, max_size=4), min_size=1, max_size=6),
    kinds=st.lists(st.sampled_from(KINDS), min_size=6, max_size=6),
    text=st.lists(st.sampled_from("abc-', "), max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=4),
)
def test_every_character_of_every_occurrence_is_covered(terms, kinds, text, cuts):
    """Whatever overlaps: hits are disjoint, and no listed term or annotated listed span sticks out of them."""
    text = " ".join(text)
    blacklist = Blacklist()
    for term, kind in zip(terms, kinds):
        blacklist = blacklist | Blacklist([" ".join(term)], kind)
    identifiers = [{"start": a, "end": b} for a, b in zip(sorted(cuts), sorted(cuts)[1:]) if a < b <= len(text)]
    candidates, hits = blacklist.finder().candidates(text, identifiers), blacklist.find(text, identifiers)
    assert all(one.end <= two.start for one, two in zip(hits, hits[1:])) and hits == sorted(hits)
    covered = {i for hit in hits for i in range(hit.start, hit.end)}
    sought = {i for hit in candidates for i in range(hit.start, hit.end) if not text[i].isspace()}
    assert sought <= covered <= {i for hit in candidates for i in range(hit.start, hit.end)}
    for hit in hits:
        assert any(c.isalnum() for c in text[hit.start : hit.end])
        assert any(c[2:4] == hit[2:4] and c.start <= hit.start < c.end for c in candidates)


def test_longest_match_first():
    blacklist = Blacklist(["New York", "New York General Hospital", "General"])
    assert found(blacklist, "in New York General Hospital, New York General") == [
        "New York General Hospital", "New York", "General",
    ]  # fmt: skip


def test_strongest_kind_wins_on_overlap():
    blacklist = Blacklist(["Boston General Hospital"], kind="indirect") | Blacklist(["Boston"], kind="direct")
    hits = blacklist.find("at Boston General Hospital")
    assert [(h.start, h.end, h.kind) for h in hits] == [(3, 9, "direct"), (10, 26, "indirect")]
    assert [h.term_id for h in hits] == [0, 1]  # what is left of the longer one is still its own


def test_annotated_span_wins_over_a_longer_match():
    text = "seen at Smith Hospital"
    blacklist = Blacklist(["Smith", "Smith Hospital"])
    hits = blacklist.find(text, spans(text, ("Smith", "PATIENT")))
    assert [(h.start, h.end, h.gold) for h in hits] == [(8, 13, True), (14, 22, False)]


def test_case_sensitive():
    assert found(Blacklist(["May"], case_sensitive=True), "May may MAY") == ["May"]


def test_short_numbers_and_common_words_count_only_where_annotated(corpus):
    blacklist = Blacklist.from_annotations(corpus)
    assert found(blacklist, TEXTS[1], corpus[1]["identifiers"]) == ["Smith", "SMITH, JOHN", "May", "71"]
    assert found(blacklist, "71 may come in May, says Smith on 03/14/2011") == ["Smith", "03/14/2011"]
    everywhere = Blacklist.from_annotations(corpus, ambiguous="everywhere")
    assert found(everywhere, "71 may come in May") == ["71", "may", "May"]


def test_rare_words_stand_in_the_records_of_one_person_outside_direct_identifiers():
    texts = ["Ann keeps falcons at home", "Ann has two falcons", "Bob at home", "falconry home 5x two"]
    corpus = make_corpus(texts, [spans(texts[0], ("Ann", "P")), [], spans(texts[2], ("Bob", "P")), []], list("aabc"))
    terms = set(Blacklist.from_rare_words(corpus, k=2).terms(reveal=True)["term"])
    assert terms == {"keeps", "falcons", "has", "falconry"}
    assert set(Blacklist.from_rare_words(corpus, k=3).terms(reveal=True)["term"]) == terms | {"at", "two"}


def test_a_fluke_of_a_tagger_does_not_list_a_common_word():
    """ "The" is covered once in 21 places (4.8 %), "Rose" once in 3, "Rook Bay" always."""
    texts = ["The Rook Bay ferry. " + "the sea, " * 20, "Rose met a rose near a rose by Rook Bay."]
    corpus = make_corpus(texts)
    found = [
        [{"start": 0, "end": 3, "type": "PER"}, {"start": 4, "end": 12, "type": "LOC"}],
        [{"start": 0, "end": 4, "type": "PER"}, {"start": 31, "end": 39, "type": "LOC"}],
    ]

    def listed(**options):
        return sorted(Blacklist.from_spans(corpus, found, **options).terms(reveal=True)["term"])

    assert listed() == ["Rook Bay", "Rose"]
    assert listed(min_share=0) == listed(min_share=1 / 21) == ["Rook Bay", "Rose", "The"]
    assert listed(min_share=0.5) == ["Rook Bay"]
    assert listed(min_share=0.5, top=1) == ["Rook Bay"]
    with pytest.raises(ValueError, match="min_share=1.5 is out of range"):
        listed(min_share=1.5)


def test_capitalized_words_by_hand():
    """Names keep their capital inside sentences; openers, headings, titles and words also written small are none."""
    corpus = make_corpus(
        [
            "HELEN AND THE MOOR\n\nThe moor was dark. Then Helen saw Rook and Helen ran, Tom after her. Mrs Rook sang.",
            "It was Helen, Rook said. On Monday the rook flew. Helen smiled; we saw Mrs Dale. Tom's dog met tom there.",
        ]
    )
    names = Blacklist.from_capitalized(corpus)
    # Rook is written small once in five, Tom once in three, Monday and Dale never.
    assert set(names.terms(reveal=True)["term"]) == {"helen", "monday", "dale"}
    assert set(names.terms()["kind"]) == {"confidential"}
    assert set(Blacklist.from_capitalized(corpus, share=0.6).terms(reveal=True)["term"]) == {
        "helen", "monday", "dale", "rook", "tom",
    }  # fmt: skip
    assert Blacklist.from_capitalized(corpus, min_count=3).terms(reveal=True)["term"].tolist() == ["helen"]
    assert Blacklist.from_capitalized(corpus, top=1).terms(reveal=True)["term"].tolist() == ["helen"]
    with pytest.raises(ValueError, match="no word is written with a capital inside a sentence 9 times"):
        Blacklist.from_capitalized(corpus, min_count=9)
    with pytest.raises(ValueError, match="top=0"):
        Blacklist.from_capitalized(corpus, top=0)


def test_an_annotated_clause_is_taken_as_several_terms():
    text = "Filed: " + " ".join(f"word{i}x" for i in range(30)) + ". End."
    span = {"start": 7, "end": len(text) - 6, "type": "MISC", "kind": "direct"}
    corpus = make_corpus([text], [[span]])
    blacklist = Blacklist.from_annotations(corpus)
    hits = blacklist.find(text, [span])
    assert len(blacklist) == 3 and [len(text[h.start : h.end].split()) for h in hits] == [10, 10, 10]
    assert all(h.gold for h in hits) and (hits[0].start, hits[-1].end) == (7, len(text) - 6)


def test_kinds_and_set_operations():
    a = Blacklist(["Ann", "Bob"], kind="indirect")
    b = Blacklist(["bob", "Cyd"], kind="direct")
    assert sorted((a | b).terms(True)[["term", "kind"]].itertuples(index=False, name=None)) == [
        ("Ann", "indirect"), ("Bob", "direct"), ("Cyd", "direct"),
    ]  # fmt: skip
    assert list((a - b).terms(True)["term"]) == ["Ann"]
    assert list((a & b).terms(True)["term"]) == ["Bob"]
    assert "BOB" in a and "Cyd" not in a
    with pytest.raises(ValueError, match="differ in case_sensitive"):
        a | Blacklist(["x"], case_sensitive=True)


def test_save_load_round_trip_and_mode(tmp_path, corpus):
    blacklist = Blacklist.from_annotations(corpus) | Blacklist(['a, quoted "one"'], kind="confidential")
    blacklist.save(tmp_path / "terms.csv")
    assert Blacklist.load(tmp_path / "terms.csv") == blacklist
    assert stat.S_IMODE((tmp_path / "terms.csv").stat().st_mode) == 0o600


def test_file_of_one_term_per_line(tmp_path):
    (tmp_path / "terms.txt").write_text("\ufeffAnn, the baker\n\n  Bob \n", encoding="utf-8")
    assert list(Blacklist.from_file(tmp_path / "terms.txt", kind="confidential").terms(True)["term"]) == [
        "Ann, the baker", "Bob",
    ]  # fmt: skip


def test_repr_shows_counts_and_no_term(corpus):
    shown = repr(Blacklist.from_annotations(corpus))
    assert "13 terms" in shown and "direct" in shown
    assert not re.search("smith|neil|izmir|zo", shown, re.I)


def test_coverage_by_hand():
    corpus = make_corpus(["Ann Lee met Bob in Rome."])
    table = (Blacklist(["Ann Lee"]) | Blacklist(["Rome"], kind="confidential")).coverage(corpus).set_index("kind")
    assert table.loc["direct", ["hits", "words"]].tolist() == [1, 2]
    assert table.loc["all", "share"] == pytest.approx(3 / 6)


def test_collisions_list_terms_that_stand_elsewhere_too(corpus):
    table = Blacklist.from_annotations(corpus).collisions(corpus, reveal=True).set_index("term")
    assert table.loc["May", ["annotated", "elsewhere", "match"]].tolist() == [1, 1, "span"]
    assert "term" not in Blacklist.from_annotations(corpus).collisions(corpus)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Blacklist(["x"], kind="secret"), "kind 'secret' is unknown; use one of direct"),
        (lambda p: Blacklist.from_file(p / "no.csv"), "no blacklist file"),
        (lambda p: Blacklist.from_file(p / "empty.txt"), "no term in it"),
        (lambda p: Blacklist.from_file(p / "latin.txt"), "not UTF-8 at byte 2"),
        (lambda p: Blacklist.from_file(p / "kind.csv"), "unknown kind or match"),
        (lambda p: Blacklist.from_annotations(make_corpus(["no spans"])), "no annotated identifiers"),
        (lambda p: Blacklist.from_annotations(make_corpus(["a b"]), ambiguous="maybe"), "use one of span, everywhere"),
        (lambda p: Blacklist.from_rare_words(make_corpus(["a b"]), k=1), "k=1"),
        (lambda p: Blacklist.from_rare_words(make_corpus(["a b"]), k=float("nan")), "k must be a whole number"),
    ],
)
def test_bad_input_is_named(make, message, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    (tmp_path / "kind.csv").write_text("term,kind\nZanzibarian,weird\n")
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=re.escape(message)) as caught:
        make(tmp_path)
    assert "Zanzibarian" not in str(caught.value)


letters = st.text("abcABC", min_size=1, max_size=2)


@given(
    terms=st.lists(st.lists(letters, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=5),
    text=st.lists(st.tuples(letters, st.sampled_from([" ", "\n", "-", ", ", ". "])), max_size=15),
)
def test_same_as_a_slow_matcher(terms, text):
    """Every term tried as a regular expression at every place: longest first, then leftmost."""
    text = "".join(word + gap for word, gap in text)
    candidates = []
    for term in terms:
        pattern = r"[\s\-]+".join(map(re.escape, term.split()))
        for i in range(len(text)):
            match = re.compile(rf"(?<![^\W_])(?:{pattern})(?![^\W_])", re.I).match(text, i)
            if match:
                candidates.append(match.span())
    taken, free = [], [not c.isspace() for c in text]
    for start, end in sorted(set(candidates), key=lambda s: (s[0] - s[1], s[0])):
        left = [i for i in range(start, end) if free[i]]
        for i in left:
            free[i] = False
            taken.append((i, (start, end)))
    pieces = []
    for i, owner in sorted(taken):  # runs of characters of one owner, with the white space inside
        gap = pieces and pieces[-1][2] == owner and not text[pieces[-1][1] : i].strip()
        pieces = [*pieces[:-1], (pieces[-1][0], i + 1, owner)] if gap else [*pieces, (i, i + 1, owner)]
    expected = []
    for start, end, _ in pieces:
        if expected and not any(map(str.isalnum, text[start:end])):
            start = expected.pop()[0]
        expected.append((start, end))
    assert [(h.start, h.end) for h in Blacklist(terms).find(text)] == expected
