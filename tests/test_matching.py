"""Where terms stand, against a slow matcher that looks at every word; and the words of tokens, against a regex."""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sani.alignment import kinds, trim, words
from sani.blacklists import Blacklist
from sani.matching import ATOM, Matcher, compose, fold, key_of

# Letters that fold to several or to others, marks, jamo, half-width kana, digits of other scripts, signs that NFKC
# spells out, all kinds of white space and hyphens, NUL.
ODD = "aAbBßſİıéçÇσςΣǅ가각ｶﾞﾊﾟ漢\u1100\u1161\u11a8٣3½²ﬁ™℀Ⅳ①\u0301\u0327 -_.,'’…\n\t\u00a0\u00ad\u2010\u200d\0\U0001d54f"
texts = st.text(st.sampled_from(ODD), max_size=40)
terms = st.lists(st.text(st.sampled_from(ODD), min_size=1, max_size=6), min_size=1, max_size=5)
# A word's first letter, then letters and marks; or one other sign: as slow and plain as it can be said.
PLAIN = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*|[^\w\s\-\u00ad\u2010-\u2015]")


def slow(text: str, ids: dict, normal) -> set[tuple[int, int, int]]:
    atoms = [(m.start(), m.end(), normal(m.group())) for m in PLAIN.finditer(text)]
    return {
        (atoms[i][0], atoms[j - 1][1], ids[key])
        for i in range(len(atoms))
        for j in range(i + 1, len(atoms) + 1)
        if (key := tuple(word for _, _, word in atoms[i:j])) in ids
    }


@settings(max_examples=500)
@given(terms, texts, st.booleans())
def test_finds_what_a_slow_matcher_finds(terms, text, case_sensitive):
    normal = compose if case_sensitive else fold
    ids = {key: i for i, key in enumerate(sorted({key_of(term, normal) for term in terms} - {()}))}
    found = list(Matcher(ids, normal).find(text))
    assert len(found) == len(set(found)) and set(found) == slow(text, ids, normal)


@given(texts)
def test_atoms_are_what_the_plain_pattern_says(text):
    assert ATOM.findall(text) == PLAIN.findall(text)


def test_every_letter_of_unicode_is_folded_as_its_word_is():
    """Alone and inside a word: what `str.translate` does letter by letter is what NFKC and casefold do to words."""
    letters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    matcher = Matcher({("x",): 0}, fold)
    plain = [c for c in letters if matcher.letters[ord(c)] not in ("\0", " ")]
    assert len(plain) > 100_000
    for c in plain:
        assert fold("a" + c + "b") == "a" + matcher.letters[ord(c)] + "b"
    for c in (c for c in letters if matcher.letters[ord(c)] == " "):
        assert not key_of(c, fold) and not ATOM.fullmatch("a" + c)


def test_hits_of_a_long_text_stand_where_they_should():
    rng = np.random.default_rng(0)
    drawn = [["ann lee", "Bob", "x", "—", "Straße", "o'neil", "e\u0301"][i] for i in rng.integers(7, size=3000)]
    text = "  ".join(drawn)
    hits = Blacklist(["Ann Lee", "BOB", "STRASSE", "O'Neil", "\u00e9"]).find(text)
    listed = [word for word in drawn if word not in ("x", "—")]
    assert [text[h.start : h.end] for h in hits] == listed


WORD = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*|\S")


@settings(max_examples=300)
@given(texts, st.data())
def test_words_of_tokens_are_those_of_a_regex(text, data):
    """Two tokens share a word if the same match covers both, or a chain of tokens joins the matches."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=10)) | {0, len(text)})
    offsets = np.array(list(zip(cuts, cuts[1:])), dtype=np.int64).reshape(-1, 2)
    trimmed = trim(kinds(text), offsets)
    for (a, b), (start, end) in zip(trimmed.tolist(), offsets.tolist()):
        piece = text[start:end]
        assert text[a:b] == (piece.strip() or piece)
    spans = [match.span() for match in WORD.finditer(text)]
    group = list(range(len(spans)))
    touched = [[k for k, (s, e) in enumerate(spans) if s < b and a < e] for a, b in trimmed.tolist()]
    for found in touched:
        for k in found:
            group = [group[found[0]] if g == group[k] else g for g in group]
    got = words(kinds(text), trimmed).tolist()
    for i, one in enumerate(touched):
        for j, two in enumerate(touched):
            if one and two:
                assert (got[i] == got[j]) == (group[one[0]] == group[two[0]])
            elif one or two:
                assert got[i] != got[j]


def test_kinds_are_those_of_python():
    text = "".join(chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000)
    found = kinds(text).tolist()
    for c, kind in zip(text, found):
        assert kind == (1 if c.isspace() else 2 if c.isalnum() else 3 if "\u0300" <= c <= "\u036f" else 0)
