"""Control: blacklisted terms banned at decoding, no training."""

from collections import defaultdict

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from .. import blocks as blocks_
from ..models import clone, warn_when_saved


class LogitFilter:
    """Bans the listed terms of some blocks at decoding: the next best token is taken where one would be completed.

    As Hugging Face's bad-words filter does, the last token of a banned sequence is ruled out after its first ones.
    Held in memory beside the model, never saved: it would carry the terms in clear. Raises ValueError if there is none.
    """

    def __init__(self, blocks: Dataset):
        columns = blocks_.tensors(blocks, "input_ids", "unit_ids", "term_ids")
        listed = columns["term_ids"] >= 0
        if not listed.any():
            raise ValueError("the blocks hold no listed term, so there is none to ban; encode with another blacklist")
        units, ids = columns["unit_ids"][listed], columns["input_ids"][listed]
        last: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for sequence in ids.split(torch.unique_consecutive(units, return_counts=True)[1].tolist()):
            *first, end = sequence.tolist()
            last[tuple(first)].add(end)
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


def logit_filter(model: PreTrainedModel, blocks: Dataset, **_) -> PreTrainedModel:
    found, filtered = LogitFilter(blocks), clone(model)
    filtered.logit_filter = found
    return warn_when_saved(
        filtered,
        "the logit filter is not saved: whoever loads this model must filter it again, or it tells all it knows",
    )
