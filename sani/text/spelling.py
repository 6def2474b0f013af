"""How a tokenizer writes the terms of a blacklist."""

from transformers import PreTrainedTokenizerBase

from .blacklists import Blacklist

AT_ONCE = 1 << 11  # terms to tokenize


def spellings(blacklist: Blacklist, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """The token ids of the terms that count everywhere, in every way each may be written, sorted.

    As on the list and, unless case matters, in small letters, in capitals, and with capitals first; with a space before
    and without. A term that the vocabulary cannot spell is left out.
    """
    terms = blacklist.terms(reveal=True)
    terms = terms.loc[terms["match"] == "everywhere", "term"]
    ways = (str,) if blacklist.rules.case_sensitive else (str, str.lower, str.upper, str.title)
    written = sorted({lead + way(term) for term in terms for way in ways for lead in ("", " ")})
    found = set()
    for first in range(0, len(written), AT_ONCE):
        ids = tokenizer(written[first : first + AT_ONCE], add_special_tokens=False)["input_ids"]
        found |= {tuple(sequence) for sequence in ids if sequence and tokenizer.unk_token_id not in sequence}
    return sorted(found)
