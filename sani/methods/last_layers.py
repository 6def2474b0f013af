"""CF-k and EU-k: only the last k blocks and the head learn the text without listed targets; the rest stays as it was.

CF-k goes on from what the model has there and lets it be forgotten, EU-k starts there from scratch ("exactly unlearns"
the last layers). The output matrix is untied from the input embeddings first, as it is trained and those are not.
Source: Goel et al. 2022, "Towards Adversarial Evaluations for Inexact Machine Unlearning" (arXiv 2201.06640).
"""

import torch
from transformers import PreTrainedModel

from ..erasure import STILL_INSIDE
from ..models import clone, family, is_tied, untie, warn_when_saved

K = 1  # blocks


def cf_k(model: PreTrainedModel, repaired, **_) -> PreTrainedModel:
    return _trained(untie(clone(model)), repaired)


def eu_k(model: PreTrainedModel, seed: int, repaired, **_) -> PreTrainedModel:
    tied = is_tied(model)
    model = untie(clone(model))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        fresh = dict(type(model)(model.config).named_parameters())
        for name, weight in _last(model).items():
            weight.copy_(fresh[name])
    return _trained(warn_when_saved(model, STILL_INSIDE) if tied else model, repaired)


def _last(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters from the last K blocks on, by name: a model lists them in the order in which it uses them."""
    where, weights = family(model).blocks, dict(model.named_parameters())
    if not 0 < K < (blocks := len(model.get_submodule(where))):
        raise ValueError(f"the model has {blocks} blocks, so the last {K} of them leave none that stays as it was")
    names = list(weights)
    first = next(i for i, name in enumerate(names) if name.startswith(f"{where}.{blocks - K}."))
    return {name: weights[name] for name in names[first:]}


def _trained(model: PreTrainedModel, repaired) -> PreTrainedModel:
    last = _last(model).keys()
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in last)
    return repaired(model).requires_grad_(True)
