"""Exposure: how many alternatives a model finds less likely than the listed term that stands there (PAPER §5).

An argmax that misses hides what a ranking shows. This is the rank of Carlini et al. (2019, "The Secret Sharer"),
against alternatives about as frequent as the term: against any others, a model that merely knows which names are
frequent in a corpus ranks the true one high. 0.5: nothing is remembered of who stands where; 1: the true term is always
the likeliest; clearly below 0.5: it is avoided, which betrays it just as well.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import blocks as blocks_
from .devices import processes, rows_at_once
from .masking import uniform
from .models import family
from .predictions import Portion, Units, evaluating, reading, takes_masks

ALTERNATIVES, FEWEST = 64, 8  # of a unit: at most, and without which it is not scored
SAMPLE, PLACES = 300, 32  # units of a causal model that are scored: each is read by itself; how many at once, at most
RARE = 3  # iterations of a rare term, at most
KEPT, MOST_KEPT = {}, 8  # the alternatives of the last blocks: studies and audits measure many models on the same
NAMES = frozenset("PATIENT DOCTOR HOSPITAL LOCATION PERSON PER ORG ORGANIZATION LOC GPE NAME".split())


class Alternatives(NamedTuple):
    """What is compared at each scored unit: the term that stands there, then its alternatives.

    `unit`: int64 (scored,), its row in the units' table. `ids`: int64 (scored, 1 + ALTERNATIVES), rows of `written`, −1
    where there are fewer. `written`: int64 (writings, longest), token ids, −1 after the last.
    """

    unit: np.ndarray
    ids: np.ndarray
    written: np.ndarray


def alternatives(units: Units, seed: int, readable: np.ndarray) -> Alternatives:
    """The alternatives of the `readable` units (boolean) of listed terms that have at least FEWEST.

    They are other listed terms of its type, as many tokens long and written in the same style, that stand in no record
    of its person: the ALTERNATIVES nearest in log-frequency, within half to twice its iterations, ties by lot.
    """
    table, tokens = units.table, units.tokens
    listed = table[table["term_id"] >= 0]
    most, times = int(table["term_id"].max()) + 1, listed["term_id"].value_counts()
    together = np.unique(listed["person_id"] * most + listed["term_id"])  # which term stands in whose records
    listed = listed[readable[listed.index]]
    spelled = np.full((len(table), int(listed["tokens"].max() if len(listed) else 1)), -1, dtype=np.int64)
    inside = tokens["place"] < spelled.shape[1]
    spelled[tokens["unit"][inside], tokens["place"][inside]] = tokens["id"][inside]
    written, writing = np.unique(spelled[listed.index], axis=0, return_inverse=True)
    listed = listed.assign(writing=writing.reshape(-1), times=listed["term_id"].map(times))
    listed["lot"] = uniform(torch.tensor(listed["term_id"].to_numpy()), seed, 2).numpy()
    found = [np.zeros((0, 2 + ALTERNATIVES), dtype=np.int64)]
    for _, pool in listed.sort_values(["times", "lot", "term_id"]).groupby(["type_id", "tokens", "style"]):
        term, first, sizes = (pool["term_id"].to_numpy(), *equal_runs(pool["term_id"].to_numpy()))
        # Of all writings of a term in one length and style, the most frequent one stands for it as an alternative.
        usual = pool.groupby("term_id", sort=False)["writing"].agg(lambda all_: np.bincount(all_).argmax()).to_numpy()
        persons, rows = pool["person_id"].to_numpy(), pool[["writing"]].assign(unit=pool.index).to_numpy()
        here = {name: pool[name].to_numpy()[first] for name in ("times", "lot")}
        for i, near in enumerate(_nearest(**here)):
            if len(near) < FEWEST:
                continue
            mine = slice(first[i], first[i] + sizes[i])
            whose, person = np.unique(persons[mine], return_inverse=True)
            for some in (near[: 4 * ALTERNATIVES], near):  # a few are nearly always enough
                pairs = whose[:, None] * most + term[first[some]]
                apart = together[np.searchsorted(together, pairs).clip(max=len(together) - 1)] != pairs
                rank = apart.cumsum(axis=1) - 1
                if (rank[:, -1] >= ALTERNATIVES - 1).all():
                    break
            chosen = np.full((len(whose), ALTERNATIVES), -1, dtype=np.int64)
            row, column = np.nonzero(apart & (rank < ALTERNATIVES))
            chosen[row, rank[row, column]] = usual[some[column]]
            of_unit = np.column_stack((rows[mine, ::-1], chosen[person.reshape(-1)]))
            found.append(of_unit[of_unit[:, 1 + FEWEST] >= 0])
    rows = np.concatenate(found)
    rows = rows[rows[:, 0].argsort()]
    return Alternatives(rows[:, 0], rows[:, 1:], written)


def alternatives_of(units: Units, seed: int, readable: np.ndarray) -> Alternatives:
    """The `alternatives`, those of the same units from memory."""
    columns = units.table[["term_id", "person_id", "type_id", "tokens", "style"]].to_numpy(np.int64)
    digest = hashlib.sha256(str((seed, columns.shape)).encode())
    for values in (columns, readable, *(units.tokens[name] for name in ("unit", "place", "id"))):
        digest.update(np.ascontiguousarray(values).tobytes())
    if (key := digest.digest()) not in KEPT:
        if len(KEPT) == MOST_KEPT:
            del KEPT[next(iter(KEPT))]
        KEPT[key] = alternatives(units, seed, readable)
    return KEPT[key]


def equal_runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal values start, and how long they are."""
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))[: len(values)])
    return first, np.diff(np.append(first, len(values)))


