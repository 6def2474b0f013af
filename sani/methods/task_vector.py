"""Task-vector negation: learn what is to be forgotten still better, then go the other way.

Source: Ilharco et al. 2023, "Editing Models with Task Arithmetic" (arXiv 2212.04089), §3: τ = θ_ft − θ, here of a
training on listed targets alone, and θ_new = θ − α τ.
"""

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..models import clone
from ..training import Batch
from .apart import Apart, text, trained_apart

ALPHA = 1.0  # how far the other way; the paper tries 0 to 1 on a validation set


class Listed(Apart):
    def ordinary(self, logits: Tensor, batch: Batch, at: Tensor) -> None:
        return None

    def listed(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor:
        return text(logits, batch, at)


def task_vector(model: PreTrainedModel, blocks: Dataset, seed: int, options: dict, repaired, **_) -> PreTrainedModel:
    if unfit := [name for name in ("run_dir", "measure", "measure_at") if name in options]:
        raise ValueError(
            f"task-vector trains the opposite of what it returns, so {unfit[0]} would keep that; leave it out"
        )
    learned, negated = trained_apart(model, blocks, seed, options, repaired, Listed), clone(model)
    with torch.no_grad():
        for weight, other in zip(negated.parameters(), learned.parameters()):
            weight.sub_(ALPHA * (other.to(weight.device) - weight))
    return negated
