"""Ours: every weight goes back towards the model before fine-tuning, without training: w ← base + α (w − base).

The task vector of Ilharco et al. 2023 (arXiv 2212.04089), shortened rather than negated; Wortsman et al. 2022
(arXiv 2109.01903) weigh the same two models to be robust.
"""

import torch
from transformers import PreTrainedModel

from ..models import clone
from ..runs import checked

KEPT = 0.5  # of the way from the base model to the fine-tuned one


@torch.no_grad()
def rewound(model: PreTrainedModel, base: PreTrainedModel, kept: float) -> PreTrainedModel:
    """A new model with a share `kept` of the way from the base model to a fine-tuned one.

    Raises ValueError for a share outside [0, 1], or models whose weights differ in name or shape.
    """
    checked("kept", kept, float, 0, 1)
    before, found = dict(base.named_parameters()), clone(model)
    shapes = [{name: weight.shape for name, weight in one.named_parameters()} for one in (model, base)]
    if shapes[0] != shapes[1]:
        raise ValueError("the base model's weights differ in name or shape from the model's; give the one it came from")
    for name, weight in found.named_parameters():
        weight.copy_(torch.lerp(before[name].to(weight), weight, kept))
    return found


def rewind(model: PreTrainedModel, base: PreTrainedModel, **_) -> PreTrainedModel:
    return rewound(model, base, KEPT)
