"""Sanitizing a model: SANI, its competitors and the controls, each by its name (PAPER §3)."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from types import MethodType
from typing import NamedTuple
from warnings import warn

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from . import blocks as blocks_
from .erasure import erasable, erase, prune
from .importance import scores_of
from .models import check_model, clone, retie, untie
from .predictions import check_blocks
from .runs import checked, one_of
from .training import KINDS, Options, fine_tune, repair


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


class Method(NamedTuple):
    """What a method does, in a line; the function that does it; which arguments it cannot do without, and why."""

    summary: str
    run: Callable[..., PreTrainedModel]  # of the arguments of `sanitize` by name, and `repaired`, the repair asked for
    needs: Mapping[str, str] = {}


def _sani(model, blocks, target, fraction, fill, neurons, seed, base, options, repaired, **_) -> PreTrainedModel:
    erasable(model, target, fraction, fill, base)
    scores = scores_of(model, blocks, target, neurons, options.get("progress", True))
    return repaired(erase(model, target, fraction, fill, seed, base, scores))


def _sani_tied(model, blocks, fraction, fill, neurons, seed, base, options, repaired, **_) -> PreTrainedModel:
    return retie(_sani(model, blocks, "lm-head", fraction, fill, neurons, seed, base, options, repaired))


def _pruning(model, seed, repaired, **_) -> PreTrainedModel:
    return repaired(prune(model, seed=seed))


def _untied_pruning(model, seed, repaired, **_) -> PreTrainedModel:
    return repaired(prune(untie(clone(model)), seed=seed, inplace=True))


def _counterfactual(base, counterfactual_blocks, training_epochs, seed, options, **_) -> PreTrainedModel:
    return fine_tune(base, counterfactual_blocks, epochs=training_epochs, seed=seed, **options)


def _logit_filter(model, blocks, **_) -> PreTrainedModel:
    found, filtered = LogitFilter(blocks), clone(model)
    filtered.logit_filter, filtered.save_pretrained = found, MethodType(_save_unfiltered, filtered)
    return filtered


def _save_unfiltered(model: PreTrainedModel, *arguments, **options) -> None:
    told = "the logit filter is not saved: whoever loads this model must filter it again, or it tells all it knows"
    warn(told, stacklevel=2)
    type(model).save_pretrained(model, *arguments, **options)


BASE = {"base": "the model before fine-tuning"}
RESAMPLED = BASE | {"counterfactual_blocks": "the blocks of sani.counterfactual(corpus, seed)"}
METHODS = {
    "sani": Method("erase half of the last layer's neurons, then repair", _sani),
    "repair-only": Method("no erasure, the same repair", lambda model, repaired, **_: repaired(model)),
    "pruning": Method("reset neurons of every layer by magnitude, then the same repair", _pruning),
    "untied-repair-only": Method(
        "control: the output matrix untied as SANI's is, nothing erased, the same repair",
        lambda model, repaired, **_: repaired(untie(clone(model))),
    ),
    "untied-pruning": Method("control: the same untying, then pruning", _untied_pruning),
    "sani-tied": Method("control: SANI on lm-head, then the input embeddings copied into its matrix", _sani_tied),
    "base": Method("control: the model before fine-tuning", lambda base, **_: clone(base), BASE),
    "retrain-at-equal-cost": Method(
        "control: PPMLM (PPCLM) from the base model for the same number of epochs",
        lambda base, repaired, **_: repaired(base),
        BASE,
    ),
    "counterfactual": Method("control: fine-tuned on text with every identifier resampled", _counterfactual, RESAMPLED),
    "logit-filter": Method("control: blacklisted terms banned at decoding, no training", _logit_filter),
}


def sanitize(
    model: PreTrainedModel,
    blocks: Dataset,
    method: str = "sani",
    epochs: float = 13,
    seed: int = 0,
    target: str = "lm-head",
    fraction: float = 0.5,
    fill: str = "zero",
    neurons: str = "random",
    base: PreTrainedModel | None = None,
    counterfactual_blocks: Dataset | None = None,
    training_epochs: float = 64,
    **options,
) -> PreTrainedModel:
    """Make a model forget the blacklist of its blocks, by a method or control of PAPER §3; returns a new model.

    The methods `sani`, `repair-only` and `pruning` start from `model`, as do the controls `untied-…`, which untie the
    output matrix as the erasure of `lm-head` does, and `sani-tied`, which ties it again. The controls `base` and
    `retrain-at-equal-cost` need `base=`; `counterfactual` needs `base=` and `counterfactual_blocks=`, the blocks of
    `sani.counterfactual(corpus, seed)`, and trains `training_epochs`. `logit-filter` returns the same weights with a
    filter that `evaluate` applies. target, fraction, fill: as in `erase`; `neurons` are the paper's `random` ones, the
    `magnitude` by their weights, or the most `activation` on listed terms; other options: as in `fine_tune`.
    Raises TypeError or ValueError for bad or missing arguments, those that the method ignores, and blocks that list
    nothing, before any work.
    """
    asked = dict(locals())  # every argument by its name; a method takes those it needs
    _, run, needs = METHODS[one_of("method", method, METHODS)]
    reads, usual = signature(run).parameters.keys(), signature(sanitize).parameters
    ignored = [name for name in {"target", "fraction", "fill", "neurons"} - reads if asked[name] != usual[name].default]
    if ignored := ignored + [name for name in options if name != "progress" and not reads & {"options", "repaired"}]:
        raise ValueError(f"method {method!r} ignores {', '.join(sorted(ignored))}; leave it out")
    for name, what in needs.items():
        if asked[name] is None:
            raise ValueError(f"method {method!r} needs {name}=, {what}")
    for name, value in ({"epochs": epochs, "seed": seed} | options).items():
        if one_of("option", name, Options.__dataclass_fields__) in KINDS and (name, value) != ("learning_rate", None):
            checked(name, value, *KINDS[name])
    info = check_blocks(model, blocks)
    if base is not None:
        check_model(base, "base")
    if "repaired" in reads and not info["terms"]:
        raise ValueError("the blocks list no term, so nothing would be forgotten; pass a blacklist to sani.encode")
    return run(**asked, repaired=partial(repair, blocks=blocks, epochs=epochs, seed=seed, **options))
