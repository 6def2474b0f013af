"""Controls that start from the model before fine-tuning."""

from datasets import Dataset
from transformers import PreTrainedModel

from ..models import clone
from ..training import fine_tune


def base(base: PreTrainedModel, **_) -> PreTrainedModel:
    return clone(base)


def retrain_at_equal_cost(base: PreTrainedModel, repaired, **_) -> PreTrainedModel:
    return repaired(base)


def counterfactual(
    base: PreTrainedModel, counterfactual_blocks: Dataset, training_epochs: float, seed: int, options: dict, **_
) -> PreTrainedModel:
    return fine_tune(base, counterfactual_blocks, epochs=training_epochs, seed=seed, **options)
