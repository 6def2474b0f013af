"""Was this record trained on? Records of the text against others', by how well the model predicts their words.

Scores of a record, higher for one that was read: the mean log-probability of its tokens (`loss`), that minus the base
model's (`loss against the base`), and the mean over the fifth of its tokens that are least likely (Min-K %), for causal
models also of each token's log-probability normalised by the mean and deviation over the vocabulary (Min-K %++). By how
often a text was read, for who trains the model: `canaries`.
Sources: Shi et al. 2024, arXiv 2310.16789; Zhang et al. 2024, arXiv 2404.02936.
"""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..models import family
from ..predictions import layout, passes, portions
from .rows import auc, resampled, row

LEAST = 0.2  # of a record's tokens: Min-K %


@torch.inference_mode()
def token_scores(model: PreTrainedModel, blocks: Dataset, seed: int) -> dict[str, np.ndarray]:
    """Of every token of the text: `record`, its log-probability `log` and, of a causal model, that `normalised`."""
    units, causal = layout(blocks, seed), family(model).causal
    names, shape = ("log", "normalised") if causal else ("log",), units.columns["unit_ids"].shape
    scores = {name: torch.zeros(shape, dtype=torch.float64) for name in names}
    for part in portions(model, blocks, passes(units, causal, ("visible",)), 32):
        logs = part.output.float().log_softmax(dim=-1)
        truth = units.columns["input_ids"][part.rows][part.chosen].to(logs.device)
        told = {"log": logs.gather(1, truth[:, None])[:, 0]}
        if causal:  # of masked models nothing asks for it, and it takes as long again
            likely = logs.exp()
            mean = (likely * logs).sum(dim=1)
            spread = ((likely * logs**2).sum(dim=1) - mean**2).clamp(min=1e-12).sqrt()
            told["normalised"] = (told["log"] - mean) / spread
        for name, values in told.items():
            into = scores[name]
            into[part.rows] = into[part.rows].masked_scatter(part.chosen, values.double().cpu())
    at = units.tokens["position"]
    found = {name: values.view(-1).numpy()[at] for name, values in scores.items()}
    return found | {"record": units.table["record_id"].to_numpy()[units.tokens["unit"]]}


def of_records(tokens: dict[str, np.ndarray], score: str, least: float = 1.0) -> np.ndarray:
    """The mean of each record's tokens of the lowest scores (a share of them, at least one)."""
    order = np.lexsort((tokens[score], tokens["record"]))
    record, values = tokens["record"][order], tokens[score][order]
    _, first, counts = np.unique(record, return_index=True, return_counts=True)
    taken = np.maximum(1, np.round(least * counts)).astype(int)
    return np.array([values[start : start + n].mean() for start, n in zip(first, taken)])


def at_false_positives(scores: np.ndarray, true: np.ndarray, rate: float = 0.01) -> float:
    """True positives at the strictest threshold that at most `rate` of the others pass."""
    others = np.sort(scores[~true])[::-1]
    return float((scores[true] > others[int(rate * len(others))]).mean())


def membership(
    model: PreTrainedModel, blocks: Dataset, heldout: Dataset, seed: int, base: PreTrainedModel | None = None, **_
) -> list[dict]:
    """AUC, and true positives at 1 % false ones (`tpr_1`), by score; `count`: records of both sides.

    Of fewer than 100 others, 1 % false positives are none.
    """

    def of(m: PreTrainedModel) -> Sequence[dict[str, np.ndarray]]:
        return [token_scores(m, some, seed) for some in (blocks, heldout)]

    tokens, theirs, rows = of(model), None if base is None else of(base), []
    scores = {"loss": ("log", 1.0), "Min-K %": ("log", LEAST)}
    if family(model).causal:
        scores["Min-K %++"] = ("normalised", LEAST)
    found = {name: [of_records(side, *how) for side in tokens] for name, how in scores.items()}
    if theirs is not None:
        found["loss against the base"] = [a - of_records(side, "log") for a, side in zip(found["loss"], theirs)]
    for name, sides in found.items():
        values, true = np.concatenate(sides), np.arange(sum(map(len, sides))) < len(sides[0])
        value, draws = auc(values, true, np.zeros(len(values), dtype=int), seed)
        rows.append(resampled("records", "auc", "", len(values), value, draws, true.tolist(), name))
        rows.append(row("records", "tpr_1", "", len(values), at_false_positives(values, true), setting=name))
    return rows
