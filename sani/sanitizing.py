"""Sanitizing a model: SANI, its competitors and the controls, each by its name (PAPER §3)."""

from collections import defaultdict

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from . import blocks as blocks_
from .erasure import NEURONS, erase, magnitude, prune
from .models import clone
from .predictions import activity
from .training import fine_tune, repair

METHODS = {
    "sani": "erase half of the last layer's neurons, then repair",
    "repair-only": "no erasure, the same repair",
    "pruning": "reset neurons of every layer by magnitude, then the same repair",
    "base": "control: the model before fine-tuning",
    "retrain-at-equal-cost": "control: PPMLM (PPCLM) from the base model for the same number of epochs",
    "counterfactual": "control: fine-tuned without protection on text with every identifier resampled",
    "logit-filter": "control: blacklisted terms banned at decoding, no training",
}


class LogitFilter:
    """Bans the listed terms of some blocks at decoding: the next best token is taken where one would be completed.

    As Hugging Face's bad-words filter does, the last token of a banned sequence is ruled out after its first ones.
    Held in memory beside the model, never saved: it would carry the terms in clear.
    """

    def __init__(self, blocks: Dataset):
        columns = blocks_.tensors(blocks, "input_ids", "unit_ids", "term_ids")
        listed = columns["term_ids"] >= 0
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


def sanitize(
    model: PreTrainedModel,
    blocks: Dataset,
    method: str = "sani",
    epochs: int = 13,
    seed: int = 0,
    target: str = "lm-head",
    fraction: float = 0.5,
    fill: str = "zero",
    neurons: str = "random",
    base: PreTrainedModel | None = None,
    counterfactual_blocks: Dataset | None = None,
    training_epochs: int = 64,
    **options,
) -> PreTrainedModel:
    """Make a model forget the blacklist of its blocks, by a method or control of PAPER §3; returns a new model.

    The methods `sani`, `repair-only` and `pruning` start from `model`. The controls `base` and
    `retrain-at-equal-cost` need `base=`; `counterfactual` needs `base=` and `counterfactual_blocks=`, the blocks of
    `sani.counterfactual(corpus, seed)`, and trains `training_epochs`. `logit-filter` returns the same weights with a
    filter that `evaluate` applies. target, fraction, fill: as in `erase`; `neurons` are the paper's `random` ones, the
    `largest` by their weights, or the most `active` on listed terms; other options: as in `fine_tune`.
    Raises ValueError for an unknown method or choice or a missing need, before any training.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    if method in ("base", "retrain-at-equal-cost", "counterfactual") and base is None:
        raise ValueError(f"method {method!r} needs base=, the model before fine-tuning")
    if method == "sani":
        scores = scores_of(model, blocks, target, neurons, options.get("progress", True))
        erased = erase(model, target, fraction, fill, seed, reference=base, scores=scores)
        return repair(erased, blocks, epochs, seed=seed, **options)
    if method == "repair-only":
        return repair(model, blocks, epochs, seed=seed, **options)
    if method == "pruning":
        return repair(prune(model, seed=seed), blocks, epochs, seed=seed, **options)
    if method == "base":
        return clone(base)
    if method == "retrain-at-equal-cost":
        return repair(base, blocks, epochs, seed=seed, **options)
    if method == "counterfactual":
        if counterfactual_blocks is None:
            raise ValueError(
                "method 'counterfactual' needs counterfactual_blocks=, the blocks of sani.counterfactual(corpus, seed)"
            )
        return fine_tune(base, counterfactual_blocks, epochs=training_epochs, seed=seed, **options)
    filtered = clone(model)
    filtered.logit_filter = LogitFilter(blocks)
    return filtered


def scores_of(
    model: PreTrainedModel, blocks: Dataset, target: str, neurons: str, progress: bool = True
) -> dict[str, Tensor] | None:
    """The `scores` for `erase` by which neurons are chosen: none for `random` ones.

    Raises ValueError for an unknown choice.
    """
    if neurons not in NEURONS:
        raise ValueError(f"neurons {neurons!r} is unknown; use one of {', '.join(NEURONS)}")
    if neurons == "random":
        return None
    return magnitude(model, target) if neurons == "largest" else activity(model, blocks, target, progress=progress)
