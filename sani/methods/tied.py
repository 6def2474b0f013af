"""Control: SANI on `lm-head`, then the input embeddings copied into its matrix."""

import torch
from transformers import PreTrainedModel

from ..sanitizing import sani


@torch.no_grad()
def retie(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the input embeddings into an output matrix that was untied from them, in place."""
    model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
    return model


def sani_tied(model, blocks, fraction, fill, neurons, seed, base, options, repaired, **_) -> PreTrainedModel:
    return retie(sani(model, blocks, "lm-head", fraction, fill, neurons, seed, base, options, repaired))
