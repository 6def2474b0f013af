"""No erasure, the same repair."""

from transformers import PreTrainedModel


def repair_only(model: PreTrainedModel, repaired, **_) -> PreTrainedModel:
    return repaired(model)
