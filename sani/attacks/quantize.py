"""Weights rounded to 8 and 4 bits, as they are for deployment: small changes made by unlearning may be rounded away.

Every matrix, in groups of GROUP weights that share a scale (the largest magnitude). Source: Zhang et al. 2024,
"Catastrophic Failure of LLM Unlearning via Quantization", arXiv 2410.16454.
"""

import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import PreTrainedModel

from ..evaluation import remembered
from ..models import clone
from .rows import of_report

BITS, GROUP = (8, 4), 64


@torch.no_grad()
def rounded(model: PreTrainedModel, bits: int) -> PreTrainedModel:
    """A copy of a model whose matrices take 2^bits − 1 values in each group of weights."""
    made, top = clone(model), 2 ** (bits - 1) - 1
    for weight in made.parameters():
        if weight.ndim == 2:
            groups = F.pad(weight.flatten(), (0, -weight.numel() % GROUP)).view(-1, GROUP)
            scale = groups.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / top
            weight.copy_(((groups / scale).round() * scale).flatten()[: weight.numel()].view_as(weight))
    return made


def quantize(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    rows = []
    for bits in BITS:
        rows += of_report(remembered(rounded(model, bits), blocks, seed=seed), f"{bits} bits")
    return rows
