"""Where terms stand, against a slow matcher that looks at every word; and the words of tokens, against a regex."""

import re
import unicodedata
from unicodedata import category

import numpy as np
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from sani.text.alignment import kinds, trim, words
from sani.text.blacklists import Blacklist
from sani.text.matching import APOSTROPHES, WORD, Matcher, Rules, fold

# Letters that fold to several or to others, marks, jamo, half-width kana, digits of other scripts, signs that NFKC
# spells out, all kinds of white space and hyphens, apostrophes, what is not seen, scripts without spaces.
ODD = "aAbBßſİıéçÇσςΣǅ가각ｶﾞﾊﾟ漢田カーกำ"
ODD += "\u1100\u1161\u11a8٣3½²ﬁ™℀Ⅳ①\u0301\u0327\u064e -_.,'’ʼ´…\n\t\r\u00a0\u00ad\u2010\u2212\u200d\0\ufffd\U0001d54f"
texts = st.text(st.sampled_from(ODD), max_size=40)
terms = st.lists(st.text(st.sampled_from(ODD), min_size=1, max_size=6), min_size=1, max_size=5)
SHAPES = [Rules(), Rules(case_sensitive=True), Rules(whole_words=("Han", "Hangul", "Katakana", "Thai"))]


def joined(c: str) -> bool:
    """Whether a character goes on a word that it cannot begin."""
    unseen = c == "\ufffd" or (category(c)[0] == "C" and c not in "\t\n\v\f\r\x85") or c in "\u034f\ufe0f"
    return unseen or category(c)[0] == "M" or c in "ﾞﾟ" or "\u1160" <= c <= "\u11ff"


def sort_of(c: str, rules: Rules) -> str:
    """What a character is by itself: "" between words, else of what it makes a word."""
    script = next((s for s in ("HANGUL", "CJK", "KATAKANA", "THAI") if s in unicodedata.name(c, "")), "")
    script = {"CJK": "Han"}.get(script, script.title())
    if c in APOSTROPHES:
        return "sign"
    if category(c)[0] == "N":
        return "digits"
    if c.isalpha():
        return "letter" if script and script not in rules.whole_words else "letters"
    return "" if c.isspace() or c in "-_\u00b7" or category(c) == "Pd" or c == "\u2212" else "sign"


def plain_atoms(text: str, rules: Rules) -> list[tuple[int, int]]:
    """As slow and plain as it can be said: what goes on a word, what a run, what stands by itself."""
    found, going = [], ""  # of what the last atom is made
    for i, c in enumerate(text):
        sort = sort_of(c, rules)
        if going not in ("", "sign") and (joined(c) or (sort == going and sort in ("letters", "digits"))):
            found[-1] = (found[-1][0], i + 1)
        elif joined(c):
            going = ""
        elif going := sort:
            found.append((i, i + 1))
    return found


def slow(text: str, ids: dict, rules: Rules) -> set[tuple[int, int, int]]:
    hits = set()
    broken = re.sub(r"(?:[-\u2010\u2212\u00ad])[^\S\n]*\n\s*(?=[^\W\d_])", lambda m: "\u200d" * len(m[0]), text)
    for read in {text, broken}:
        atoms = [(a, b, rules.normal(read[a:b])) for a, b in plain_atoms(read, rules)]
        hits |= {
            (atoms[i][0], atoms[j - 1][1], ids[key])
            for i in range(len(atoms))
            for j in range(i + 1, len(atoms) + 1)
            if (key := tuple(word for _, _, word in atoms[i:j])) in ids
        }
    return hits


@settings(max_examples=500)
@given(terms, texts, st.sampled_from(SHAPES))
def test_finds_what_a_slow_matcher_finds(terms, text, rules):
    ids = {key: i for i, key in enumerate(sorted({rules.key(term) for term in terms} - {()}))}
    found = list(Matcher(ids, rules).find(text))
    assert len(found) == len(set(found)) and set(found) == slow(text, ids, rules)


@settings(max_examples=500)
@given(texts, st.sampled_from(SHAPES))
def test_atoms_are_what_the_plain_reading_says(text, rules):
    assert [m.span() for m in rules.atom.finditer(text)] == plain_atoms(text, rules)


def test_every_letter_of_unicode_is_folded_as_its_word_is():
    """Alone and inside a word: what `str.translate` does letter by letter is what NFKC and casefold do to words."""
    letters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for rules, least in ((Rules(), 15_000), (SHAPES[2], 100_000)):
        matcher = Matcher({("x",): 0}, rules)
        plain = [c for c in letters if matcher.letters[ord(c)] not in ("\0", " ")]
        assert len(plain) > least
        for c in plain:
            assert fold("a" + c + "b") == "a" + matcher.letters[ord(c)] + "b"
        for c in (c for c in letters if matcher.letters[ord(c)] == " "):
            assert not rules.key(c) and not rules.atom.fullmatch("a" + c)


def test_hits_of_a_long_text_stand_where_they_should():
    rng = np.random.default_rng(0)
    drawn = [["ann lee", "Bob", "x", "—", "Straße", "o'neil", "e\u0301"][i] for i in rng.integers(7, size=3000)]
    text = "  ".join(drawn)
    hits = Blacklist(["Ann Lee", "BOB", "STRASSE", "O'Neil", "\u00e9"]).find(text)
    listed = [word for word in drawn if word not in ("x", "—")]
    assert [text[h.start : h.end] for h in hits] == listed


WORDS = regex.compile(rf"{WORD.pattern}|\S", regex.V1)


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
    spans = [match.span() for match in WORDS.finditer(text)]
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
    text = "".join(chr(code) for code in range(0x3100) if category(chr(code)) not in ("Cs", "Cn"))
    found = kinds(text).tolist()
    for c, kind in zip(text, found):
        letter = c.isalnum() and c not in APOSTROPHES
        assert kind == (2 if letter else 3 if joined(c) else 1 if c.isspace() else 0), hex(ord(c))
