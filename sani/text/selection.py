"""Which annotated terms are listed, and where they count: pieces, common words, short numbers (PAPER §3.1)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import regex
from datasets import Dataset

from ..runs import checked, one_of
from .matching import WORD, Key, fold

AMBIGUOUS = ("span", "everywhere")
LONGEST = 12  # words of an annotated span that are taken as one term

# A word written by itself: "smith" in "smith@example.org" does not make a name a common word.
ALONE = regex.compile(rf"(?<!\S){WORD.pattern}(?=[\s.,;:!?)]|$)", regex.V1)


@dataclass(frozen=True)
class Selection:
    """Which annotated terms are listed, and where they count.

    Terms annotated fewer than `min_count` times are left out, as are those annotated in less than `min_share` of the
    places where they are matched, and all but the `top` most frequent ones (ties by the term). `ambiguous="span"`:
    short numbers and single common words ("71", "May") count only where they are annotated; a word is common if it has
    one or two letters, or if the corpus outside its annotated spans also writes it in lower case or has it more often
    than annotated. `"everywhere"` matches them all. Raises TypeError or ValueError for values that are none.
    """

    min_count: int = 1
    top: int | None = None
    min_share: float = 0.0
    ambiguous: str = "span"

    def __post_init__(self):
        one_of("ambiguous", self.ambiguous, AMBIGUOUS)
        checked("min_count", self.min_count, int, 1)
        checked("top", 1 if self.top is None else self.top, int, 1)
        checked("min_share", self.min_share, float, 0, 1)

    def of(self, blacklist, corpus: Dataset, annotated: Mapping[Key, int]) -> list[Key]:
        """The chosen terms of a blacklist, the most often annotated first; ValueError if none is left."""
        found = sorted(annotated, key=lambda key: (-annotated[key], key))
        kept = [key for key in found if annotated[key] >= self.min_count]
        if not kept:
            most = max(annotated.values())
            raise ValueError(f"min_count={self.min_count}: no term has more than {most} spans; lower it")
        if self.min_share:
            ids, hits = blacklist._ids, Counter((h.term_id, h.gold) for of in blacklist.find_all(corpus) for h in of)
            gold, others = ({key: hits[ids[key], of] for key in kept} for of in (True, False))
            kept = [key for key in kept if gold[key] >= self.min_share * (gold[key] + others[key])]
            if not kept:
                raise ValueError(f"min_share={self.min_share}: every term stands elsewhere far more often; lower it")
        return kept[: self.top]


def is_number(key: Key) -> bool:
    """Whether a term is too short a number ("71", "03/14") to mean the same wherever it stands."""
    text = "".join(key)
    return not any(c.isalpha() for c in text) and sum(c.isdigit() for c in text) < 6


def common_words(corpus: Dataset, annotated: Mapping[Key, int]) -> set[Key]:
    """The annotated single words that are common ones: see `Selection`."""
    elsewhere, lower = Counter(), set()
    for text, spans in zip(corpus["text"], corpus["identifiers"]):
        rest = outside(text, spans)
        elsewhere.update(map(fold, WORD.findall(rest)))
        lower.update(fold(word) for word in set(ALONE.findall(rest)) if word.islower())
    # "B12" is one word, though matched as two.
    words = {k: fold("".join(k)) for k in annotated if len(k) == 1 or _is_mixed(k)}
    return {k for k, word in words.items() if len(word) < 3 or word in lower or elsewhere[word] > annotated[k]}


def _is_mixed(key: Key) -> bool:
    """Whether a term is of letters and of digits, without signs."""
    return all(map(str.isalnum, key)) and any(map(str.isnumeric, key)) and not all(map(str.isnumeric, key))


def outside(text: str, spans: Iterable[Mapping]) -> str:
    """What of a text lies outside of spans, its pieces parted by line ends."""
    edges = sorted((span["start"], span["end"]) for span in spans)
    return "\n".join(text[end:start] for (_, end), (start, _) in zip([(0, 0), *edges], [*edges, (len(text), 0)]))


def pieces(term: str) -> list[str]:
    """The term itself, or parts of nearly equal numbers of words if it is too long for one."""
    words = list(WORD.finditer(term))
    parts = max(-(-len(words) // LONGEST), 1)
    cuts = [0, *(words[len(words) * i // parts].start() for i in range(1, parts)), len(term)]
    return [term[a:b] for a, b in zip(cuts, cuts[1:])]
