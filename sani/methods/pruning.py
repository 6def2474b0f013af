"""Pruning: a fifth of every layer's neurons reset at random, the largest spared; the same repair (PAPER §4.1.5)."""

import torch
from transformers import PreTrainedModel

from ..erasure import linear_layers, reset, weight_matrix
from ..models import check_model, clone
from ..runs import checked


def prune(
    model: PreTrainedModel, keep: float = 0.01, fraction: float = 0.2, seed: int = 0, inplace: bool = False
) -> PreTrainedModel:
    """Per linear layer outside embeddings and output matrix: keep the top neurons by L2 norm, zero some of the rest.

    `keep` of the neurons are safe (at least one), `fraction` of the others are reset at random.
    Raises TypeError or ValueError for a share outside [0, 1], or no model. Source: PAPER §4.1.5, read as in PAPER §3.
    """
    check_model(model)
    for name, share in (("keep", keep), ("fraction", fraction)):
        checked(name, share, float, 0, 1)
    generator = torch.Generator().manual_seed(checked("seed", seed, int, 0, 2**32 - 1))
    model = model if inplace else clone(model)
    output = model.get_output_embeddings()
    for _, layer in linear_layers(model):
        if layer is output:
            continue
        by_norm = weight_matrix(layer).detach().norm(dim=1).argsort(descending=True, stable=True).cpu()
        others = by_norm[max(1, round(keep * len(by_norm))) :]
        chosen = torch.randperm(len(others), generator=generator)[: round(fraction * len(others))]
        reset(layer, others[chosen].sort().values, 0.0, generator)
    return model


def pruning(model: PreTrainedModel, seed: int, repaired, **_) -> PreTrainedModel:
    return repaired(prune(model, seed=seed))