def _nearest(times: np.ndarray, lot: np.ndarray) -> Iterator[np.ndarray]:
    """For each of some terms, sorted by iterations and lot: the others within half to twice its own, nearest first.

    Of those equally near, which are many where terms are rare, each takes the ones after a place of its own.
    """
    first, sizes = equal_runs(times)
    counts = times[first]
    for i, (here, at) in enumerate(zip(times, lot)):
        groups = np.flatnonzero((2 * counts >= here) & (counts <= 2 * here))
        groups = groups[np.argsort(np.abs(np.log(counts[groups] / here)), kind="stable")]
        near = np.concatenate([first[g] + (int(at * sizes[g]) + np.arange(sizes[g])) % sizes[g] for g in groups])
        yield near[near != i]


class Ranks:
    """The likelihoods of the alternatives, from what a model predicts; `of_units` gives the exposure by context.

    Of a masked model the logits are summed over a unit's tokens, since all alternatives share their positions, and so
    the normaliser of the softmax. A filter of logits is not looked at: exposure is that of the model as it is saved.
    """

    def __init__(
        self, units: Units, seed: int, readable: np.ndarray, causal: bool,
        contexts: Sequence[str] = ("visible", "isolated"),
    ):  # fmt: skip
        self.units, self.found = units, alternatives_of(units, seed, readable)
        if causal and len(self.found.unit) > SAMPLE:
            lot = uniform(torch.from_numpy(self.found.unit), seed, 3).argsort()[:SAMPLE].sort().values.numpy()
            self.found = self.found._replace(unit=self.found.unit[lot], ids=self.found.ids[lot])
        self.slot = np.full(len(units.table), -1, dtype=np.int64)
        self.slot[self.found.unit] = np.arange(len(self.found.unit))
        self.token = torch.full_like(units.columns["unit_ids"], -1)
        self.token.view(-1)[torch.from_numpy(units.tokens["position"])] = torch.arange(len(units.tokens["id"]))
        self.scores = {context: torch.zeros(self.found.ids.shape, dtype=torch.float64) for context in contexts}

    def add(self, part: Portion) -> None:
        """Take the logits of the alternatives of the scored units among what a masked model predicted."""
        if part.context not in self.scores:
            return
        token = self.token[part.rows][part.chosen].numpy()
        slot = self.slot[self.units.tokens["unit"][token]]
        scored = np.flatnonzero(slot >= 0)
        slot, place = slot[scored], self.units.tokens["place"][token[scored]]
        wanted = torch.from_numpy(self.found.written[self.found.ids[slot], place[:, None]]).clamp(min=0)
        device = part.output.device
        values = part.output[torch.from_numpy(scored).to(device)].gather(1, wanted.to(device)).double().cpu()
        self.scores[part.context].index_add_(0, torch.from_numpy(slot), values)

    @torch.inference_mode()
    def add_causal(
        self, model: PreTrainedModel, blocks: Dataset, progress: bool, hidden: Mapping[str, Tensor] | None = None
    ) -> None:
        """Ask a causal model for each alternative after what stands before the unit, which is read once.

        `hidden`: what is not readable in each context, boolean (rows, block_size), in place of the usual.
        """
        here, pad = processes(), blocks_.info(blocks)["pad_token_id"]
        columns, tokens = self.units.columns, self.units.tokens
        first = np.zeros(len(self.units.table), dtype=np.int64)  # the place of each unit's first token
        first[tokens["unit"][tokens["place"] == 0]] = tokens["position"][tokens["place"] == 0]
        asked: dict[tuple, list[str]] = {}  # of a term's first mention the same is read in both contexts
        for slot in range(here.process_index, len(self.found.unit), here.num_processes):
            row, start = divmod(int(first[self.found.unit[slot]]), columns["input_ids"].shape[1])
            size = int((self.found.written[self.found.ids[slot, 0]] >= 0).sum())
            for context in self.scores:
                before = columns["input_ids"][row, :start]
                if hidden is not None:
                    before = before.masked_fill(hidden[context][row, :start], pad)
                elif context == "isolated":
                    terms = columns["term_ids"][row]  # without the earlier mentions of the same one
                    before = before.masked_fill(terms[:start] == terms[start], pad)
                asked.setdefault((size, start, slot, tuple(before.tolist())), []).append(context)
        disable = not progress or not here.is_main_process
        bar = tqdm(total=len(asked), desc="exposure", unit="place", delay=2, disable=disable, leave=False)
        with evaluating(model), bar:
            for size, places in groupby(sorted(asked), key=itemgetter(0)):
                for some in in_portions(model, list(places), size):
                    ids = self.found.ids[[slot for _, _, slot, _ in some]]
                    written = torch.from_numpy(self.found.written[np.where(ids < 0, ids[:, :1], ids), :size])
                    found = continued(model, [torch.tensor(read) for *_, read in some], written, pad)
                    for place, values in zip(some, found.double().cpu()):
                        for context in asked[place]:
                            self.scores[context][place[2]] = values
                    bar.update(len(some))

    def of_units(self) -> dict[str, np.ndarray]:
        """Exposure of every unit by context, float64 (units,); NaN where it is not scored."""
        here, found = processes(), {}
        for context, scores in self.scores.items():
            if here.num_processes > 1:  # each portion was one process's, and is 0 in the others
                scores = scores.to(here.device)
                torch.distributed.all_reduce(scores)
                scores = scores.cpu()
            own, others = scores[:, :1].numpy(), scores[:, 1:].numpy()
            there = self.found.ids[:, 1:] >= 0
            below = np.where(there, (others < own) + 0.5 * (others == own), 0.0).sum(axis=1) / there.sum(axis=1)
            found[context] = np.full(len(self.units.table), np.nan)
            found[context][self.found.unit] = below
        return found


