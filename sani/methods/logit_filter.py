"""Control: blacklisted terms banned at decoding, no training."""

from collections import defaultdict
from collections.abc import Iterable
from types import MethodType

import torch
from datasets import Dataset
from torch import Tensor
from transformers import LogitsProcessorList, NoBadWordsLogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from .. import blocks as blocks_
from ..models import clone, family, vocabulary, warn_when_saved
from ..runs import checked
from ..text.blacklists import Blacklist
from ..text.spelling import spellings


class LogitFilter:
    """Bans the listed terms of some blocks at decoding: the next best token is taken where one would be completed.

    `more`: token ids of terms that are banned as well. As Hugging Face's bad-words filter does, the last token of a
    banned sequence is ruled out after its first ones. Held in memory beside the model, never saved: it would carry the
    terms in clear. Raises ValueError if there is none.
    """

    def __init__(self, blocks: Dataset, more: Iterable[tuple[int, ...]] = ()):
        columns = blocks_.tensors(blocks, "input_ids", "unit_ids", "term_ids")
        listed = columns["term_ids"] >= 0
        units, ids = columns["unit_ids"][listed], columns["input_ids"][listed]
        here = ids.split(torch.unique_consecutive(units, return_counts=True)[1].tolist()) if listed.any() else ()
        last: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for *first, end in {*more, *(tuple(sequence.tolist()) for sequence in here)}:
            last[tuple(first)].add(end)
        if not last:
            raise ValueError("the blocks hold no listed term, so there is none to ban; encode with another blacklist")
        self.sequences = [[*first, end] for first, ends in sorted(last.items()) for end in sorted(ends)]
        self.last = {first: torch.tensor(sorted(ends)) for first, ends in last.items()}
        self.any_last = torch.tensor(sorted(set().union(*last.values())))

    def argmax(self, logits: Tensor, units: Tensor) -> Tensor:
        """The best allowed token (n,) for logits (n, vocabulary) at positions whose units (n,) are runs."""
        best = logits.argmax(dim=-1).cpu()
        counts = torch.unique_consecutive(units, return_counts=True)[1]
        ends = counts.cumsum(0)
        suspect = torch.isin(best[ends - 1], self.any_last)
        for start, end in zip((ends - counts)[suspect].tolist(), ends[suspect].tolist()):
            banned = self.last.get(tuple(best[start : end - 1].tolist()))
            if banned is not None and (banned == best[end - 1]).any():
                best[end - 1] = logits[end - 1].index_fill(0, banned.to(logits.device), -torch.inf).argmax()
        return best

    def argmax_after(self, logits: Tensor, inputs: Tensor, chosen: Tensor) -> Tensor:
        """The best allowed token (n,) for logits (n, vocabulary) of the n chosen positions of inputs, read before them.

        inputs and chosen are (rows, length), as in `models.logits_at`.
        """
        best = logits.argmax(dim=-1).cpu()
        lengths = sorted({len(first) for first in self.last})
        at = chosen.nonzero()
        for i in torch.isin(best, self.any_last).nonzero().squeeze(1).tolist():
            row, column = at[i].tolist()
            before = inputs[row, :column].tolist()
            found = [self.last.get(tuple(before[column - n :])) for n in lengths if n <= column]
            banned = torch.cat([ends for ends in found if ends is not None] or [self.any_last[:0]])
            if (banned == best[i]).any():
                best[i] = logits[i].index_fill(0, banned.to(logits.device), -torch.inf).argmax()
        return best


class _Banned(NoBadWordsLogitsProcessor):
    """Of a class of its own, or `generate` would drop it for the bad words of a caller, or theirs for it."""


def put_on(model: PreTrainedModel, found: LogitFilter) -> PreTrainedModel:
    """Have a model predict through a filter, in place: measured here, and by `generate` of a causal one."""
    model.logit_filter = found
    if family(model).causal:
        model.generate = MethodType(_generate, model)
    return warn_when_saved(
        model,
        "the logit filter is not saved: whoever loads this model must filter it again, or it tells all it knows",
    )


def _generate(model: PreTrainedModel, inputs=None, generation_config=None, logits_processor=None, *more, **options):
    banned = getattr(model, "logit_filter", None)
    if banned is not None:
        logits_processor = LogitsProcessorList([*(logits_processor or ()), _Banned(banned.sequences)])
    return type(model).generate(model, inputs, generation_config, logits_processor, *more, **options)


def logit_filter(
    model: PreTrainedModel,
    blocks: Dataset,
    blacklist: Blacklist | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **_,
) -> PreTrainedModel:
    """A copy with a filter of what is listed in the blocks, and of all terms of a blacklist that count everywhere.

    Raises TypeError or ValueError, before any work, for one of the two alone, and a tokenizer other than the blocks'.
    """
    if (blacklist is None) != (tokenizer is None):
        raise ValueError("a logit filter needs blacklist= and tokenizer= together, or neither")
    more = ()
    if blacklist is not None:
        checked("blacklist", blacklist, Blacklist)
        checked("tokenizer", tokenizer, PreTrainedTokenizerBase)
        if vocabulary(tokenizer) != blocks_.info(blocks).get("vocabulary"):
            raise ValueError("the tokenizer is not the one the blocks were encoded with; pass that one")
        more = spellings(blacklist, tokenizer)
    found = LogitFilter(blocks, more)  # may refuse, before a model is copied
    return put_on(clone(model), found)
