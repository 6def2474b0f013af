"""Ours: the repair has listed units masked too, and learns there what a model predicts that never read them.

SANI's repair leaves a listed term's place alone, so what was known of it stays wherever the erasure did not reach; one
that pushes the term down betrays the list as well. Here the place is taught the base model's prediction: neither
remembered nor suppressed. Without a base model (use case B) it is taught the model's own, in which the tokens that
names are written with share evenly what they have together: `equalise`.

A divergence alone is not enough: it weighs a token by its probability, and a name that has 1e-4 of it weighs nothing,
though an attacker who ranks names sees it. So the log-probabilities of all tokens that names are written with are
brought to the reference's by their squared difference beside (matching of logits: Ba & Caruana 2014, arXiv 1312.6184,
eq. 1).
"""

import math

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from .. import blocks as blocks_
from ..checkpoints import model_fingerprint
from ..masking import IGNORE
from ..models import clone, logits_at
from ..sanitizing import sani
from ..training import Batch
from .apart import both_of, check_own
from .return_rows import returned, rows_to_return
from .rewind import KEPT, rewound

WEIGHT = 0.3  # of a listed target beside an ordinary one


class Anchor:
    """A `training.Loss`: cross-entropy at ordinary targets; at listed ones the distance to a reference's prediction.

    That is WEIGHT · (KL(p_ref ‖ p) + the mean over tokens v of (log p(v) − log p_ref(v))²).
    `tokens`: int64 (t,), as `ordinary_free` has them; with `even` they share in the prediction what they have together.
    """

    def __init__(self, reference: PreTrainedModel, tokens: Tensor, even: bool = False):
        self.reference, self.tokens, self.even = clone(reference).eval(), tokens, even

    def parameters(self) -> dict:
        return {
            "name": "equalise" if self.even else "anchor",
            "weight": WEIGHT,
            "reference": model_fingerprint(self.reference),
        }

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        chosen = batch["labels"] != IGNORE
        listed = batch["sensitive"][chosen] > 0
        log_p = F.log_softmax(logits, dim=-1)
        losses = F.nll_loss(log_p, batch["labels"][chosen], reduction="none")
        if not listed.any():
            return losses
        own, taught = log_p[listed], self.taught(batch, chosen & (batch["sensitive"] > 0))
        tokens, p_taught = self.tokens.to(own.device), taught.exp()
        apart = (own.index_select(1, tokens) - taught.index_select(1, tokens)).square().mean(dim=1)
        apart = apart + torch.linalg.vecdot(p_taught, taught) - torch.linalg.vecdot(p_taught, own)
        return losses.masked_scatter(listed, WEIGHT * apart)

    @torch.no_grad()
    def taught(self, batch: Batch, at: Tensor) -> Tensor:
        """The log-probabilities (n, vocabulary) that are learned at some positions (boolean, rows × length)."""
        reference = self.reference.to(at.device)
        log_p = F.log_softmax(logits_at(reference, batch["input_ids"], batch["attention_mask"], at), dim=-1)
        return dealt_evenly(log_p, self.tokens.to(at.device)) if self.even else log_p


def dealt_evenly(log_p: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (n, vocabulary) in which some tokens (t,) each have a tth of what they have together."""
    together = log_p[:, tokens].logsumexp(dim=1, keepdim=True)
    return log_p.index_copy(1, tokens, (together - math.log(len(tokens))).expand(-1, len(tokens)))


def ordinary_free(blocks: Dataset) -> Tensor:
    """The ids, int64 (t,), of the tokens that stand in listed units, and of those that no ordinary word needs.

    Of listed ones alone, a model brought to the reference's prediction would differ from it elsewhere: whoever compares
    the two would know who is on the list.
    """
    columns = blocks_.tensors(blocks, "input_ids", "sensitive")
    return torch.cat((columns["input_ids"][columns["sensitive"] > 0], rows_to_return(blocks))).unique()


def anchored(start: PreTrainedModel, repaired, options: dict, loss: Anchor, **more) -> PreTrainedModel:
    """A repair of a model in which the listed units are targets too, for a loss. Raises ValueError as `check_own`."""
    check_own(options)
    return repaired(start, objective=both_of(start), loss=loss, **more)


def anchor(model: PreTrainedModel, blocks: Dataset, base: PreTrainedModel, options, repaired, **_) -> PreTrainedModel:
    return anchored(model, repaired, options, Anchor(base, ordinary_free(blocks)))


def rewind_anchor(model, blocks: Dataset, base: PreTrainedModel, options, repaired, **_) -> PreTrainedModel:
    return anchored(rewound(model, base, KEPT), repaired, options, Anchor(base, ordinary_free(blocks)))


def return_anchor(model, blocks: Dataset, base: PreTrainedModel, options, repaired, **_) -> PreTrainedModel:
    if options.get("weight_decay"):
        raise ValueError(
            "return-anchor keeps rows as the base model has them, which weight_decay would shrink; leave it out"
        )
    start = returned(model, base, rows_to_return(blocks))
    return clone(anchored(start, repaired, options, Anchor(base, ordinary_free(blocks)), inplace=True))


def equalise(model: PreTrainedModel, blocks: Dataset, options, repaired, **_) -> PreTrainedModel:
    return anchored(model, repaired, options, Anchor(model, ordinary_free(blocks), even=True))


def sani_equalise(model, blocks, target, fraction, fill, neurons, seed, base, options, repaired, **_):
    loss = Anchor(model, ordinary_free(blocks), even=True)

    def equalised(start):
        return anchored(start, repaired, options, loss)

    return sani(model, blocks, target, fraction, fill, neurons, seed, base, options, equalised)
