"""What a method costs in multiply-adds, and how many of its epochs a budget buys."""

import torch
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ..sanitizing import sanitize

ROWS = 16  # to count on, spread evenly


def multiply_adds(model: PreTrainedModel, blocks: Dataset, method: str, epochs: float = 13, **arguments) -> float:
    """Multiply-adds of matrix products that a method takes for each row, all in all: counted on a few rows.

    A backward pass, teachers' passes and what finds neurons or weights are in it. Arguments and errors: as of
    `sanitize`. Attention's products of queries, keys and values are counted where PyTorch knows their kernel.
    """
    few = blocks.select(torch.linspace(0, len(blocks) - 1, min(ROWS, len(blocks))).long().unique().tolist())
    with FlopCounterMode(display=False) as count:
        sanitize(model, few, method, epochs=epochs, **{"progress": False} | arguments)
    return count.get_total_flops() / 2 / len(few)


def epochs_within(model: PreTrainedModel, blocks: Dataset, method: str, epochs: float = 13, **arguments) -> float:
    """How many epochs of a method that trains cost what `epochs` of repair cost.

    Counted on two and on three epochs, which tell what it takes once from what each takes; below 0 if once is more.
    """
    two, three = (multiply_adds(model, blocks, method, n, **arguments) for n in (2, 3))
    once, each = 3 * two - 2 * three, three - two
    return (epochs * multiply_adds(model, blocks, "repair-only", 1) - once) / each
