"""Marked text: it is the text, all of it escaped, and no mark tells of another target than the objective has."""

import html
import re

import pytest
from conftest import make_corpus
from hypothesis import given
from hypothesis import strategies as st

import sani
from sani.blocks import tensors
from sani.demo import marks
from sani.masking import IGNORE, OBJECTIVES
from sani.text.matching import Hit

TOKEN = re.compile(
    r"<ruby><mark [^>]*title=\"([^\"]*)\">([^<]*)</mark><rp>[^<]*</rp><rt[^>]*>([^<]*)</rt>.*?</ruby>|(\S+)"
)
TEXT = "Kristy Castillo, a beekeeper in Kelly, was seen by Dr. Page for pain & <b>fever</b> in her right shoulder."
LISTED = sani.Blacklist(["Kristy Castillo", "Kelly", "Page"]) | sani.Blacklist(["beekeeper"], "indirect")
HIDE = {False: "mask_token_id", True: "pad_token_id"}
EPOCHS = range(12)


def shown(marked) -> str:
    """The text of a view of `spans`, without its signs and its legend."""
    body = re.search(r"<pre[^>]*>\n(.*)</pre>", marked.data, re.S)[1]
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<sup[^>]*>[^<]*</sup>", "", body)))


@given(
    st.text("ab <>&\"'\n;é", max_size=40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["A", "AB", "<i>", ""]))),
)
def test_the_text_shown_is_the_text(text, found):
    found = [{"start": a, "end": min(b, len(text)), "type": label} for a, b, label in found if a < min(b, len(text))]
    marked = marks.spans(text, found)
    assert shown(marked) == text
    covered = "".join(re.findall(r"<mark[^>]*>([^<]*)<sup", marked.data))
    inside = {i for span in found for i in range(span["start"], span["end"])}
    assert html.unescape(covered) == "".join(text[i] for i in sorted(inside))


def test_each_span_has_the_sign_and_the_style_of_its_type_or_kind():
    text = "<script>alert(1)</script> Page, Kelly"
    types = [{"start": 26, "end": 30, "type": "DOCTOR"}, {"start": 32, "end": 37, "type": "<DATE>"}]
    view = marks.spans(text, [*types, {"start": 8, "end": 13, "type": "DATE"}]).data
    assert "<script" not in view and "<DATE" not in view and "&lt;script&gt;" in view
    signs = dict(re.findall(r"<mark[^>]*title=\"([^\"]*)\">[^<]*<sup[^>]*>([^<]*)</sup>", view))
    assert signs == {"DOCTOR": "DO", "&lt;DATE&gt;": "&lt;", "DATE": "DA"}
    hits = [Hit(26, 30, 0, "direct", True), Hit(32, 37, 1, "indirect", False)]
    both, one = marks.spans(text, hits).data, marks.spans(text, hits[1:]).data
    assert re.search(r"Page<sup[^>]*>d<", both) and re.search(r"Kelly<sup[^>]*>i<", both)
    styles = dict(re.findall(r"style=\"([^\"]*)\" title=\"(\w+)\"", both))
    assert len(styles) == 2 and set(re.findall(r"style=\"([^\"]*)\" title=\"indirect", one)) < styles.keys()
    assert len({re.search(r"3px (\w+) #", style)[1] for style in styles}) == 2, "apart in grey too"
    assert "direct" not in marks.spans(text, []).data


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_marks_are_what_the_objective_draws(name):
    objective = OBJECTIVES[name]
    _, tokenizer = sani.load_model("tiny-gpt2" if objective.causal else "tiny-bert")
    rows = tensors(sani.encode(make_corpus([TEXT]), tokenizer, LISTED, block_size=64, progress=False))
    hide = getattr(tokenizer, HIDE[objective.causal])
    leaks = 0
    for epoch in EPOCHS:
        input_ids, labels = objective.draw(rows, hide, 0, epoch)
        view = marks.tokens(tokenizer, rows, {"<i>": (input_ids, labels)}).data
        assert "<i>" not in view and "<b>" not in view.replace("<b>&lt;i&gt;</b>", "")
        (line,) = re.findall(r"line-height[^>]*>(.*?)</div>", view)
        found = TOKEN.findall(line)
        names = tokenizer.convert_ids_to_tokens
        length = int(rows["attention_mask"].sum())
        assert [html.unescape(read or plain) for _, read, _, plain in found] == names(input_ids[0, :length].tolist())
        for (mark, _, above, _), label, listed in zip(found, labels[0].tolist(), (rows["sensitive"][0] > 0).tolist()):
            if label == IGNORE:
                assert (mark, above) == ((marks.SPARED, "×") if listed else ("", ""))
            else:
                assert mark == (marks.LEAKS if listed else marks.ASKED)
                assert html.unescape(above) == names(label) + " !" * listed
        leaks += marks.LEAKS in view
        assert (marks.LEAKS in view) <= (not objective.spares)
    assert bool(leaks) != objective.spares, "an unprotected objective asks for listed terms in some epoch"
