"""DEPN: the feed-forward neurons that raise the probability of listed text are found and silenced; no training.

Source: Wu et al. 2023, "DEPN: Detecting and Editing Privacy Neurons" (arXiv 2310.20138). Detector: the activations of a
block's neurons, where the text is predicted, are scaled from 0 to what they are; a neuron's attribution is its
activation times the integral of the slope of the text's probability, by a Riemann sum of STEPS points. Aggregator: of
each text, the neurons with at least THRESHOLD of its greatest attribution; those that most texts share go. Editor: what
they write becomes zero. A text is here a row; its probability, in the paper the product over one secret, is the sum
over its listed targets, since a row holds many. Written for BERT; causal models take the same road.
"""

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..models import clone, hidden_states, logits_at
from .apart import batches, counts
from .neurons import feed_forward, read_at, silence, watched

STEPS, THRESHOLD = 20, 0.1  # the paper's
SHARE = 0.02  # of all neurons: in a model of 512 of them, the 10 that the authors' code silences
ROWS = 32  # at once


def attributions(model: PreTrainedModel, batch: dict, at: Tensor) -> Tensor:
    """How much each neuron adds to the probability of targets, float64 (rows, layers, neurons) on the CPU."""
    layers, seen, here = feed_forward(model), {}, read_at(model, at)[..., None]
    inputs, labels = (batch["input_ids"], batch["attention_mask"]), batch["labels"][at][:, None]
    with torch.no_grad(), watched(layers, lambda name, activations: seen.update({name: activations.clone()})):
        hidden_states(model, *inputs)
    found = []
    for name, layer in layers.items():
        slopes = torch.zeros_like(seen[name])
        for step in range(1, STEPS + 1):
            scaled = (seen[name] * step / STEPS).requires_grad_()
            with watched({name: layer}, lambda _, now, scaled=scaled: torch.where(here, scaled, now)):
                probability = logits_at(model, *inputs, at).softmax(dim=-1).gather(1, labels)
            slopes += torch.autograd.grad(probability.sum(), scaled)[0]
        found.append((seen[name] * slopes / STEPS).sum(dim=1).double().cpu())
    return torch.stack(found, dim=1)


def privacy_neurons(model: PreTrainedModel, blocks: Dataset, seed: int, progress: bool, **_) -> PreTrainedModel:
    counts(model, blocks, seed)
    edited, texts, total = clone(model).eval(), 0, 0
    for batch, _, listed in batches(edited, blocks, seed, ROWS, "privacy neurons", progress):
        rows = listed.any(dim=1)
        if rows.any():
            here = {name: column[rows] for name, column in batch.items()}
            found = attributions(edited, here, listed[rows])
            texts = texts + (found >= THRESHOLD * found.amax(dim=(1, 2), keepdim=True)).sum(dim=0)
            total = total + found.sum(dim=0)
    among_equals = total / (2 * total.abs().max()).clamp(min=1e-12)  # within ±½
    silence(edited, texts + among_equals, round(SHARE * total.numel()))
    return edited
