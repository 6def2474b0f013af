"""What is to be forgotten of one person of a corpus: direct identifiers, and words that no other's records hold.

A person_id may be a name: no message holds it.
"""

from collections.abc import Sequence

from datasets import Dataset

from ..blocks import check_corpus
from ..runs import checked
from ..text.blacklists import Blacklist


def terms_of(
    corpus: Dataset, person_id: str, rare: bool = True, types: Sequence[str] | None = None, ambiguous: str = "span",
    default_kind: str = "direct", **rules,
) -> Blacklist:  # fmt: skip
    """The blacklist for one person of a corpus, as for a request of erasure (GDPR, Article 17).

    Direct: what the records of that person have annotated as direct, or of `types`, also where it names others, such as
    a doctor. With `rare`, indirect: annotated indirect identifiers, and words of at least two letters, that stand in no
    record of anybody else. `ambiguous` and `default_kind` are those of `Blacklist.from_annotations`, by the whole
    corpus; `rules` those of `matching.Rules`. Terms count in every record: a name is spared wherever it stands.
    Raises TypeError or ValueError for another corpus, no record of that person, one that holds nobody else (where every
    word would be rare) unless `rare=False`, and nothing to list.
    Source: PAPER §2, arXiv 2501.02407 with k = 2.
    """
    persons = check_corpus(corpus)["person_id"]
    checked("person_id", person_id, str)
    own, others = ([i for i, one in enumerate(persons) if (one == person_id) == same] for same in (True, False))
    if not own:
        raise ValueError(f"none of the {len(persons)} records is of that person_id; compare with corpus['person_id']")
    if checked("rare", rare, bool) and not others:
        raise ValueError("the corpus holds no other person, so every word would be rare; add records or use rare=False")
    own, others, found = corpus.select(own), corpus.select(others), Blacklist((), **rules)
    of_types = {
        span["type"] for spans in own["identifiers"] for span in spans if types is None or span["type"] in types
    }
    if types is not None or of_types:
        listed = Blacklist.from_annotations(corpus, types, ambiguous, default_kind, **rules)
        kinds = listed.terms()["kind"]
        elsewhere = {hit.term_id for hits in listed.find_all(others) for hit in hits}
        spared = {i for i in kinds.index[kinds == "indirect"] if i in elsewhere or not rare}
        if of_types:
            here = Blacklist.from_annotations(own, sorted(of_types), "everywhere", default_kind, **rules)
            found = listed.only({*listed.ids(here)} - spared)
    if rare:
        words = Blacklist.from_rare_words(corpus, k=2, **rules)
        found |= words.only(hit.term_id for hits in words.find_all(own) for hit in hits)
    if not found:
        raise ValueError("nothing of that person is annotated, and no word is rare; list the terms: Blacklist([…])")
    return found
