"""Targeted erasure: reset neurons of the last layer (PAPER §3.2)."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .models import check_model, clone, family, is_tied, untie, warn_when_saved
from .runs import checked, one_of

TARGETS = ("lm-head", "head-transform", "last-block-output", "last-block")
USUAL = {False: "lm-head", True: "last-block"}  # of masked and of causal models: `study.audit_claims.default_target`
FILLS = ("zero", "init", "pretrained")
NEURONS = ("random", "magnitude", "activation")  # how the neurons to erase are chosen: see `magnitude`, `activation`

STILL_INSIDE = (
    'the erasure of "lm-head" left the input embeddings as they were: copied into the output matrix, they bring back '
    "much of what was erased (sani.audit, attack retie)"
)

Linear = nn.Linear | Conv1D  # GPT-2's Conv1D is a linear map whose weight lies transposed


def targets(model: PreTrainedModel) -> tuple[str, ...]:
    """The readings of "last layer" that a model's family has."""
    return tuple(t for t in TARGETS if t != "head-transform" or family(model).transform)


def usual_target(model: PreTrainedModel) -> str:
    """The reading of "last layer" that is erased unless another is asked for: USUAL."""
    check_model(model)
    return USUAL[family(model).causal]


def block_targets(model: PreTrainedModel) -> tuple[str, ...]:
    """The blocks of a model as erasure targets, from the first to the last, which is `last-block` too."""
    return tuple(f"block-{i}" for i in range(len(model.get_submodule(family(model).blocks))))


def layers(model: PreTrainedModel, target: str) -> dict[str, Linear]:
    """The linear layers that a target names, by dotted name. Raises ValueError for one that the family lacks."""
    where, blocks = family(model), block_targets(model)
    if target not in (*targets(model), *blocks):
        known = "unknown" if target not in TARGETS else f"not in a {model.config.model_type}"
        raise ValueError(
            f"target {target!r} is {known}; this {model.config.model_type} has "
            f"{', '.join(targets(model))}, {blocks[0]} … {blocks[-1]}"
        )
    block = f"{where.blocks}.{blocks.index(target) if target in blocks else len(blocks) - 1}"
    output = model.get_output_embeddings()
    parts = {
        "lm-head": next(name for name, module in model.named_modules() if module is output),
        "head-transform": where.transform,
        "last-block-output": f"{block}.{where.block_output}",
    }
    return dict(linear_layers(model, parts.get(target, block)))


def erasable(
    model: PreTrainedModel, target: str, fraction: float, fill: str, reference: PreTrainedModel | None = None
) -> dict[str, torch.Size]:
    """The shapes (neurons, inputs) of the layers that `erase` would reset so, by name. Raises as it does."""
    check_model(model)
    one_of("fill", fill, FILLS)
    checked("fraction", fraction, float, 0, 1)
    shapes = {name: weight_matrix(layer).shape for name, layer in layers(model, target).items()}
    if fill == "pretrained":
        if reference is None:
            raise ValueError('fill="pretrained" needs reference=, the model to take the rows from')
        check_model(reference, "reference")
        if {name: weight_matrix(layer).shape for name, layer in layers(reference, target).items()} != shapes:
            raise ValueError("the reference model's layers differ in name or shape from the model's")
    return shapes


def erase(
    model: PreTrainedModel,
    target: str | None = None,
    fraction: float = 0.5,
    fill: str = "zero",
    seed: int = 0,
    reference: PreTrainedModel | None = None,
    scores: Mapping[str, torch.Tensor] | None = None,
    inplace: bool = False,
) -> PreTrainedModel:
    """Reset exactly round(fraction · n) random neurons of each target layer; the rest stays bit for bit.

    A neuron is an output unit: a row of the weight matrix (a column in GPT-2's Conv1D) and its bias. `fill`: `zero`
    (the paper's), `init` (drawn as the model family initialises its weights), `pretrained` (the same rows of
    `reference`). With `scores`, a value for each neuron (n,) by name of the layer, those with the highest go instead of
    random ones. `lm-head` unties the output matrix from the input embeddings first. Targets: `targets`,
    `block_targets`, by default `usual_target`. Raises TypeError or ValueError for bad arguments. Source: PAPER §3.2.
    """
    target = usual_target(model) if target is None else target
    shapes = erasable(model, target, fraction, fill, reference)
    generator = torch.Generator().manual_seed(checked("seed", seed, int, 0, 2**32 - 1))
    if scores is not None:
        found = {name: (len(score), bool(score.isfinite().all())) for name, score in scores.items()}
        if found != {name: (neurons, True) for name, (neurons, _) in shapes.items()}:
            raise ValueError(f"scores must hold one finite value per neuron of {', '.join(shapes)}")
    model = model if inplace else clone(model)
    if target == "lm-head":
        tied = is_tied(model)
        untie(model)
        if tied:
            warn_when_saved(model, STILL_INSIDE)
    for name, (neurons, _) in shapes.items():
        order = torch.randperm(neurons, generator=generator)
        if scores is not None:
            order = scores[name].cpu().argsort(descending=True, stable=True)
        rows = order[: round(fraction * neurons)].sort().values
        like = reference.get_submodule(name) if fill == "pretrained" else None
        reset(model.get_submodule(name), rows, _deviation(model, name, fill), generator, like)
    return model


def linear_layers(model: nn.Module, under: str = "") -> Iterator[tuple[str, Linear]]:
    for name, module in model.get_submodule(under).named_modules(prefix=under):
        if isinstance(module, Linear):
            yield name, module


def weight_matrix(layer: Linear) -> torch.Tensor:
    """The weight matrix (neurons, inputs) as a view: writing to it writes to the layer."""
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def _deviation(model: PreTrainedModel, name: str, fill: str) -> float:
    """The standard deviation that a layer's weights are drawn with; 0 for fill="zero"."""
    if fill != "init":
        return 0.0
    std = getattr(model.config, "initializer_range", 0.02)
    # GPT-2 scales the maps that write to the residual stream by its depth.
    gpt2_residual = model.config.model_type == "gpt2" and name.endswith("c_proj")
    return std / (2 * model.config.num_hidden_layers) ** 0.5 if gpt2_residual else std


@torch.no_grad()
def reset(layer: Linear, rows, std: float, generator: torch.Generator, reference: Linear | None = None) -> None:
    matrix = weight_matrix(layer)
    rows = rows.to(matrix.device)
    if reference is not None:
        weights, bias = weight_matrix(reference)[rows], None if layer.bias is None else reference.bias[rows]
    else:
        weights, bias = std * torch.randn(len(rows), matrix.shape[1], generator=generator), torch.zeros(len(rows))
    matrix[rows] = weights.to(matrix)
    if layer.bias is not None:
        layer.bias[rows] = bias.to(layer.bias)
