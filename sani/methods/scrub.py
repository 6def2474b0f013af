"""SCRUB: a student that stays with its teacher, the leaky model, on ordinary targets, and leaves it on listed ones.

Source: Kurmanji et al. 2023, "Towards Unbounded Machine Unlearning" (arXiv 2302.09880), eq. (3) and Algorithm 1: epochs
that maximise KL(teacher ‖ student) on what is to be forgotten take turns with epochs that minimise α KL + γ
cross-entropy on the rest, and after MAX_EPOCHS of the first kind only the second goes on. Here an epoch of either kind
reads all rows, and there is one learning rate, AdamW's, for both; SCRUB+R's choice of a checkpoint is left out.
"""

import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..training import Batch
from .apart import Apart, text, trained_apart

ALPHA, GAMMA = 0.5, 1.0  # weights of KL and cross-entropy on ordinary targets, and how many epochs maximise: those of
MAX_EPOCHS = 3  # the authors' code for their large-scale runs


class SCRUB(Apart):
    def maximises(self, batch: Batch) -> bool:
        epoch = int(batch["epochs"][0])
        # A whole epoch of the other kind must follow.
        return epoch % 2 == 0 and epoch < 2 * MAX_EPOCHS and epoch + 2 <= self.constants["epochs"]

    def kl(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor:
        return F.kl_div(logits.log_softmax(-1), self.taught(batch, at), reduction="none", log_target=True).sum(-1)

    def ordinary(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor | None:
        if not self.maximises(batch):
            return ALPHA * self.kl(logits, batch, at) + GAMMA * text(logits, batch, at)

    def listed(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor | None:
        if self.maximises(batch):
            return -self.kl(logits, batch, at)


def scrub(
    model: PreTrainedModel, blocks: Dataset, seed: int, epochs: float, options: dict, repaired, **_
) -> PreTrainedModel:
    if epochs < 2:
        raise ValueError(f"scrub needs epochs=2 at least, one away from the model as it was and one back, not {epochs}")
    loss = lambda share: SCRUB(share, model, alpha=ALPHA, gamma=GAMMA, max_epochs=MAX_EPOCHS, epochs=epochs)  # noqa: E731
    return trained_apart(model, blocks, seed, options, repaired, loss)
