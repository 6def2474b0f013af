"""What a model predicts for every unit of some blocks: exhaustive masking, or teacher forcing (PAPER §5)."""

import math

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from . import blocks as blocks_
from .blacklists import KINDS
from .erasure import layers
from .masking import OBJECTIVES, attended, uniform
from .models import bent, family, hidden_states, logits_at, processes, rows_at_once, steady_heap

FOLDS = math.ceil(1 / 0.15)
LOGITS = 1 << 27  # at once, for a causal model, which is asked for every token of a row: half a gigabyte


def layout(blocks: Dataset, seed: int):
    """Columns (rows, block_size); a table of units; the text tokens (id, unit index, …); the fold of each unit."""
    columns = blocks_.tensors(blocks)
    flat = {name: column.reshape(-1).numpy() for name, column in columns.items()}
    text = flat["unit_ids"] >= 0
    position = np.flatnonzero(text)
    unit_ids, first, index, lengths = np.unique(
        flat["unit_ids"][text], return_index=True, return_inverse=True, return_counts=True
    )
    at = position[first]
    row = at // columns["input_ids"].shape[1]
    codes = np.array(["none", *KINDS], dtype=object)
    units = pd.DataFrame(
        {
            "unit_id": unit_ids,
            "row": row,
            "record_id": flat["record_ids"][at],
            "term_id": flat["term_ids"][at],
            "kind": codes[flat["sensitive"][at]],
            "gold": flat["gold"][at] > 0,
            "tokens": lengths,
        }
    )
    # Deal the units of each row into the folds like cards, in random order, starting anywhere.
    key = uniform(torch.from_numpy(unit_ids), seed, 0).numpy()
    order = np.lexsort((key, row))
    rank = np.empty(len(order), dtype=np.int64)
    starts = np.flatnonzero(np.concatenate(([True], row[order][1:] != row[order][:-1])))
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    offset = (uniform(torch.arange(len(blocks)), seed, 1).numpy() * FOLDS).astype(np.int64)
    folds = (rank + offset[row]) % FOLDS
    tokens = {"position": position, "unit": index, "id": flat["input_ids"][position]}
    return columns, units, tokens, folds


