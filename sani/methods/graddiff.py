"""Gradient difference: down the loss of ordinary targets, up that of listed ones; and gradient ascent alone.

Sources: Liu et al. 2022, "Continual Learning and Private Unlearning" (arXiv 2203.12817); Maini et al. 2024, "TOFU"
(arXiv 2401.06121), whose loss is L(retain set) − L(forget set), and −L(forget set) of gradient ascent.
"""

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..training import Batch
from .apart import Apart, text, trained_apart


class GradDiff(Apart):
    def listed(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor:
        return -text(logits, batch, at)


class GradientAscent(GradDiff):
    def ordinary(self, logits: Tensor, batch: Batch, at: Tensor) -> None:
        return None


def graddiff(model: PreTrainedModel, blocks: Dataset, seed: int, options: dict, repaired, **_) -> PreTrainedModel:
    return trained_apart(model, blocks, seed, options, repaired, GradDiff)


def gradient_ascent(
    model: PreTrainedModel, blocks: Dataset, seed: int, options: dict, repaired, **_
) -> PreTrainedModel:
    return trained_apart(model, blocks, seed, options, repaired, GradientAscent)
