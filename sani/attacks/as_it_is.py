"""No attack: the model as it is, in place and by its ranking, with other listed terms readable and hidden."""

from datasets import Dataset
from transformers import PreTrainedModel

from ..evaluation import remembered
from .rows import of_report

BOTH = ("visible", "isolated")


def as_it_is(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    return of_report(remembered(model, blocks, BOTH, seed=seed), contexts=BOTH)
