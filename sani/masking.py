"""What is masked and predicted: MLM, and PPMLM that never takes a blacklisted term as a target (PAPER §3.3)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

IGNORE = -100  # the label that PyTorch's cross-entropy skips


def uniform(ids: Tensor, seed: int, epoch: int) -> Tensor:
    """A number in [0, 1) for each id (int64, any shape), the same for equal (id, seed, epoch) on every device.

    Counter-based (splitmix64's finaliser), so masks need no random state: a resumed, a parallel and a GPU run draw
    the same ones.
    """
    offset = ((seed * 1_000_003 + epoch) * 0xBF58476D1CE4E5B9 + (1 << 63)) % (1 << 64) - (1 << 63)
    x = ids * -7046029254386353131 + offset
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 11) & ((1 << 53) - 1)).double() / (1 << 53)


def mlm(rows: Mapping[str, Tensor], mask_token_id: int, seed: int, epoch: int = 0, rate: float = 0.15):
    """Mask whole words at `rate`: (input_ids, labels), int64 (rows, block_size); labels −100 where not predicted.

    `rows` has input_ids and word_ids (−1 on special tokens). Every masked token becomes `[MASK]`.
    """
    words = rows["word_ids"]
    chosen = (words >= 0) & (uniform(words, seed, epoch) < rate)
    return _masked(rows["input_ids"], chosen, mask_token_id)


def ppmlm(rows: Mapping[str, Tensor], mask_token_id: int, seed: int, epoch: int = 0, rate: float = 0.15):
    """As `mlm`, but only units outside the blacklist are drawn; blacklisted terms stay readable as context.

    `rows` has input_ids, unit_ids and sensitive (0 outside the blacklist). Source: PAPER §2, PPMLM.
    """
    units = rows["unit_ids"]
    chosen = (units >= 0) & (rows["sensitive"] == 0) & (uniform(units, seed, epoch) < rate)
    return _masked(rows["input_ids"], chosen, mask_token_id)


def _masked(input_ids: Tensor, chosen: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    return input_ids.masked_fill(chosen, mask_token_id), input_ids.masked_fill(~chosen, IGNORE)


OBJECTIVES = {"mlm": (mlm, ("word_ids",)), "ppmlm": (ppmlm, ("unit_ids", "sensitive"))}


class DataCollatorForPPMLM:
    """Batches of blocks for any Hugging Face `Trainer` with `remove_unused_columns=False`; masks redrawn at each call.

    Returns input_ids, attention_mask and labels, int64 (batch, block_size).
    Raises ValueError if the rows lack the columns of `sani.encode`, or the tokenizer a mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int = 0, rate: float = 0.15):
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token: PPMLM needs one (BERT, RoBERTa, …)")
        self.mask_token_id, self.seed, self.rate = tokenizer.mask_token_id, seed, rate
        self.calls = 0

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        needed = ("input_ids", "attention_mask", "unit_ids", "sensitive")
        if missing := [name for name in needed if name not in rows[0]]:
            raise ValueError(
                f"the batch lacks {', '.join(missing)}: pass rows of sani.encode(...) and set "
                "TrainingArguments(remove_unused_columns=False), or the Trainer drops these columns"
            )
        batch = {name: torch.as_tensor([list(row[name]) for row in rows], dtype=torch.int64) for name in needed}
        # Workers start each epoch with a copy of this object: their own seed keeps the draws apart.
        worker = torch.utils.data.get_worker_info()
        self.calls += 1
        seed = self.seed if worker is None else self.seed + worker.seed % (1 << 31)
        input_ids, labels = ppmlm(batch, self.mask_token_id, seed, self.calls, self.rate)
        return {"input_ids": input_ids, "attention_mask": batch["attention_mask"], "labels": labels}
