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
        """An answer y is a listed unit; the mean over answers is dealt out over their tokens."""
        known = self.taught(batch, at).gather(1, batch["labels"][at][:, None])[:, 0]
        ratio = -text(logits, batch, at) - known
        units, of, tokens = batch["unit_ids"][at].unique(return_inverse=True, return_counts=True)
        answers = F.softplus(BETA * ratio.new_zeros(len(units)).index_add(0, of, ratio)) * 2 / BETA
        return (answers / tokens * (len(of) / len(units)))[of]


def npo(model: PreTrainedModel, blocks: Dataset, seed: int, options: dict, repaired, **_) -> PreTrainedModel:
    return trained_apart(model, blocks, seed, options, repaired, lambda share: NPO(share, model, beta=BETA))
