"""What is hidden and predicted: MLM, CLM, and PPMLM, PPCLM that take no blacklisted term as target (PAPER §3.3)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .runs import checked

IGNORE = -100  # the label that PyTorch's cross-entropy skips


def _bits(ids: Tensor, seed: int, epoch: int) -> Tensor:
    """53 random bits for each id, int64, the same for equal (id, seed, epoch) on every device and after a resume.

    Counter-based (splitmix64's finaliser), so masks need no random state.
    """
    offset = ((seed * 1_000_003 + epoch) * 0xBF58476D1CE4E5B9 + (1 << 63)) % (1 << 64) - (1 << 63)
    x = (ids * -7046029254386353131).add_(offset)
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = x.bitwise_xor_((x >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    x = x.bitwise_xor_((x >> 31).bitwise_and_((1 << 33) - 1))
    return x.bitwise_right_shift_(11).bitwise_and_((1 << 53) - 1)


def uniform(ids: Tensor, seed: int, epoch: int) -> Tensor:
    """A number in [0, 1) for each id (int64, any shape), the same for equal (id, seed, epoch) on every device."""
    return _bits(ids, seed, epoch).double() / (1 << 53)


def _below(ids: Tensor, seed: int, epoch: int, rate: float) -> Tensor:
    """`uniform(…) < rate`, and False for ids below 0."""
    return (_bits(ids, seed, epoch) < math.ceil(rate * (1 << 53))).logical_and_(ids >= 0)


Drawn = tuple[Tensor, Tensor]  # input_ids and labels, int64 (rows, block_size); labels −100 where not predicted


def mlm(rows: Mapping[str, Tensor], mask_token_id: int, seed: int, epoch: int = 0, rate: float = 0.15) -> Drawn:
    """Mask whole words at `rate`: every token of them becomes `[MASK]`. `rows` has input_ids and word_ids."""
    return _masked(rows["input_ids"], _below(rows["word_ids"], seed, epoch, rate), mask_token_id)


def ppmlm(rows: Mapping[str, Tensor], mask_token_id: int, seed: int, epoch: int = 0, rate: float = 0.15) -> Drawn:
    """As `mlm`, but only units outside the blacklist are drawn; blacklisted terms stay readable as context.

    `rows` has input_ids, unit_ids and sensitive (0 outside the blacklist). Source: PAPER §2, PPMLM.
    """
    chosen = _below(rows["unit_ids"], seed, epoch, rate) & (rows["sensitive"] == 0)
    return _masked(rows["input_ids"], chosen, mask_token_id)


def both(rows: Mapping[str, Tensor], mask_token_id: int, seed: int, epoch: int = 0, rate: float = 0.15) -> Drawn:
    """As `ppmlm`, and half of the listed units beside: for losses that do not learn these from the text.

    In every other row, by lot, all of them, so that none tells of another.
    """
    units, listed = rows["unit_ids"], rows["sensitive"] > 0
    alone = _below(units.amax(dim=1, keepdim=True), seed + 1, epoch, 0.5)
    chosen = _below(units, seed, epoch, rate) & ~listed | (_below(units, seed, epoch, 0.5) | alone) & listed
    return _masked(rows["input_ids"], chosen, mask_token_id)


def _masked(input_ids: Tensor, chosen: Tensor, mask_token_id: int) -> Drawn:
    return input_ids.masked_fill(chosen, mask_token_id), input_ids.masked_fill(~chosen, IGNORE)


def clm(rows: Mapping[str, Tensor], pad_token_id: int, seed: int = 0, epoch: int = 0) -> Drawn:
    """Every token of the text is a target; nothing is drawn.

    Labels stand at the position of their token, as `transformers` has them. `rows` has input_ids and word_ids.
    """
    return rows["input_ids"], rows["input_ids"].masked_fill(rows["word_ids"] < 0, IGNORE)


def ppclm(rows: Mapping[str, Tensor], pad_token_id: int, seed: int = 0, epoch: int = 0) -> Drawn:
    """As `clm`, but blacklisted tokens are neither input (the padding token stands for them) nor target.

    Padding must be `attended` too. `rows` has input_ids, unit_ids and sensitive. Source: PAPER §2, PPCLM.
    """
    listed = rows["sensitive"] > 0
    labels = rows["input_ids"].masked_fill(listed | (rows["unit_ids"] < 0), IGNORE)
    return rows["input_ids"].masked_fill(listed, pad_token_id), labels


def attended(attention_mask: Tensor, input_ids: Tensor, pad_token_id: int) -> Tensor:
    """The attention mask without any padding token, wherever it stands."""
    return attention_mask * (input_ids != pad_token_id)


class Objective(NamedTuple):
    """A training objective: how inputs and labels are drawn, from which columns, and for which kind of model."""

    draw: Callable[..., Drawn]
    columns: tuple[str, ...]
    causal: bool
    spares: bool  # takes no blacklisted term as a target
    needs_loss: bool = False  # its listed targets are not to be learned from the text


OBJECTIVES = {
    "mlm": Objective(mlm, ("word_ids",), causal=False, spares=False),
    "ppmlm": Objective(ppmlm, ("unit_ids", "sensitive"), causal=False, spares=True),
    "clm": Objective(clm, ("word_ids",), causal=True, spares=False),
    "ppclm": Objective(ppclm, ("unit_ids", "sensitive"), causal=True, spares=True),
    "both-mlm": Objective(both, ("unit_ids", "sensitive"), causal=False, spares=False, needs_loss=True),
    "both-clm": Objective(clm, ("word_ids", "unit_ids", "sensitive"), causal=True, spares=False, needs_loss=True),
}


def _batch(rows: Sequence[Mapping]) -> dict[str, Tensor]:
    needed = ("input_ids", "attention_mask", "unit_ids", "sensitive")
    if missing := [name for name in needed if name not in rows[0]]:
        raise ValueError(
            f"the batch lacks {', '.join(missing)}: pass rows of sani.encode(...) and set "
            "TrainingArguments(remove_unused_columns=False), or the Trainer drops these columns"
        )
    return {name: torch.as_tensor([list(row[name]) for row in rows], dtype=torch.int64) for name in needed}


class DataCollatorForPPMLM:
    """Batches of blocks for any Hugging Face `Trainer` with `remove_unused_columns=False`; masks redrawn at each call.

    Returns input_ids, attention_mask and labels, int64 (batch, block_size).
    Raises TypeError or ValueError for bad arguments, a tokenizer without mask token, rows not of `sani.encode`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int = 0, rate: float = 0.15):
        if checked("tokenizer", tokenizer, PreTrainedTokenizerBase).mask_token_id is None:
            raise ValueError("the tokenizer has no mask token: PPMLM needs one (BERT, RoBERTa, …)")
        self.mask_token_id, self.calls = tokenizer.mask_token_id, 0
        self.seed, self.rate = checked("seed", seed, int, 0, 2**32 - 1), checked("rate", rate, float, None, 1, 0)

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        batch = _batch(rows)
        # Workers start each epoch with a copy of this object: their own seed keeps the draws apart.
        worker = torch.utils.data.get_worker_info()
        self.calls += 1
        seed = self.seed if worker is None else self.seed + worker.seed % (1 << 31)
        input_ids, labels = ppmlm(batch, self.mask_token_id, seed, self.calls, self.rate)
        return {"input_ids": input_ids, "attention_mask": batch["attention_mask"], "labels": labels}


class DataCollatorForPPCLM:
    """As `DataCollatorForPPMLM`, for causal models: blacklisted tokens become attention-masked padding, never a target.

    Returns input_ids, attention_mask and labels, int64 (batch, block_size); the model itself shifts the labels.
    Raises ValueError if the rows lack the columns of `sani.encode`, or the tokenizer a padding token of its own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        checked("tokenizer", tokenizer, PreTrainedTokenizerBase)
        if tokenizer.pad_token_id in (None, tokenizer.bos_token_id, tokenizer.eos_token_id):
            raise ValueError("the tokenizer has no padding token of its own; load it with sani.load_model, to have one")
        self.pad_token_id = tokenizer.pad_token_id

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        batch = _batch(rows)
        input_ids, labels = ppclm(batch, self.pad_token_id)
        attention_mask = attended(batch["attention_mask"], input_ids, self.pad_token_id)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
