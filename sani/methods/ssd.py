"""Selective synaptic dampening: weights that matter to listed targets far more than to others are shrunk; no training.

Source: Foster et al. 2024, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening" (arXiv
2308.07707), eq. (6)–(8): where I_f > α I, θ ← β θ with β = min(λ I / I_f, 1). I is the diagonal of the Fisher
information, a mean over targets of the squared gradient of the text's log-probability, each row a sample. The paper
takes I over all data, of which it forgets a hundredth or so; where a third is listed no weight could matter α times as
much to that third as to all, so I is here that of the ordinary targets, nearly the same when little is listed.
"""

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..models import clone, logits_at
from .apart import batches, counts, text

ALPHA, LAMBDA = 10.0, 1.0  # the paper's: how much more a weight must matter to be selected; how gently it is dampened


def fisher(model: PreTrainedModel, blocks: Dataset, seed: int, progress: bool) -> list[list[torch.Tensor]]:
    """The diagonal Fisher information of each parameter, for ordinary and for listed targets."""
    weights, (targets, listed) = list(model.parameters()), counts(model, blocks, seed)
    found = [[torch.zeros_like(weight) for weight in weights] for _ in range(2)]
    for batch, *kinds in batches(model, blocks, seed, 1, "Fisher information", progress):
        chosen = kinds[0] | kinds[1]
        logits = logits_at(model, batch["input_ids"], batch["attention_mask"], chosen)
        for sums, at, number in zip(found, kinds, (targets - listed, listed)):
            if at.any():
                # Summed over the row: gradients of different targets hardly agree, so squares of sums add up alike.
                loss = text(logits[at[chosen]], batch, at).sum()
                slopes = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
                for total, slope in zip(sums, slopes):
                    if slope is not None:
                        total += slope.square() / number
    return found


def ssd(model: PreTrainedModel, blocks: Dataset, seed: int, progress: bool, **_) -> PreTrainedModel:
    dampened = clone(model).eval()
    ordinary, listed = fisher(dampened, blocks, seed, progress)
    with torch.no_grad():
        for weight, usual, special in zip(dampened.parameters(), ordinary, listed):
            factor = (LAMBDA * usual / special).clamp(max=1)
            weight.copy_(torch.where(special > ALPHA * usual, factor * weight, weight))
    return dampened
