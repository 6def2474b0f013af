"""How much each neuron matters: by its weights, or by its activation on listed terms."""

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from .erasure import NEURONS, layers, weight_matrix
from .models import activation_of, family
from .predictions import check_blocks, layout, passes, portions
from .runs import checked, one_of


def magnitude(model: PreTrainedModel, target: str) -> dict[str, Tensor]:
    """The L2 norm of the weights of each neuron (n,) of a target's layers, as `scores` for `erase`."""
    return {name: weight_matrix(layer).detach().norm(dim=1) for name, layer in layers(model, target).items()}


@torch.no_grad()
def activation(
    model: PreTrainedModel, blocks: Dataset, target: str, batch_size: int = 32, progress: bool = True
) -> dict[str, Tensor]:
    """How active each neuron (n,) of a target's layers is where listed terms are predicted, relative to elsewhere.

    The mean absolute output (after the non-linearity, where the layer itself is followed by one) over the tokens of
    listed terms, divided by that over the others, in one exhaustive pass; `scores` for `erase`. Raises ValueError for
    blocks without a listed term, or with nothing else. Source: Pochinkov and Schoots, "Dissecting Language Models:
    Machine Unlearning via Selective Pruning" (arXiv 2403.01267), importance of absolute activations.
    """
    check_blocks(model, blocks)
    checked("batch_size", batch_size, int, 1)
    units, causal = layout(blocks, -1), family(model).causal
    counts, sums, outputs = torch.zeros(2, dtype=torch.float64), {}, {}

    def keep(name):
        return lambda layer, inputs, output: outputs.update({name: output})

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers(model, target).items()]
    try:
        for part in portions(model, blocks, passes(units, causal, ("visible",)), batch_size, "activation", progress):
            listed = units.columns["sensitive"][part.rows][part.chosen] > 0
            groups, chosen = torch.stack((listed, ~listed)), part.chosen.to(model.device)
            counts += groups.sum(dim=1)
            for name, output in outputs.items():
                output = activation_of(model, name)(output)
                if output.dim() == 3:  # of the encoder, at every position; the head sees what is predicted alone
                    output = output[:, :-1][chosen[:, 1:]] if causal else output[chosen]
                sums[name] = sums.get(name, 0.0) + (groups.to(output) @ output.abs()).double().cpu()
    finally:
        for hook in hooks:
            hook.remove()
    if not counts.all():
        which = "no listed term" if not counts[0] else "nothing but listed terms"
        raise ValueError(f"the blocks hold {which}, so no neuron can be told apart; encode with another blacklist")
    means = {name: total / counts[:, None] for name, total in sums.items()}
    return {name: (mean[0] / mean[1].clamp(min=1e-12)).float() for name, mean in means.items()}


def scores_of(
    model: PreTrainedModel, blocks: Dataset, target: str, neurons: str, progress: bool = True
) -> dict[str, Tensor] | None:
    """The `scores` for `erase` by which neurons are chosen: none for `random` ones. Raises ValueError for others."""
    if one_of("neurons", neurons, NEURONS) == "random":
        return None
    return magnitude(model, target) if neurons == "magnitude" else activation(model, blocks, target, progress=progress)
