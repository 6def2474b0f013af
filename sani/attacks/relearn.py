"""A short fine-tuning by the attacker: what comes back of terms that it never shows the model?

`relearn` has a fifth of the persons' records, and is scored on the terms of the others' that neither stand in the
fifth nor share a word with one that does; so are the alternatives. `benign_relearn` has public text alone.
Rates and epochs are swept, and every setting is reported: the worst counts. Source:
Deeb & Roger 2024, arXiv 2410.08827.
"""

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from .. import models
from ..evaluation import remembered
from ..predictions import Units, layout
from ..training import default_learning_rate, fine_tune
from .graft import grafted
from .rows import of_report, only, words_of

SHARE = 0.2  # of the records, at least
RATES = (1 / 3, 1, 3)  # times the usual one
EPOCHS = (2, 6)


def parts(blocks: Dataset, seed: int) -> tuple[Dataset, Dataset, Units, np.ndarray]:
    """The attacker's rows, the others' rows, their units, and which of these (boolean) the attacker knows nothing of.

    Raises ValueError for the records of one person alone.
    """
    units = layout(blocks, seed)
    table = units.table
    persons = table.groupby("person_id")["record_id"].nunique()
    if len(persons) < 2:
        raise ValueError("the blocks hold the records of one person; relearning needs others to score")
    order = np.random.default_rng(seed).permutation(persons.index)
    enough = int(np.searchsorted(persons[order].cumsum(), SHARE * persons.sum())) + 1
    mine = table["person_id"].isin(order[: min(enough, len(order) - 1)])
    known, other = (only(blocks, table.loc[which, "record_id"].unique()) for which in (mine, ~mine))
    others = layout(other, seed)
    laid = layout(known, seed)
    words = {"known": words_of(laid), "other": words_of(others)}
    met = {word for unit, of_unit in words["known"].items() if laid.table.at[unit, "term_id"] >= 0 for word in of_unit}
    meets = np.array([bool(met.intersection(of_unit)) for of_unit in words["other"]])
    # A term is known, in all of its places, once a word of it is in one: "Dr. Keller" beside "Anna Keller".
    shared = set(others.table.loc[meets, "term_id"])
    unknown = (others.table["term_id"] >= 0) & ~others.table["term_id"].isin(shared)
    return known, other, others, unknown.to_numpy()


def _swept(model, text: Dataset, seed: int, score) -> list[dict]:
    """The rows that `score` gives of the model after every rate's epochs on a text."""
    usual, rows = default_learning_rate(model), []
    for times in RATES:

        def measure(trained, epoch, rate=usual * times):
            rows.extend(score(trained, f"rate {rate:.1e}, {epoch} epochs"))
            return {}

        fine_tune(model, text, epochs=EPOCHS[-1], learning_rate=usual * times, seed=seed, progress=False,
                  measure_at=EPOCHS, measure=measure)  # fmt: skip
    return rows


def relearn(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    known, other, _, unknown = parts(blocks, seed)

    def score(trained, setting):
        return of_report(remembered(trained, other, among=unknown, seed=seed), setting)

    return _swept(model, known, seed, score)


def retie_relearn(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    return relearn(models.retie(models.clone(model)), blocks, seed)


def graft_relearn(model: PreTrainedModel, blocks: Dataset, base: PreTrainedModel, seed: int, **_) -> list[dict]:
    return relearn(grafted(model, base), blocks, seed)


def benign_relearn(model: PreTrainedModel, blocks: Dataset, heldout: Dataset, seed: int, **_) -> list[dict]:
    return _swept(
        model, heldout, seed, lambda trained, setting: of_report(remembered(trained, blocks, seed=seed), setting)
    )
