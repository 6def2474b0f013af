"""One blank in a private corpus, chosen by what a leaking model predicts there, and what models predict in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel

from ..evaluation import Report
from ..models import family
from ..text.matching import Finder
from ..training import repair
from .answers import Listed, compare

REACH = 200  # characters of a line that are shown on each side of the blank
TRIED = 20  # lines whether the term comes out of them alone


@dataclass(frozen=True)
class Blank:
    """A listed direct identifier where it was annotated: its unit, its record (row of the corpus), its annotated type,
    how often its term stands in the corpus, and in clear, so not in the repr, the term and its line with the blank.
    """

    unit_id: int
    record: int
    type: str
    iterations: int
    text: str = field(repr=False)
    truth: str = field(repr=False)


def choose(
    corpus: Dataset, listed: Listed, model: PreTrainedModel, report: Report, base: Report | None = None
) -> Blank:
    """The blank that shows best what a leaking model remembers; the same for the same model and corpus.

    Only annotated direct identifiers that count everywhere qualify: of one token, or for causal models of one word. Of
    these, units predicted in place visible and isolated that the base model predicts in neither come first, then those
    predicted in place that it does not predict in place, then all predicted in place, then the others; the rarest term
    first. Of the first TRIED of the best it is one whose line alone brings the term out too, else the very first.
    `report` is the model's, `base` the base model's, on blocks of the corpus with the list. Raises ValueError if none
    qualifies, or for reports of different blocks.
    """
    units, causal = report.units, family(model).causal
    guessed = isolated = pd.Series(False, index=units.index)
    if base is not None:
        if not base.units[["unit_id", "row", "term_id"]].equals(units[["unit_id", "row", "term_id"]]):
            raise ValueError("the base report was measured on other blocks than the model's")
        guessed, isolated = base.units["in_place"], base.units["in_place_isolated"]
    here = units["in_place"]
    remembered = here & units["in_place_isolated"] & ~guessed & ~isolated
    rank = 3 - here.astype(int) - (here & ~guessed) - remembered
    fits = units["kind"].eq("direct") & units["gold"] & (units["tokens"].eq(1) | causal)
    order = units.assign(rank=rank)[fits].sort_values(["rank", "iterations", "unit_id"])
    finder = listed.blacklist.finder(listed.tokenizer)
    found = ((unit.rank, _blank(unit, units, corpus, listed, finder, causal)) for unit in order.itertuples())
    found = ((rank, blank) for rank, blank in found if blank is not None)
    best, first = next(found, (None, None))
    if first is None:
        raise ValueError(
            f"no annotated direct identifier of one {'word' if causal else 'token'} that counts everywhere stands in "
            "these blocks, so there is no blank to show"
        )
    alike = takewhile(lambda pair: pair[0] == best, chain([(best, first)], found))
    for _, blank in islice(alike, TRIED if best < 3 else 0):
        (said,) = compare({"": model}, listed.tokenizer, blank.text, listed, 1)["prediction"]
        if listed.blacklist.key(said) == listed.blacklist.key(blank.truth):
            return blank
    return first


def _blank(unit, units: pd.DataFrame, corpus: Dataset, listed: Listed, finder: Finder, causal: bool) -> Blank | None:
    """A unit as a blank; None where it is not to be shown so."""
    record = corpus[unit.record_id]
    text, hits = record["text"], finder.find(record["text"], record["identifiers"])
    of_record = units[(units["record_id"] == unit.record_id) & (units["term_id"] >= 0)].sort_values("unit_id")
    if [hit.term_id for hit in hits] != of_record["term_id"].tolist():
        return None
    hit = hits[of_record["unit_id"].tolist().index(unit.unit_id)]
    truth, key = text[hit.start : hit.end], listed.blacklist.key(text[hit.start : hit.end])
    before, after = text[: hit.start].rpartition("\n")[2], text[hit.end :].partition("\n")[0]
    before = before if len(before) <= REACH else before[-REACH:].partition(" ")[2]
    after = after if len(after) <= REACH else after[:REACH].rpartition(" ")[0]
    if key not in listed.keys or (causal and (len(key) > 1 or not before.strip())):
        return None
    line = before.rstrip() if causal else f"{before}{listed.tokenizer.mask_token}{after}"
    return Blank(unit.unit_id, unit.record_id, unit.type, unit.iterations, line, truth)


def ask(models: Mapping[str, PreTrainedModel], listed: Listed, text: str, k: int = 10) -> pd.DataFrame:
    """`compare` on a text with one blank, where a model with a logit filter predicts no listed term.

    The filter's model is asked for more until k are left; their probabilities are what the softmax gives without the
    listed terms.
    """
    return pd.concat([_asked(name, model, listed, text, k) for name, model in models.items()], ignore_index=True)


def _asked(name: str, model: PreTrainedModel, listed: Listed, text: str, k: int) -> pd.DataFrame:
    most = k
    while True:
        table = compare({name: model}, listed.tokenizer, text, listed, most)
        if getattr(model, "logit_filter", None) is None:
            return table
        left = table[table["listed"] != "term"].head(k)
        if len(left) == k or most >= model.config.vocab_size:
            rest = 1 - left["mass"]
            return left.assign(rank=range(1, len(left) + 1), probability=left["probability"] / rest, mass=0.0)
        most = min(4 * most, model.config.vocab_size)


def while_repairing(
    erased: PreTrainedModel, blocks: Dataset, listed: Listed, text: str, epochs: int, at: Sequence[int], k: int = 10,
    **options,
) -> tuple[PreTrainedModel, pd.DataFrame]:  # fmt: skip
    """`sani.repair` a model just erased, and `ask` it after some of the epochs (0: before the first).

    Returns the repaired model and the tables, one below the other, the epoch as the model's name.
    """
    found = []

    def look(model: PreTrainedModel, epoch: int) -> None:  # None: nothing is measured
        name = f"after {epoch} epoch{'s' * (epoch > 1)}" if epoch else "just erased"
        found.append(ask({name: model}, listed, text, k))

    repaired = repair(erased, blocks, epochs, measure_at=at, measure=look, **options)
    return repaired, pd.concat(found, ignore_index=True)
