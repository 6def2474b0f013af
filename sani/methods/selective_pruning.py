"""Selective pruning: feed-forward neurons that are active at listed targets more than at others go; no training.

Source: Pochinkov and Schoots 2024, "Dissecting Language Models: Machine Unlearning via Selective Pruning" (arXiv
2403.01267): the score of a neuron is its importance for what is to be forgotten over that for the rest (+ ε),
importance being its mean absolute activation; a share of all neurons is pruned at a time, and scored anew.
"""

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..models import clone, hidden_states
from .apart import batches, counts
from .neurons import feed_forward, read_at, silence, watched

SHARE, STEPS = 0.02, 5  # of all neurons at a time, the paper's; how often, which it lets the loss of accuracy decide
EPSILON = 1e-5  # the paper's code
ROWS = 32  # at once


@torch.no_grad()
def importance(model: PreTrainedModel, blocks: Dataset, seed: int, progress: bool) -> Tensor:
    """The score of each neuron, float64 (layers, neurons), from one pass over the rows."""
    layers, sums, kinds = feed_forward(model), {}, ()

    def see(name: str, activations: Tensor) -> None:
        found = torch.stack([activations[kind].abs().double().sum(dim=0) for kind in kinds])
        sums[name] = sums.get(name, 0) + found.cpu()

    with watched(layers, see):
        for batch, *targets in batches(model, blocks, seed, ROWS, "selective pruning", progress):
            kinds = [read_at(model, at) for at in targets]
            hidden_states(model, batch["input_ids"], batch["attention_mask"])
    targets, listed = counts(model, blocks, seed)
    ordinary, special = torch.stack([sums[name] for name in layers]).unbind(dim=1)
    return special / listed / (ordinary / (targets - listed) + EPSILON)


def selective_pruning(model: PreTrainedModel, blocks: Dataset, seed: int, progress: bool, **_) -> PreTrainedModel:
    counts(model, blocks, seed)
    pruned, silent = clone(model).eval(), torch.zeros((), dtype=torch.bool)
    for _ in range(STEPS):
        scores = importance(pruned, blocks, seed, progress).masked_fill(silent, -torch.inf)
        silent = silent | silence(pruned, scores, round(SHARE * scores.numel()))
    return pruned
