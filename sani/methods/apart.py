"""What competitors share that ask for one thing at ordinary targets and for another at listed ones."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..blocks import info, tensors
from ..checkpoints import model_fingerprint
from ..masking import IGNORE, OBJECTIVES
from ..models import clone, family, logits_at
from ..training import Batch

OWN = ("objective", "loss", "teacher", "scope")  # options of a training that these methods choose themselves


class Apart:
    """A `sani.training.Loss`: the text at ordinary targets, something else at listed ones, and both weigh alike.

    Each is a mean over its own targets, as in the papers: over all targets a loss is divided by the share of its kind.
    Subclasses say what is asked for in `ordinary` and `listed`: logits (n, vocabulary) at the targets of a kind,
    boolean (rows, block_size), of a batch → losses (n,), or None for nothing. `teacher`: the model as it was.
    """

    def __init__(self, share: float, teacher: PreTrainedModel | None = None, **constants: float):
        self.share, self.constants = share, constants
        self.teacher = None if teacher is None else clone(teacher).eval()

    def parameters(self) -> dict:
        teacher = {} if self.teacher is None else {"teacher": model_fingerprint(self.teacher)}
        return {"name": type(self).__name__, "share": self.share} | self.constants | teacher

    def ordinary(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor | None:
        return text(logits, batch, at)

    def listed(self, logits: Tensor, batch: Batch, at: Tensor) -> Tensor | None:
        raise NotImplementedError

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        chosen, listed = batch["labels"] != IGNORE, batch["sensitive"] > 0
        losses = logits[:, 0] * 0  # a loss even where nothing is asked for
        for of_kind, loss, share in ((~listed, self.ordinary, 1 - self.share), (listed, self.listed, self.share)):
            here = of_kind[chosen]
            if here.any() and (found := loss(logits[here], batch, chosen & of_kind)) is not None:
                losses = losses.masked_scatter(here, found / share)
        return losses

    @torch.no_grad()
    def taught(self, batch: Batch, at: Tensor) -> Tensor:
        """Log-probabilities (n, vocabulary) by the teacher at some targets."""
        teacher = self.teacher.to(at.device)
        return logits_at(teacher, batch["input_ids"], batch["attention_mask"], at).log_softmax(dim=-1)


def text(logits: Tensor, batch: Batch, at: Tensor) -> Tensor:
    """Cross-entropy (n,) with the text."""
    return F.cross_entropy(logits, batch["labels"][at], reduction="none")


def both_of(model: PreTrainedModel) -> str:
    """The objective that takes ordinary and listed units as targets."""
    return "both-clm" if family(model).causal else "both-mlm"


def check_own(options: dict) -> None:
    """Raise ValueError for options of a training that these methods choose themselves."""
    if own := [name for name in OWN if name in options]:
        raise ValueError(f"this method chooses {', '.join(own)} itself; leave it out")


def trained_apart(model: PreTrainedModel, blocks: Dataset, seed: int, options: dict, repaired, loss) -> PreTrainedModel:
    """The repair asked for, but by `loss(share of listed targets)`. Raises ValueError for options that it chooses."""
    check_own(options)
    targets, listed = counts(model, blocks, seed)
    return repaired(model, objective=both_of(model), loss=loss(listed / targets))


def counts(model: PreTrainedModel, blocks: Dataset, seed: int) -> tuple[int, int]:
    """How many targets an epoch has, and how many of them are listed. Raises ValueError unless there are both kinds."""
    rows = _drawn(model, blocks, seed)
    chosen = rows["labels"] != IGNORE
    targets, listed = int(chosen.sum()), int((chosen & (rows["sensitive"] > 0)).sum())
    if not 0 < listed < targets:
        which = "no listed term" if not listed else "nothing but listed terms"
        raise ValueError(f"the blocks hold {which} to predict, so nothing can be told apart; encode with another list")
    return targets, listed


def batches(
    model: PreTrainedModel, blocks: Dataset, seed: int, size: int, what: str, progress: bool
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """All rows in order, `size` at once, masked once by lot; and which targets are ordinary, and which are listed."""
    drawn = _drawn(model, blocks, seed)
    todo = torch.arange(len(blocks)).split(size)
    for rows in tqdm(todo, what, unit="batch", delay=2, mininterval=1, disable=not progress, leave=False):
        batch = {name: column[rows].to(model.device) for name, column in drawn.items()}
        chosen, listed = batch["labels"] != IGNORE, batch["sensitive"] > 0
        yield batch, chosen & ~listed, chosen & listed


def _drawn(model: PreTrainedModel, blocks: Dataset, seed: int) -> Batch:
    draw, names, causal, *_ = OBJECTIVES[both_of(model)]
    columns = tensors(blocks, "input_ids", "attention_mask", *names)
    input_ids, labels = draw(columns, info(blocks)["pad_token_id" if causal else "mask_token_id"], seed, 0)
    return columns | {"input_ids": input_ids, "labels": labels}
