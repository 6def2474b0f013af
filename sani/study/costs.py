"""How low can one go? Privacy and utility against the cost of unlearning: `python -m sani.study costs`.

A cost is a share of the fine-tuning's, in multiply-adds of matrix products (a backward pass counts twice a forward
one). Budgets, and how each is spent, were written down before the runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel

from ..blocks import tensors
from ..erasure import Linear, erase
from ..predictions import FOLDS
from ..training import repair
from .grid import Found, table_of, values
from .prepare import prepare
from .runs import complete, control, control_run
from .setting import Setting

BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TARGETS = ("lm-head", "head-transform")
HEAD_EPOCHS = 13  # of head-only repair: on as many rows as a budget affords, and more epochs only where it affords all
RATE = 0.15


class Point(NamedTuple):
    """What is done at which budget: a method, the target it erases, what of the model it repairs."""

    method: str
    target: str = ""
    scope: str = ""
    budget: float = 0.0


def points() -> list[Point]:
    """The models that cost nothing, then each way of repair at each budget."""
    free = [Point(name) for name in ("base", "unprotected", "logit-filter")] + [Point("erased", t) for t in TARGETS]
    ways = [("sani", target, scope) for target in TARGETS for scope in ("model", "head")]
    ways += [("repair-only", "", "model"), ("retrain-at-equal-cost", "", "model")]
    return [*free, *(Point(*way, budget) for way in ways for budget in BUDGETS)]


def multiply_adds(model: PreTrainedModel, block_size: int) -> tuple[int, int]:
    """Multiply-adds of a forward pass for one token: of the encoder, attention included, and of the LM head."""
    body = model.base_model

    def of(module) -> int:
        return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, Linear))

    attention = 2 * block_size * model.config.hidden_size * model.config.num_hidden_layers
    return of(body) + attention, of(model) - of(body)


def plan(point: Point, model: PreTrainedModel, blocks: Dataset, training_epochs: float) -> tuple[float, float]:
    """(share of the rows, epochs) that a budget affords: whole-model epochs, or a pass for hidden states and a head's.

    The budget is a share of `training_epochs` of fine-tuning on these blocks.
    """
    columns = tensors(blocks, "unit_ids", "sensitive")
    text = columns["unit_ids"] >= 0
    listed = columns["sensitive"] > 0
    body, head = multiply_adds(model, columns["unit_ids"].shape[1])
    trained = 3 * (body + RATE * text.double().mean().item() * head) * training_epochs
    of_head = 3 * RATE * (text & ~listed).double().mean().item() * head
    affordable = point.budget * trained
    if point.scope == "model":
        return 1.0, affordable / (3 * body + of_head)
    once = FOLDS * body
    share = affordable / (once + HEAD_EPOCHS * of_head)
    return (share, HEAD_EPOCHS) if share < 1 else (1.0, (affordable - once) / of_head)


def _measure(setting: Setting, seed: int, point: Point) -> Found:
    data, rows, epochs = prepare(setting, seed), 0.0, 0.0
    if point.method in ("base", "unprotected", "logit-filter"):
        model = control(setting, seed, point.method)
    else:
        model = control(setting, seed, "base" if point.method == "retrain-at-equal-cost" else "unprotected")
        model = erase(model, point.target, setting.fraction, seed=seed) if point.target else model
    if point.budget:
        rows, epochs = plan(point, model, data.raw, setting.epochs)
        order = np.random.default_rng(seed).permutation(len(data.raw))
        chosen = np.sort(order[: max(1, round(rows * len(order)))])
        blocks = data.raw.select(chosen) if rows < 1 else data.raw
        model = repair(model, blocks, epochs, seed=seed, scope=point.scope, **setting.training)
    return values(setting, seed, model)[0] | {"rows repaired on": (rows,), "epochs": (epochs,)}


def table(setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """What every point measured, a row per seed and metric; what is missing is made first, `jobs` side by side.

    Columns: seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    complete(setting, seeds, [control_run(setting, "unprotected")], jobs, progress)
    return table_of("cost", _measure, setting, seeds, points(), jobs, progress)