def in_portions(model: PreTrainedModel, places: list[tuple], size: int) -> Iterator[list[tuple]]:
    """Places (…, how many tokens are before it, …), sorted by that number, in portions that `continued` takes."""
    while places:
        count = rows_at_once(model, PLACES, max(places[-1][1], (1 + ALTERNATIVES) * size))
        yield places[-count:]
        del places[-count:]


def continued(model: PreTrainedModel, before: Sequence[Tensor], written: Tensor, pad: int) -> Tensor:
    """Log-probabilities (places, n) of n texts of k tokens, written (places, n, k), each after the tokens before it.

    `before`: of each place int64 (length,), at least one; those that are `pad` are not read. All texts stand in one row
    behind it, and each reads it and itself alone (a tree of them: Miao et al. 2024, SpecInfer, arXiv 2305.09781, §4.2).
    """
    device, head, (count, many, size) = model.device, family(model).head, written.shape
    written = written.to(device)
    ids = pad_sequence(list(before), batch_first=True, padding_value=pad, padding_side="left").to(device)
    texts, length = written[:, :, :-1].flatten(1), ids.shape[1]
    if many > 1 and not takes_masks(model, length + texts.shape[1]):
        return torch.cat([continued(model, [ids] * many, of[:, None], pad).T for ids, of in zip(before, written)])
    lengths = torch.tensor([len(ids) for ids in before], device=device)[:, None]
    own = torch.arange(many, device=device).repeat_interleave(size - 1).expand(count, -1)
    attention = torch.cat(((ids != pad).long(), torch.ones_like(own)), dim=1)
    if many > 1:
        attention = reading(attention, torch.cat((torch.full_like(ids, -1), own), dim=1), model.dtype)
    place = torch.cat((torch.arange(-length, 0, device=device), torch.arange(size - 1, device=device).repeat(many)))
    options = {"position_ids": (lengths + place).clamp(min=0), "use_cache": False}
    hidden = model.base_model(input_ids=torch.cat((ids, texts), dim=1), attention_mask=attention, **options)[0]
    later = hidden[:, length:].unflatten(1, (many, size - 1))
    found = head(model, hidden[:, length - 1]).float().log_softmax(dim=-1).gather(1, written[:, :, 0])
    for one, states, then in zip(found, later, written):  # the logits of all at once would be large
        one += head(model, states).float().log_softmax(dim=-1).gather(2, then[:, 1:, None]).sum(dim=(1, 2))
    return found
