"""Negative preference optimisation: listed text as the answer not preferred, ordinary text learned beside.

Source: Zhang et al. 2024, "Negative Preference Optimization" (arXiv 2404.05868), eq. (3) with the retain loss:
L = (2 / β) E[log(1 + (p(y | x) / p_ref(y | x))^β)] over what is to be forgotten, plus cross-entropy on the rest.
"""

import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..training import Batch
from .apart import Apart, text, trained_apart

BETA = 0.1  # the paper's inverse temperature; towards 0 the loss becomes that of gradient difference


class NPO(Apart):
    def listed(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor:
        """The answer y, of many tokens in the paper, is what is listed of a row; its loss is dealt out evenly."""
        known = self.taught(batch, at).gather(1, batch["labels"][at][:, None])[:, 0]
        ratio, row = -text(logits, batch, at) - known, at.nonzero()[:, 0]
        of_row = ratio.new_zeros(len(at)).index_add(0, row, ratio)
        return (F.softplus(BETA * of_row) * 2 / BETA / at.sum(dim=1).clamp(min=1))[row]


def npo(model: PreTrainedModel, blocks: Dataset, seed: int, options: dict, repaired, **_) -> PreTrainedModel:
    return trained_apart(model, blocks, seed, options, repaired, lambda share: NPO(share, model, beta=BETA))