@torch.inference_mode()
def predict(model, columns, units, tokens, folds, blocks, batch_size, progress, apart=True) -> dict[str, np.ndarray]:
    """Predicted ids of every text token by context: `visible` and, if `apart`, those where other mentions are hidden.

    An isolated prediction is made only where a mention is there to hide; elsewhere it is the visible one.
    """
    told, causal = blocks_.info(blocks), family(model).causal
    shape = columns["input_ids"].shape
    position = torch.from_numpy(tokens["position"])
    unit_of = _spread(tokens["unit"], tokens, shape)
    if causal:
        rank = units[units["term_id"] >= 0].groupby(["row", "term_id"]).cumcount()
        rank = rank.reindex(units.index, fill_value=-1).to_numpy()
        passes = _causal_passes(columns, _spread(rank[tokens["unit"]], tokens, shape), apart)
        batch_size = max(1, min(batch_size, LOGITS // (shape[1] * model.config.vocab_size)))
    else:
        passes = _masked_passes(columns, _spread(folds[tokens["unit"]], tokens, shape), apart)
    batch_size = rows_at_once(model, batch_size, shape[1])
    contexts = ["visible", "isolated", "padded"][: (3 if causal else 2) if apart else 1]
    predicted = {context: torch.full(shape, -1) for context in contexts}
    work = [
        (predicted[context], hide, score, rows)
        for context, hide, score in passes
        for rows in score.any(dim=1).nonzero().squeeze(1).split(batch_size)
        if len(rows)
    ]
    banned = getattr(model, "logit_filter", None)
    steady_heap()
    here = processes()
    work = work[here.process_index :: here.num_processes]
    was_training = model.training
    model.eval()
    for target, hide, score, rows in _told(work, "evaluate", progress):
        chosen = score[rows]
        inputs = columns["input_ids"][rows]
        inputs = inputs.masked_fill(hide[rows], told["pad_token_id"] if causal else told["mask_token_id"])
        attention = attended(columns["attention_mask"][rows], inputs, told["pad_token_id"])
        logits = logits_at(model, inputs.to(model.device), attention.to(model.device), chosen.to(model.device))
        if banned is None:
            best = _argmax(logits)
        elif causal:
            best = banned.argmax_after(logits, inputs, chosen)
        else:
            best = banned.argmax(logits, unit_of[rows][chosen])
        target[rows] = target[rows].masked_scatter(chosen, best)
    model.train(was_training)
    if here.num_processes > 1:
        for context, ids in predicted.items():  # each position was predicted by one process, and is −1 in the others
            ids = ids.to(here.device)
            torch.distributed.all_reduce(ids, torch.distributed.ReduceOp.MAX)
            predicted[context] = ids.cpu()
    predicted = {context: ids.reshape(-1)[position].numpy() for context, ids in predicted.items()}
    if apart:
        isolated = predicted["isolated"]
        predicted["isolated"] = np.where(isolated >= 0, isolated, predicted["visible"])
    return predicted


def _spread(values: np.ndarray, tokens: dict, shape: tuple[int, int]) -> torch.Tensor:
    """Values of the text tokens over rows of a shape, −1 elsewhere."""
    flat = torch.full((shape[0] * shape[1],), -1)
    flat[torch.from_numpy(tokens["position"])] = torch.from_numpy(np.asarray(values, dtype=np.int64))
    return flat.reshape(shape)


def _told(work: list, what: str, progress: bool):
    """A progress bar over batches, of the main process."""
    disable = not progress or not processes().is_main_process
    return tqdm(work, desc=what, unit="batch", delay=2, mininterval=1, disable=disable, leave=False)


@torch.no_grad()
def exhaustive_states(
    model, blocks: Dataset, objective: str, batch_size: int, seed: int = 0, progress: bool = True
) -> torch.Tensor:
    """Last hidden states (rows, block_size, hidden), float32 on the CPU, of every unit that an objective may predict.

    A masked model's, each where its unit is masked with its fold of the row's others; a causal one's, all in one pass.
    Elsewhere they mean nothing.
    """
    told, causal = blocks_.info(blocks), family(model).causal
    draw, _, _, spares = OBJECTIVES[objective]
    # Folds other than those of `evaluate`, or the head would be measured on the very inputs it was trained on.
    columns, units, tokens, folds = layout(blocks, -1 - seed)
    shape = columns["input_ids"].shape
    fold_of = _spread(folds[tokens["unit"]], tokens, shape)
    if spares:
        fold_of[columns["sensitive"] > 0] = -1
    if causal:  # one pass, of which any position may come before a target
        fold_of = torch.zeros(shape, dtype=torch.int64)
    shown = draw(columns, told["pad_token_id"])[0] if causal else columns["input_ids"]
    at_once = rows_at_once(model, batch_size, shape[1])
    work = [(fold, rows) for fold in range(1 if causal else FOLDS) for rows in torch.arange(shape[0]).split(at_once)]
    result = torch.zeros(*shape, model.config.hidden_size)
    was_training = model.training
    model.eval()
    for fold, rows in _told(work, "hidden states", progress):
        kept = fold_of[rows] == fold
        inputs = shown[rows] if causal else shown[rows].masked_fill(kept, told["mask_token_id"])
        attention = attended(columns["attention_mask"][rows], inputs, told["pad_token_id"])
        hidden = hidden_states(model, inputs.to(model.device), attention.to(model.device)).float().cpu()
        result[rows] = torch.where(kept[..., None], hidden, result[rows])
    model.train(was_training)
    return result


@torch.no_grad()
def activity(
    model, blocks: Dataset, target: str, batch_size: int = 32, seed: int = 0, progress: bool = True
) -> dict[str, torch.Tensor]:
    """How active each neuron (n,) of a target's layers is where listed terms are predicted, relative to elsewhere.

    The mean absolute output (after the non-linearity, where the layer itself is followed by one) over the tokens of
    listed terms, divided by that over the others, in one exhaustive pass; `scores` for `erase`. Source: Pochinkov and
    Schoots, "Dissecting Language Models: Machine Unlearning via Selective Pruning" (arXiv 2403.01267), importance of
    absolute activations.
    Raises ValueError for blocks without a listed term, or with nothing else.
    """
    told, causal = blocks_.info(blocks), family(model).causal
    columns, _, tokens, folds = layout(blocks, -1 - seed)
    fold_of = _spread(folds[tokens["unit"]], tokens, columns["input_ids"].shape)
    passes = _causal_passes(columns, fold_of, False) if causal else _masked_passes(columns, fold_of, False)
    found = layers(model, target)
    sums = {name: 0.0 for name in found}
    counts = torch.zeros(2, dtype=torch.float64)
    now = {}  # of the batch on its way: what is predicted, and whether it is listed

    def add(name):
        bend = bent(model, name)

        def hook(module, inputs, output):
            output = bend(output)
            if output.dim() == 3:  # of the encoder, at every position; the head sees what is predicted alone
                output = output[:, :-1][now["chosen"][:, 1:]] if causal else output[now["chosen"]]
            sums[name] += (now["listed"].to(output.dtype) @ output.abs()).double().cpu()

        return hook

    hooks = [layer.register_forward_hook(add(name)) for name, layer in found.items()]
    length = columns["input_ids"].shape[1]
    if causal:
        batch_size = max(1, min(batch_size, LOGITS // (length * model.config.vocab_size)))
    at_once = rows_at_once(model, batch_size, length)
    work = [(hide, score, rows) for _, hide, score in passes for rows in torch.arange(len(blocks)).split(at_once)]
    was_training = model.training
    model.eval()
    try:
        for hide, score, rows in _told(work, "activity", progress):
            chosen = score[rows]
            listed = columns["sensitive"][rows][chosen] > 0
            both = torch.stack((listed, ~listed))
            counts += both.sum(dim=1)
            now.update(chosen=chosen.to(model.device), listed=both.to(model.device))
            inputs = columns["input_ids"][rows]
            inputs = inputs.masked_fill(hide[rows], told["pad_token_id"] if causal else told["mask_token_id"])
            attention = attended(columns["attention_mask"][rows], inputs, told["pad_token_id"])
            logits_at(model, inputs.to(model.device), attention.to(model.device), now["chosen"])
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    if not counts.all():
        which = "no listed term" if not counts[0] else "nothing but listed terms"
        raise ValueError(f"the blocks hold {which}, so no neuron can be told apart; encode with another blacklist")
    means = {name: total / counts[:, None] for name, total in sums.items()}
    return {name: (mean[0] / mean[1].clamp(min=1e-12)).float() for name, mean in means.items()}


def _masked_passes(columns, fold_of, apart):
    """(context, what is masked, what is predicted), boolean (rows, block_size): two for each fold."""
    term, sensitive = columns["term_ids"], columns["sensitive"] > 0
    # A key per (row, term): a mention is masked too where its key is among those of the fold.
    keys = torch.arange(len(term))[:, None] * (int(term.max()) + 2) + term
    passes = []
    for fold in range(FOLDS):
        chosen = fold_of == fold
        passes.append(("visible", chosen, chosen))
        if apart:
            sought = chosen & sensitive
            extra = sensitive & ~chosen & torch.isin(keys, keys[sought])
            passes.append(("isolated", chosen | extra, sought & extra.any(dim=1, keepdim=True)))
    return passes


def _causal_passes(columns, rank, apart):
    """As `_masked_passes`: the raw row; the row without listed terms; and for the n-th mention of a term in its row
    (`rank`, 0 for the first), the row without the mentions before it.
    """
    text, sensitive = columns["unit_ids"] >= 0, columns["sensitive"] > 0
    passes = [("visible", torch.zeros_like(text), text)]
    if apart:
        passes.append(("padded", sensitive, text))
        term = columns["term_ids"]
        keys = torch.arange(len(term))[:, None] * (int(term.max()) + 2) + term
        for n in range(1, int(rank.max()) + 1):
            sought = rank == n
            earlier = (rank >= 0) & (rank < n) & torch.isin(keys, keys[sought])
            passes.append(("isolated", earlier, sought))
    return passes


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """Best token (n,) of logits (n, vocabulary); on a CPU NumPy finds it some ten times as fast as PyTorch."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1).cpu()
