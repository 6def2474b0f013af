"""Control: SANI on `lm-head`, then the input embeddings copied into its matrix."""

from transformers import PreTrainedModel

from ..models import retie
from ..sanitizing import sani


def sani_tied(model, blocks, fraction, fill, neurons, seed, base, options, repaired, **_) -> PreTrainedModel:
    return retie(sani(model, blocks, "lm-head", fraction, fill, neurons, seed, base, options, repaired))
