"""What a model predicts for every unit of some blocks: exhaustive masking, or teacher forcing (PAPER §5)."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import blocks as blocks_
from .devices import processes, rows_at_once, steady_heap
from .masking import OBJECTIVES, attended, uniform
from .models import check_model, family, hidden_states, logits_at, positions
from .text.blacklists import KINDS

FOLDS = math.ceil(1 / 0.15)
CONTEXTS = ("visible", "isolated", "padded")  # the last: of causal models
OF_UNIT = ("record_id", "person_id", "term_id", "type_id", "style")
LOGITS = 1 << 27  # at once, for a causal model, which is asked for every token of a row: half a gigabyte


def check_blocks(model: PreTrainedModel, blocks: Dataset, name: str = "model") -> dict:
    """What `blocks.info` tells of blocks. Raises TypeError or ValueError for what a model cannot read.

    The model is unfit (`check_model`), the blocks come from another tokenizer, as far as that shows, or a row is longer
    than its positions.
    """
    check_model(model, name)
    info, config = blocks_.info(blocks), model.config
    known = {info.get("vocabulary"), getattr(model, "vocabulary", None)} - {None}
    if info["causal"] != family(model).causal or config.vocab_size < info["vocab_size"] or len(known) > 1:
        raise ValueError(
            f"the blocks were made with the tokenizer {info['tokenizer']!r} of {info['vocab_size']} tokens"
            f"{' for causal models' if info['causal'] else ''}, which is not the {name}'s: a {config.model_type} that "
            f"knows {config.vocab_size}; encode the corpus with the model's own tokenizer"
        )
    if info["block_size"] > (limit := positions(model)):
        raise ValueError(
            f"block_size {info['block_size']} exceeds the {name}'s {limit} positions; encode with a smaller one"
        )
    return info


@dataclass(frozen=True)
class Units:
    """The units of some blocks (words, and listed terms), and the fold in which each is masked.

    `columns`: the blocks as tensors (rows, block_size), see `blocks.tensors`.
    `table`: a row per unit, by unit_id: unit_id, row, record_id, person_id, term_id, type_id, style (−1 for none),
    tokens (how many), all int64; kind (object: none, direct, indirect or confidential); gold (bool: annotated where it
    stands).
    `tokens`: of each token of the text, int64 (tokens,): its position in the flattened columns, its unit (the row of
    the table), its place in that (from 0) and its id.
    `folds`: int64 (units,), 0 … FOLDS − 1.
    """

    columns: dict[str, Tensor]
    table: pd.DataFrame
    tokens: dict[str, np.ndarray]
    folds: np.ndarray

    def spread(self, values: np.ndarray) -> Tensor:
        """Values of the units, int64 (units,), at each of their tokens (rows, block_size); −1 elsewhere."""
        spread = torch.full_like(self.columns["unit_ids"], -1)
        spread.view(-1)[torch.from_numpy(self.tokens["position"])] = torch.from_numpy(values[self.tokens["unit"]])
        return spread


def layout(blocks: Dataset, seed: int) -> Units:
    """The units of blocks; those of each row are dealt into folds at random, which the seed decides."""
    columns = blocks_.tensors(blocks)
    position = np.flatnonzero(columns["unit_ids"].numpy() >= 0)
    text = {name: column.reshape(-1).numpy()[position] for name, column in columns.items()}
    ids, first, unit, lengths = np.unique(text["unit_ids"], return_index=True, return_inverse=True, return_counts=True)
    row = position[first] // columns["unit_ids"].shape[1]
    at = {name: column[first] for name, column in text.items()}
    table = pd.DataFrame({"unit_id": ids, "row": row} | {name: at[f"{name}s"].astype(np.int64) for name in OF_UNIT})
    table["kind"] = np.array(["none", *KINDS], dtype=object)[at["sensitive"]]
    table["gold"], table["tokens"] = at["gold"] > 0, lengths
    # Deal the units of each row into the folds like cards, in random order, starting anywhere.
    order = np.argsort(uniform(torch.from_numpy(ids), seed, 0).numpy(), kind="stable")
    rank = table.iloc[order].groupby("row").cumcount().sort_index().to_numpy()
    start = (uniform(torch.arange(len(blocks)), seed, 1).numpy() * FOLDS).astype(np.int64)
    place = np.arange(len(unit)) - first[unit]
    tokens = {"position": position, "unit": unit, "place": place, "id": text["input_ids"]}
    return Units(columns, table, tokens, (rank + start[row]) % FOLDS)


class Pass(NamedTuple):
    """A pass over all rows: its context, and what is hidden and what is predicted, boolean (rows, block_size).

    `alone`, of a causal model's: numbers of units, int64 (rows, block_size), whose tokens only they themselves read; −1
    for tokens that all later ones read.
    """

    context: str
    hidden: Tensor
    chosen: Tensor
    alone: Tensor | None = None


class Portion(NamedTuple):
    """What goes through a model at once in a pass, on the CPU, and what comes out, where the model is."""

    context: str
    rows: Tensor  # (n,), their numbers
    input_ids: Tensor  # (n, block_size), a mask or padding where a token is hidden
    chosen: Tensor  # boolean (n, block_size)
    output: Tensor  # logits at the chosen (number of them, vocabulary), or hidden states (n, block_size, hidden)


def passes(units: Units, causal: bool, contexts: Collection[str] = CONTEXTS, masks: bool = True) -> list[Pass]:
    """The passes in which every unit is predicted once in each of some contexts.

    A masked model's: a pass for each fold, where the fold is masked (`visible`); and one where all listed terms are
    (`isolated`). A causal one's: the raw rows; the rows without listed terms (`padded`); and `isolated` as `_isolated`
    has it (`masks`: whether the model can be told what each token reads).
    """
    text, listed, found = units.columns["unit_ids"] >= 0, units.columns["sensitive"] > 0, []
    if causal:
        if "visible" in contexts:
            found.append(Pass("visible", torch.zeros_like(text), text))
        if "padded" in contexts:
            found.append(Pass("padded", listed, text))
        return found + (_isolated(units, masks) if "isolated" in contexts else [])
    fold_of = units.spread(units.folds)
    for fold in range(FOLDS if "visible" in contexts else 0):
        chosen = fold_of == fold
        found.append(Pass("visible", chosen, chosen))
    return [*found, Pass("isolated", listed, listed)] if "isolated" in contexts else found


def _isolated(units: Units, masks: bool = True) -> list[Pass]:
    """The passes of a causal model in which later mentions of a term in its row are predicted without earlier ones.

    For the n-th mention, a pass over the rows that have one, without the n − 1 first mentions of every term that has an
    n-th there. Where these passes together take more rows than there are, one in their place (given `masks`): without
    all earlier mentions of all terms that the row mentions more than once. The tokens of these are read by their own
    mention alone, and its last token, which only later ones would read, by none. A first mention is not in it: it is
    predicted as in the `visible` pass.
    """
    table, term = units.table, units.columns["term_ids"]
    rank = table[table["term_id"] >= 0].groupby(["row", "term_id"]).cumcount()
    takes = int(rank.groupby(table["row"]).max().sum())
    rank = units.spread(rank.reindex(table.index, fill_value=-1).to_numpy())
    mention = torch.arange(len(term))[:, None] * (int(term.max()) + 2) + term  # a number per (row, term)
    if takes > len(term) and masks:
        place, lengths = units.tokens["place"], table["tokens"].to_numpy()[units.tokens["unit"]]
        last = torch.zeros_like(term, dtype=torch.bool)
        last.view(-1)[torch.from_numpy(units.tokens["position"])] = torch.from_numpy(place == lengths - 1)
        again = (rank >= 0) & torch.isin(mention, mention[rank > 0])
        alone = units.columns["unit_ids"].masked_fill(~again | last, -1)
        return [Pass("isolated", again & last, rank > 0, alone)]
    found = []
    for n in range(1, int(rank.max()) + 1):
        sought = rank == n
        earlier = (rank >= 0) & (rank < n) & torch.isin(mention, mention[sought])
        found.append(Pass("isolated", earlier, sought))
    return found


def takes_masks(model: PreTrainedModel, length: int) -> bool:
    """Whether a model can be told, token by token, what each of a row of `length` reads."""
    window = getattr(model.config, "sliding_window", None)
    return model.config._attn_implementation in ("eager", "sdpa") and (window is None or window >= length)


def reading(attention: Tensor, alone: Tensor, dtype: torch.dtype) -> Tensor:
    """What each token of causal rows reads (rows, 1, length, length): 0 where it does, the least number elsewhere.

    attention (rows, length): 1 where a token may be read; alone as in `Pass`.
    """
    own = (alone[:, None, :] < 0) | (alone[:, None, :] == alone[:, :, None])
    reads = (own & (attention[:, None, :] > 0)).tril()
    return torch.zeros(reads.shape, dtype=dtype).masked_fill(~reads, torch.finfo(dtype).min)[:, None]


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in the one it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def portions(
    model: PreTrainedModel,
    blocks: Dataset,
    work: Sequence[Pass],
    batch_size: int,
    what: str = "",
    progress: bool = False,
    shared: bool = False,
    head: bool = True,
) -> Iterator[Portion]:
    """Run passes over blocks, portion by portion, through a model in evaluation mode; to `head` or to hidden states.

    `shared`: rows without a choice are left out, and the processes of a launch deal the portions out among themselves.
    `what` names the progress bar.
    """
    columns, info = blocks_.tensors(blocks, "input_ids", "attention_mask"), blocks_.info(blocks)
    causal, length, here = family(model).causal, info["block_size"], processes()
    if causal and head:
        batch_size = max(1, min(batch_size, LOGITS // (length * model.config.vocab_size)))
    todo = []
    for one in work:
        rows = one.chosen.any(dim=1).nonzero()[:, 0] if shared else torch.arange(len(blocks))
        todo += [(one, some) for some in rows.split(rows_at_once(model, batch_size, length)) if len(some)]
    if shared:
        todo = todo[here.process_index :: here.num_processes]
    steady_heap()
    disable = not progress or not here.is_main_process
    with evaluating(model):
        for one, rows in tqdm(todo, what, unit="batch", delay=2, mininterval=1, disable=disable, leave=False):
            hide, chosen = info["pad_token_id" if causal else "mask_token_id"], one.chosen[rows]
            input_ids = columns["input_ids"][rows].masked_fill(one.hidden[rows], hide)
            attention = attended(columns["attention_mask"][rows], input_ids, info["pad_token_id"])
            if one.alone is not None:
                attention = reading(attention, one.alone[rows], model.dtype)
            shown = input_ids.to(model.device), attention.to(model.device)
            output = logits_at(model, *shown, chosen.to(model.device)) if head else hidden_states(model, *shown)
            yield Portion(one.context, rows, input_ids, chosen, output)


def best_tokens(model: PreTrainedModel, logits: Tensor, input_ids: Tensor, chosen: Tensor, unit_ids: Tensor) -> Tensor:
    """What a model predicts at the chosen positions, int64 (n,) on the CPU: the best token that its filter allows.

    `logits` (n, vocabulary) as `logits_at` gives them for input_ids and chosen; unit_ids tell units apart. All three
    are (rows, length).
    """
    banned = getattr(model, "logit_filter", None)
    if banned is not None:
        after = family(model).causal
        return banned.argmax_after(logits, input_ids, chosen) if after else banned.argmax(logits, unit_ids[chosen])
    if logits.device.type == "cpu" and logits.dtype == torch.float32:  # NumPy is some ten times as fast here
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1).cpu()


@torch.inference_mode()
def predict(
    model: PreTrainedModel, units: Units, blocks: Dataset, batch_size: int, progress: bool,
    contexts: Collection[str] = CONTEXTS, watch: Callable[[Portion], None] | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Predicted ids of every token of the text, int64 (tokens,), by those of the contexts that the family has.

    Where nothing is hidden in isolation that is not hidden anyway, the prediction is the visible one, or −1 where that
    is not asked for. `watch` is called with every portion.
    """
    causal, unit_ids = family(model).causal, units.columns["unit_ids"]
    contexts = [context for context in CONTEXTS[: 3 if causal else 2] if context in contexts]
    predicted = {context: torch.full_like(unit_ids, -1) for context in contexts}
    work = passes(units, causal, contexts, takes_masks(model, unit_ids.shape[1]))
    for part in portions(model, blocks, work, batch_size, "evaluate", progress, shared=True):
        if watch is not None:
            watch(part)
        best = best_tokens(model, part.output, part.input_ids, part.chosen, unit_ids[part.rows])
        ids = predicted[part.context]
        ids[part.rows] = ids[part.rows].masked_scatter(part.chosen, best)
    if (here := processes()).num_processes > 1:
        for context, ids in predicted.items():  # each position was predicted by one process, and is −1 in the others
            ids = ids.to(here.device)
            torch.distributed.all_reduce(ids, torch.distributed.ReduceOp.MAX)
            predicted[context] = ids.cpu()
    predicted = {context: ids.reshape(-1).numpy()[units.tokens["position"]] for context, ids in predicted.items()}
    if {"visible", "isolated"} <= predicted.keys():
        predicted["isolated"] = np.where(predicted["isolated"] >= 0, predicted["isolated"], predicted["visible"])
    return predicted


@torch.no_grad()
def exhaustive_states(
    model: PreTrainedModel, blocks: Dataset, objective: str, batch_size: int, seed: int = 0, progress: bool = True
) -> Tensor:
    """Last hidden states (rows, block_size, hidden), float32 on the CPU, of every unit that an objective may predict.

    A masked model's, each where its unit is masked with its fold of the row's others; a causal one's, all in one pass.
    Elsewhere they mean nothing.
    """
    # Folds other than those of `evaluate`, or the head would be measured on the very inputs it was trained on.
    units, causal = layout(blocks, -1 - seed), family(model).causal
    spared = (units.columns["sensitive"] > 0) & OBJECTIVES[objective].spares
    if causal:  # any position may come before a target
        work = [Pass("", spared, torch.ones_like(spared))]
    else:
        work = [Pass("", one.hidden & ~spared, one.chosen & ~spared) for one in passes(units, causal, ("visible",))]
    states = torch.zeros(*spared.shape, model.config.hidden_size)
    for part in portions(model, blocks, work, batch_size, "hidden states", progress, head=False):
        states[part.rows] = torch.where(part.chosen[..., None], part.output.float().cpu(), states[part.rows])
    return states
