"""Who is on the list? Listed names against names that the model has never read, told apart without the text.

Every name is put, by its likelihood, into places of other people's records where a name of its type and length stands.
A listed name is compared with unread ones of its type, length and likelihood under the base model: what is left must
come from the training. A name that a model finds too *un*likely betrays itself as well: an AUC of 0.02 is as bad as one
of 0.98. Chance is the counterfactual's AUC; unless that is 0.5 ± 0.05, the controls do not match and nothing is tested.
The counterfactual must not have read the unread names either: `sani.counterfactual(corpus, seed, others)`.
"""

from collections import defaultdict
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from .. import blocks as blocks_
from ..exposure import ALTERNATIVES, NAMES, continued, in_portions
from ..models import family
from ..predictions import Units, evaluating, layout, passes, portions
from .rows import auc, resampled, words_of

PLACES = {False: 64, True: 6}  # of a type and length that names are put into: masked models, causal ones
CALIPER = 0.5  # nats by which the base model may find a listed name and its control unequal


def names(units: Units, types: list[str]) -> pd.DataFrame:
    """Each place of a name in some blocks: group (object: type, tokens, style), written (object: token ids), words
    (object: the token ids of each of its words).
    """
    order = np.argsort(units.tokens["unit"], kind="stable")
    ids, ends = units.tokens["id"][order], np.cumsum(units.table["tokens"].to_numpy())
    table = units.table[units.table["term_id"] >= 0]
    type_ = np.array([*types, ""], dtype=object)[table["type_id"]]
    table = table.assign(type=type_, unit=table.index)[np.isin(type_, [*NAMES])]
    table["written"] = [tuple(ids[ends[u] - n : ends[u]].tolist()) for u, n in zip(table["unit"], table["tokens"])]
    table["group"] = [*zip(table["type"], table["tokens"], table["style"])]
    table["words"] = words_of(units).reindex(table.index)
    return table[["group", "written", "words", "unit", "term_id"]]


@torch.inference_mode()
def likelihoods(model: PreTrainedModel, blocks: Dataset, places: pd.DataFrame, asked: dict[tuple, np.ndarray]) -> dict:
    """Mean log-probability (n,) of n names over the places of their group, by group.

    places: rows of `names` of these blocks. asked: token ids, int64 (n, tokens), by group.
    """
    units, info, sums = layout(blocks, 0), blocks_.info(blocks), defaultdict(float)
    unit_of = units.spread(np.arange(len(units.table)))
    group_of = dict(zip(places["unit"], places["group"]))
    if not family(model).causal:
        for part in portions(model, blocks, passes(units, False, ("isolated",)), 32, shared=True):
            unit = unit_of[part.rows][part.chosen].numpy()
            logs = part.output.float().log_softmax(dim=-1).cpu()
            for group in {group_of[u] for u in np.unique(unit) if u in group_of}:
                at = np.flatnonzero([group_of.get(u) == group for u in unit])
                of_group = logs[at].view(-1, group[1], logs.shape[1])
                wanted = torch.from_numpy(asked[group])
                sums[group] += of_group[:, torch.arange(group[1]), wanted].sum(dim=(0, 2)).double().numpy()
    else:
        pad, found = info["pad_token_id"], defaultdict(list)
        for place in places.itertuples():
            at = units.table.loc[place.unit, "row"]
            start = int((unit_of[at] == place.unit).nonzero()[0, 0])
            found[place.group].append((at, start))
        with evaluating(model):
            for group, of_group in found.items():
                for some in in_portions(model, sorted(of_group, key=itemgetter(1)), group[1]):
                    before = [units.columns["input_ids"][at, :start] for at, start in some]
                    texts = torch.from_numpy(asked[group]).expand(len(some), -1, -1).split(1 + ALTERNATIVES, dim=1)
                    logs = torch.cat([continued(model, before, of_texts, pad) for of_texts in texts], dim=1)
                    sums[group] += logs.double().sum(dim=0).cpu().numpy()
    return {group: sums[group] / count for group, count in places["group"].value_counts().items()}


def matched(listed: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of listed names and of as many others: pairs nearest in value, within CALIPER, none taken twice."""
    pairs = np.abs(listed[:, None] - others[None])
    found, taken = ([], []), (set(), set())
    for one, other in zip(*np.unravel_index(np.argsort(pairs, axis=None, kind="stable"), pairs.shape)):
        if pairs[one, other] > CALIPER:
            break
        if one not in taken[0] and other not in taken[1]:
            for side, number in enumerate((one, other)):
                taken[side].add(number)
                found[side].append(number)
    return np.array(found[0], dtype=int), np.array(found[1], dtype=int)


def infer_list(
    model: PreTrainedModel, blocks: Dataset, base: PreTrainedModel, heldout: Dataset, seed: int,
    before: PreTrainedModel | None = None, **_,
) -> list[dict]:  # fmt: skip
    """AUC of six scores: log-probability and norm of the output rows, alone, against the base, against `before`.

    Rows of kind `names`; `count`: listed names that found a control. None if fewer than two did.
    """
    types = [blocks_.info(b)["types"] for b in (blocks, heldout)]
    here, there = (names(layout(b, seed), of) for b, of in zip((blocks, heldout), types))
    # Who shares a word with a name that was read has been read in part.
    read = set().union(*here["words"])
    there = there[np.array([not read & set(words) for words in there["words"]], dtype=bool)]
    read = set(here["written"])
    places = there.groupby("group", group_keys=False).head(PLACES[family(model).causal])
    asked = {}
    for group in places["group"].unique():
        known, new = (sorted({*table.loc[table["group"] == group, "written"]}) for table in (here, there))
        new = [name for name in new if name not in read]
        if known and new:
            asked[group] = np.array([*known, *new], dtype=np.int64), np.arange(len(known) + len(new)) < len(known)
    if not asked:
        return []
    places = places[places["group"].isin(asked)]
    models = {"": model, " against the base": base} | ({} if before is None else {" against before": before})
    found = {
        name: likelihoods(m, heldout, places, {g: ids for g, (ids, _) in asked.items()}) for name, m in models.items()
    }
    chosen = {}
    for group, (_, true) in asked.items():
        scores = found[" against the base"][group]
        one, other = matched(scores[true], scores[~true])
        chosen[group] = np.concatenate((np.flatnonzero(true)[one], np.flatnonzero(~true)[other]))
    if sum(map(len, chosen.values())) < 4:
        return []
    true = np.concatenate([asked[group][1][at] for group, at in chosen.items()])
    compared = [(group, asked[group][0][at].tolist()) for group, at in chosen.items()]
    groups = np.repeat(np.arange(len(chosen)), [*map(len, chosen.values())])
    rows = []
    for metric, of_model in (
        ("log-probability", found),
        ("output norm", {n: _norms(m, asked) for n, m in models.items()}),
    ):
        at = {name: np.concatenate([of[g][c] for g, c in chosen.items()]) for name, of in of_model.items()}
        for name, values in at.items():
            value, draws = auc(at[""] - values if name else values, true, groups, seed)
            # What the model before tells of the list it tells of every model that comes from it: shown, not judged.
            judged = "auc_before" if name == " against before" else "auc"
            score = metric + (name or " alone")
            rows.append(resampled("names", judged, "", true.sum(), value, draws, compared, score))
    return rows


def _norms(model: PreTrainedModel, asked: dict) -> dict[tuple, np.ndarray]:
    """The mean norm of the output rows of each name's tokens, by group."""
    norms = model.get_output_embeddings().weight.detach().float().norm(dim=1).cpu().numpy()
    return {group: norms[ids].mean(axis=1) for group, (ids, _) in asked.items()}
