"""Text with marks, as HTML: the spans of a record, and what an objective hides of a row and asks for.

No mark is a colour alone: each has a line of its own and a sign, which stay in grey and where styles are dropped. Text
keeps the page's colour, so that it reads in light and dark.
"""

import html
from collections.abc import Iterable, Mapping, Sequence

from IPython.display import HTML
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..masking import IGNORE, Drawn
from ..text.matching import KINDS, Hit

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")  # Okabe–Ito
LINES = ("solid", "dashed", "dotted", "double")
LEAKS, ASKED, SPARED = "listed, and to be predicted", "to be predicted", "listed, not to be predicted here"
ASKS = (LEAKS, ASKED, SPARED)
SMALL = "font-size:75%;user-select:none"
MONO = "font-family:monospace;color:inherit;background:none"


def _mark(shown: str, label: str, labels: Sequence[str]) -> str:
    """Escaped text marked as one of some labels: a tint, a line below, and the label for a pointer that rests there."""
    at = labels.index(label)
    colour, line = COLOURS[at % len(COLOURS)], LINES[at % len(LINES)]
    style = f"color:inherit;background-color:{colour}40;border-bottom:3px {line} {colour}"
    return f'<mark style="{style}" title="{html.escape(label)}">{shown}</mark>'


def _signs(labels: Sequence[str]) -> dict[str, str]:
    """The first letters of each label that no other one begins with, or all of it."""
    return {
        label: next(
            (label[:n] for n in range(1, len(label)) if sum(other.startswith(label[:n]) for other in labels) == 1),
            label,
        )
        for label in labels
    }


def spans(text: str, found: Iterable[Mapping | Hit]) -> HTML:
    """A text with its annotated spans marked by type, or the hits of a blacklist by kind, and a legend; all escaped.

    found: `identifiers` of a record, or what `Blacklist.find` returns. Of what overlaps, the first span has it.
    """
    found = [s if isinstance(s, Mapping) else {**s._asdict(), "type": s.kind} for s in found]
    marked = [(s["start"], s["end"], s["type"] or "other") for s in found]
    present = {label for *_, label in marked}
    labels = list(KINDS) if present <= set(KINDS) else sorted(present)
    signs, parts, done = _signs(labels), [], 0
    for start, end, label in sorted(marked):
        if (start := max(start, done)) < end:
            sign = f'<sup style="{SMALL}">{html.escape(signs[label])}</sup>'
            parts += html.escape(text[done:start]), _mark(html.escape(text[start:end]) + sign, label, labels)
            done = end
    parts.append(html.escape(text[done:]))
    legend = [(_mark(html.escape(signs[label]), label, labels), label) for label in labels if label in present]
    return HTML(f'<pre style="{MONO};white-space:pre-wrap">\n{"".join(parts)}</pre>{_legend(legend)}')


def tokens(tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, Tensor], drawn: Mapping[str, Drawn]) -> HTML:
    """The first of some rows, a line for each objective: what the model reads, above it what it is to predict there.

    rows: the columns of `blocks.tensors`; drawn: (input_ids, labels) by name, as `OBJECTIVES[…].draw` returns them. A
    listed token that is to be predicted has "!" above it, any other listed one "×". Labels stand at their own token.
    """
    length, listed = int(rows["attention_mask"][0].sum()), (rows["sensitive"][0] > 0).tolist()
    lines, present = [], set()
    for name, (input_ids, labels) in drawn.items():
        parts = []
        for read, label, is_listed in zip(input_ids[0, :length].tolist(), labels[0].tolist(), listed):
            shown, asked = html.escape(tokenizer.convert_ids_to_tokens(read)), label != IGNORE
            if asked or is_listed:
                mark = (LEAKS if asked else SPARED) if is_listed else ASKED
                above = html.escape(tokenizer.convert_ids_to_tokens(label)) + " !" * is_listed if asked else "×"
                rt = f'<rp> (</rp><rt style="{SMALL};color:inherit;padding:0 3px">{above}</rt><rp>)</rp>'
                shown = f"<ruby>{_mark(shown, mark, ASKS)}{rt}</ruby>"
                present.add(mark)
            parts.append(shown)
        line = f'<div style="{MONO};line-height:2.4">{" ".join(parts)}</div>'
        lines.append(f"<div><b>{html.escape(name)}</b></div>{line}")
    signs = {LEAKS: "word !", ASKED: "word", SPARED: "×"}
    return HTML("".join(lines) + _legend([(_mark(signs[m], m, ASKS), m) for m in ASKS if m in present]))


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    """A line below: each mark (HTML) and what it means (text)."""
    meant = " &nbsp; ".join(f"{mark} {html.escape(label)}" for mark, label in entries)
    return f'<p class="sani-legend" style="font-size:90%">{meant}</p>'
