"""Exposure: how many alternatives a model finds less likely than the listed term that stands there (PAPER §5).

An argmax that misses hides what a ranking shows. This is the rank of Carlini et al. (2019, "The Secret Sharer"),
against alternatives about as frequent as the term: against any others, a model that merely knows which names are
frequent in a corpus ranks the true one high. 0.5: nothing is remembered of who stands where; 1: the true term is always
the likeliest; clearly below 0.5: it is avoided, which betrays it just as well.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import blocks as blocks_
from .devices import processes
from .masking import attended, uniform
from .models import family
from .predictions import Portion, Units, earlier_mentions, evaluating

ALTERNATIVES, FEWEST = 64, 8  # of a unit: at most, and without which it is not scored
SAMPLE = 300  # units of a causal model that are scored: each costs passes of its own
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
        term, first, sizes = (pool["term_id"].to_numpy(), *_runs(pool["term_id"].to_numpy()))
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


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal values start, and how long they are."""
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return first, np.diff(np.append(first, len(values)))


def _nearest(times: np.ndarray, lot: np.ndarray) -> Iterator[np.ndarray]:
    """For each of some terms, sorted by iterations and lot: the others within half to twice its own, nearest first.

    Of those equally near, which are many where terms are rare, each takes the ones after a place of its own.
    """
    first, sizes = _runs(times)
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
        todo = range(here.process_index, len(self.found.unit), here.num_processes)
        disable = not progress or not here.is_main_process
        bar = tqdm(todo, "exposure", unit="unit", delay=2, mininterval=1, disable=disable, leave=False)
        with evaluating(model):
            for slot in bar:
                row, start = divmod(int(first[self.found.unit[slot]]), columns["input_ids"].shape[1])
                ids, found = self.found.ids[slot], {}
                written = torch.from_numpy(self.found.written[ids[ids >= 0]])
                written = written[:, : int((written[0] >= 0).sum())]
                for context, scores in self.scores.items():
                    before = columns["input_ids"][row, :start]
                    if hidden is not None:
                        before = before.masked_fill(hidden[context][row, :start], pad)
                    elif context == "isolated":
                        before = before.masked_fill(earlier_mentions(columns["term_ids"][row], start), pad)
                    read = tuple(before.tolist())  # of a term's first mention the same in both contexts
                    if read not in found:
                        attention = attended(torch.ones_like(before), before, pad)
                        found[read] = continued(model, before[None], attention[None], written).double().cpu()
                    scores[slot, torch.from_numpy(ids >= 0)] = found[read]

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


def continued(model: PreTrainedModel, before: Tensor, attention: Tensor, written: Tensor) -> Tensor:
    """Log-probabilities (n,) of n texts of k tokens, written (n, k), after a text before (1, length)."""
    device, head = model.device, family(model).head
    before, attention, written = before.to(device), attention.to(device), written.to(device)
    read = model.base_model(input_ids=before, attention_mask=attention, use_cache=True)
    found = head(model, read.last_hidden_state[:, -1]).float().log_softmax(dim=-1)[0, written[:, 0]]
    if written.shape[1] > 1:
        name = "cache" if "cache" in read else "past_key_values"  # as transformers called it before 5.24
        read[name].batch_repeat_interleave(len(written))
        attention = torch.cat((attention.expand(len(written), -1), torch.ones_like(written[:, 1:])), dim=1)
        options = {name: read[name], "use_cache": True}
        hidden = model.base_model(input_ids=written[:, :-1], attention_mask=attention, **options).last_hidden_state
        later = head(model, hidden).float().log_softmax(dim=-1)
        found = found + later.gather(2, written[:, 1:, None]).squeeze(2).sum(dim=1)
    return found
