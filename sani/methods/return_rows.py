"""Ours: the embeddings of tokens that no ordinary word needs go back to the base model's, and stay there.

It is SANI's erasure of output neurons, but of those that listed terms are written with, filled with what stood there
before; where the output matrix is tied to the input embeddings, of both. As good as the vocabulary lets it be: a name
that is written with pieces of ordinary words keeps them.
"""

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from .. import blocks as blocks_
from ..models import clone


def rows_to_return(blocks: Dataset) -> Tensor:
    """The ids, int64 (n,), of the tokens that stand in no ordinary word of some blocks, and are none of the special.

    Not only the listed ones: which rows were returned would tell who is on the list.
    """
    columns, info = blocks_.tensors(blocks, "input_ids", "unit_ids", "sensitive"), blocks_.info(blocks)
    needed = torch.zeros(info["vocab_size"], dtype=torch.bool)
    needed[columns["input_ids"][(columns["unit_ids"] < 0) | (columns["sensitive"] == 0)]] = True
    special = (info[name] for name in ("mask_token_id", "pad_token_id", "bos_token_id", "unk_token_id"))
    needed[[token for token in special if token is not None]] = True
    return (~needed).nonzero().squeeze(1)


@torch.no_grad()
def returned(model: PreTrainedModel, base: PreTrainedModel, rows: Tensor) -> PreTrainedModel:
    """A new model with some rows of embeddings, output matrix and output bias as the base model has them, frozen.

    Raises ValueError for matrices of other shapes.
    """
    found = clone(model)
    for one, other in zip(_matrices(found), _matrices(base), strict=True):
        if one.shape != other.shape:
            raise ValueError("the base model's embeddings differ in shape from the model's; give the one it came from")
        one[rows.to(one.device)] = other[rows.to(other.device)].to(one)
        # Their gradient is zero, and so is AdamW's step without weight decay. Hooks belong to this object: what trains
        # it must not copy it.
        one.register_hook(lambda gradient: gradient.index_fill(0, rows.to(gradient.device), 0))
    return found


def _matrices(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The parameters that have a row for each token, each once."""
    output = model.get_output_embeddings()
    found = (model.get_input_embeddings().weight, output.weight, getattr(output, "bias", None))
    return list({id(weight): weight for weight in found if weight is not None}.values())


def return_rows(model: PreTrainedModel, blocks: Dataset, base: PreTrainedModel, **_) -> PreTrainedModel:
    return clone(returned(model, base, rows_to_return(blocks)))
