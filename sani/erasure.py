"""Targeted erasure: reset neurons of the last layer (PAPER §3.2), and pruning, its competitor (PAPER §4.1.5)."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .models import check_model, clone, family, untie
from .runs import checked, one_of

TARGETS = ("lm-head", "head-transform", "last-block-output", "last-block")
FILLS = ("zero", "init", "pretrained")
NEURONS = ("random", "magnitude", "activation")  # how the neurons to erase are chosen: see `magnitude`, `activation`

Linear = nn.Linear | Conv1D  # GPT-2's Conv1D is a linear map whose weight lies transposed


def targets(model: PreTrainedModel) -> tuple[str, ...]:
    """The readings of "last layer" that a model's family has."""
    return tuple(t for t in TARGETS if t != "head-transform" or family(model).transform)


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
    if target == "lm-head":
        output = model.get_output_embeddings()
        return {next(name for name, module in model.named_modules() if module is output): output}
    if target == "head-transform":
        return {where.transform: model.get_submodule(where.transform)}
    number = blocks.index(target) if target in blocks else len(blocks) - 1
    block = f"{where.blocks}.{number}"
    if target == "last-block-output":
        return {f"{block}.{where.block_output}": model.get_submodule(f"{block}.{where.block_output}")}
    return dict(_linear_layers(model, block))


def erasable(
    model: PreTrainedModel, target: str, fraction: float, fill: str, reference: PreTrainedModel | None = None
) -> dict[str, torch.Size]:
    """The shapes (neurons, inputs) of the layers that `erase` would reset so, by name. Raises as it does."""
    check_model(model)
    one_of("fill", fill, FILLS)
    checked("fraction", fraction, float, 0, 1)
    shapes = {name: _matrix(layer).shape for name, layer in layers(model, target).items()}
    if fill == "pretrained":
        if reference is None:
            raise ValueError('fill="pretrained" needs reference=, the model to take the rows from')
        check_model(reference, "reference")
        if {name: _matrix(layer).shape for name, layer in layers(reference, target).items()} != shapes:
            raise ValueError("the reference model's layers differ in name or shape from the model's")
    return shapes


def erase(
    model: PreTrainedModel,
    target: str = "lm-head",
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
    random ones. `lm-head` unties the output matrix from the input embeddings first. `block-0`, `block-1`, … name the
    blocks, for comparison.
    Raises TypeError or ValueError for an unknown target or fill, a fraction outside [0, 1], no model, a missing or
    unlike reference or score. Source: PAPER §3.2, §4.2.
    """
    shapes = erasable(model, target, fraction, fill, reference)
    generator = torch.Generator().manual_seed(checked("seed", seed, int, 0, 2**32 - 1))
    if scores is not None:
        found = {name: (len(score), bool(score.isfinite().all())) for name, score in scores.items()}
        if found != {name: (neurons, True) for name, (neurons, _) in shapes.items()}:
            raise ValueError(f"scores must hold one finite value per neuron of {', '.join(shapes)}")
    model = model if inplace else clone(model)
    if target == "lm-head":
        untie(model)
    for name, (neurons, _) in shapes.items():
        order = torch.randperm(neurons, generator=generator)
        if scores is not None:
            order = scores[name].cpu().argsort(descending=True, stable=True)
        rows = order[: round(fraction * neurons)].sort().values
        like = reference.get_submodule(name) if fill == "pretrained" else None
        _reset(model.get_submodule(name), rows, _deviation(model, name, fill), generator, like)
    return model


def prune(
    model: PreTrainedModel, keep: float = 0.01, fraction: float = 0.2, seed: int = 0, inplace: bool = False
) -> PreTrainedModel:
    """Per linear layer outside embeddings and output matrix: keep the top neurons by L2 norm, zero some of the rest.

    `keep` of the neurons are safe (at least one), `fraction` of the others are reset at random.
    Raises TypeError or ValueError for a share outside [0, 1], or no model. Source: PAPER §4.1.5, read as in PAPER §3.
    """
    check_model(model)
    for name, share in (("keep", keep), ("fraction", fraction)):
        checked(name, share, float, 0, 1)
    generator = torch.Generator().manual_seed(checked("seed", seed, int, 0, 2**32 - 1))
    model = model if inplace else clone(model)
    output = model.get_output_embeddings()
    for _, layer in _linear_layers(model):
        if layer is output:
            continue
        by_norm = _matrix(layer).detach().norm(dim=1).argsort(descending=True, stable=True).cpu()
        others = by_norm[max(1, round(keep * len(by_norm))) :]
        chosen = torch.randperm(len(others), generator=generator)[: round(fraction * len(others))]
        _reset(layer, others[chosen].sort().values, 0.0, generator)
    return model


def _linear_layers(model: nn.Module, under: str = "") -> Iterator[tuple[str, Linear]]:
    for name, module in model.get_submodule(under).named_modules(prefix=under):
        if isinstance(module, Linear):
            yield name, module


def _matrix(layer: Linear) -> torch.Tensor:
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
def _reset(layer: Linear, rows, std: float, generator: torch.Generator, reference: Linear | None = None) -> None:
    matrix = _matrix(layer)
    rows = rows.to(matrix.device)
    if reference is not None:
        weights, bias = _matrix(reference)[rows], None if layer.bias is None else reference.bias[rows]
    else:
        weights, bias = std * torch.randn(len(rows), matrix.shape[1], generator=generator), torch.zeros(len(rows))
    matrix[rows] = weights.to(matrix)
    if layer.bias is not None:
        layer.bias[rows] = bias.to(layer.bias)
