"""Controls: the output matrix untied as the erasure of `lm-head` unties it, then a competitor of SANI."""

from transformers import PreTrainedModel

from ..models import clone, untie
from .pruning import prune


def untied_repair_only(model: PreTrainedModel, repaired, **_) -> PreTrainedModel:
    return repaired(untie(clone(model)))


def untied_pruning(model: PreTrainedModel, seed: int, repaired, **_) -> PreTrainedModel:
    return repaired(prune(untie(clone(model)), seed=seed, inplace=True))
