"""Targeted erasure: reset neurons of the last layer (PAPER §3.2), and pruning, its competitor (PAPER §4.1.5)."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from .models import clone, family, untie

TARGETS = ("lm-head", "head-transform", "last-block-output", "last-block")
FILLS = ("zero", "init", "pretrained")


def layers(model: PreTrainedModel, target: str) -> dict[str, nn.Linear]:
    """The linear layers that a target names, by dotted name. Raises ValueError for an unknown target."""
    where = family(model)
    if target not in TARGETS:
        raise ValueError(f"target {target!r} is unknown; {model.config.model_type} has {', '.join(TARGETS)}")
    if target == "lm-head":
        output = model.get_output_embeddings()
        return {next(name for name, module in model.named_modules() if module is output): output}
    if target == "head-transform":
        return {where.transform: model.get_submodule(where.transform)}
    last = f"{where.blocks}.{len(model.get_submodule(where.blocks)) - 1}"
    if target == "last-block-output":
        return {f"{last}.{where.block_output}": model.get_submodule(f"{last}.{where.block_output}")}
    return dict(_linear_layers(model, last))


def erase(
    model: PreTrainedModel,
    target: str = "lm-head",
    fraction: float = 0.5,
    fill: str = "zero",
    seed: int = 0,
    reference: PreTrainedModel | None = None,
    inplace: bool = False,
) -> PreTrainedModel:
    """Reset exactly round(fraction · n) random neurons of each target layer; the rest stays bit for bit.

    A neuron is an output unit: a row of the weight matrix and its bias. `fill`: `zero` (the paper's), `init` (drawn
    as the model family initialises its weights), `pretrained` (the same rows of `reference`). `lm-head` unties the
    output matrix from the input embeddings first.
    Raises ValueError for an unknown target or fill, a fraction outside [0, 1], a missing or unlike reference.
    Source: PAPER §3.2, §4.2.
    """
    if fill not in FILLS:
        raise ValueError(f"fill {fill!r} is unknown; use one of {', '.join(FILLS)}")
    _check_fraction(fraction)
    names = list(layers(model, target))
    if fill == "pretrained":
        if reference is None:
            raise ValueError('fill="pretrained" needs reference=, the model to take the rows from')
        if {n: layer.weight.shape for n, layer in layers(reference, target).items()} != {
            n: layer.weight.shape for n, layer in layers(model, target).items()
        }:
            raise ValueError("the reference model's layers differ in name or shape from the model's")
    model = model if inplace else clone(model)
    if target == "lm-head":
        untie(model)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = model.get_submodule(name)
        rows = torch.randperm(layer.out_features, generator=generator)[: round(fraction * layer.out_features)]
        _reset(layer, rows.sort().values, fill, generator, model.config, reference and reference.get_submodule(name))
    return model


def prune(
    model: PreTrainedModel, keep: float = 0.01, fraction: float = 0.2, seed: int = 0, inplace: bool = False
) -> PreTrainedModel:
    """Per linear layer outside embeddings and output matrix: keep the top neurons by L2 norm, zero some of the rest.

    `keep` of the neurons are safe (at least one), `fraction` of the others are reset at random.
    Raises ValueError for a share outside [0, 1]. Source: PAPER §4.1.5 and its reading in PAPER §3.
    """
    _check_fraction(fraction)
    _check_fraction(keep)
    family(model)
    model = model if inplace else clone(model)
    output = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(seed)
    for _, layer in _linear_layers(model):
        if layer is output:
            continue
        by_norm = layer.weight.detach().norm(dim=1).argsort(descending=True, stable=True).cpu()
        others = by_norm[max(1, round(keep * len(by_norm))) :]
        chosen = torch.randperm(len(others), generator=generator)[: round(fraction * len(others))]
        _reset(layer, others[chosen].sort().values, "zero", generator, model.config, None)
    return model


def _linear_layers(model: nn.Module, under: str = "") -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.get_submodule(under).named_modules(prefix=under):
        if isinstance(module, nn.Linear):
            yield name, module


@torch.no_grad()
def _reset(layer: nn.Linear, rows, fill: str, generator, config, reference: nn.Linear | None) -> None:
    rows = rows.to(layer.weight.device)
    if fill == "pretrained":
        values = reference.weight[rows], None if layer.bias is None else reference.bias[rows]
    else:
        std = getattr(config, "initializer_range", 0.02) if fill == "init" else 0.0
        values = std * torch.randn(len(rows), layer.in_features, generator=generator), torch.zeros(len(rows))
    layer.weight[rows] = values[0].to(layer.weight)
    if layer.bias is not None:
        layer.bias[rows] = values[1].to(layer.bias)


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction} is outside [0, 1]")
