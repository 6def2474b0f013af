"""The head of the model before fine-tuning, which is public where that model is, on the sanitised encoder."""

from datasets import Dataset
from transformers import PreTrainedModel

from ..evaluation import remembered
from ..models import clone, untie
from .rows import of_report


def grafted(model: PreTrainedModel, base: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model with the base model's head: output matrix, its bias, and what lies before them.

    Raises ValueError where the two heads differ in name or shape.
    """
    inside, theirs, made = model.base_model_prefix + ".", base.state_dict(), untie(clone(model))
    head = {name: weight for name, weight in made.state_dict().items() if not name.startswith(inside)}
    if {name: weight.shape for name, weight in head.items()} != {n: theirs[n].shape for n in head if n in theirs}:
        raise ValueError("the base model's head differs in name or shape from the model's; pass the one it came from")
    made.load_state_dict({name: theirs[name] for name in head}, strict=False)
    return made


def graft(model: PreTrainedModel, blocks: Dataset, base: PreTrainedModel, seed: int, **_) -> list[dict]:
    return of_report(remembered(grafted(model, base), blocks, seed=seed))
