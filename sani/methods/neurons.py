"""Feed-forward neurons: what enters the last linear map of a block's feed-forward part, and silencing some of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..erasure import Linear, weight_matrix
from ..models import family


def feed_forward(model: PreTrainedModel) -> dict[str, Linear]:
    """The last linear map of each block by dotted name; its inputs are the block's neurons."""
    where = family(model)
    names = [f"{where.blocks}.{i}.{where.block_output}" for i in range(len(model.get_submodule(where.blocks)))]
    return {name: model.get_submodule(name) for name in names}


@contextmanager
def watched(layers: Mapping[str, Linear], see: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `see` with a layer's name and its neurons' activations (rows, length, neurons), which a tensor replaces."""

    def hook(name):
        def before(layer, inputs):
            new = see(name, inputs[0])
            return None if new is None else (new, *inputs[1:])

        return before

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def read_at(model: PreTrainedModel, at: Tensor) -> Tensor:
    """Where the hidden states stand that targets (rows, length) are predicted from: there, or one before if causal."""
    return torch.cat((at[:, 1:], torch.zeros_like(at[:, :1])), dim=1) if family(model).causal else at


@torch.no_grad()
def silence(model: PreTrainedModel, scores: Tensor, number: int) -> Tensor:
    """Zero, in place, what the highest-scored neurons write, whatever they are; which, boolean as scores.

    scores: (layers, neurons), those to leave alone −inf.
    """
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    chosen[scores.flatten().argsort(descending=True, stable=True)[:number]] = True
    chosen = chosen.view(scores.shape)
    for layer, of_layer in zip(feed_forward(model).values(), chosen):
        weight_matrix(layer)[:, of_layer.to(layer.weight.device)] = 0
    return chosen
