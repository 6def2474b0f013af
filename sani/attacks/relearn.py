"""A short fine-tuning by the attacker: what comes back of terms that it never shows the model?

`relearn` has a fifth of the persons' records, and is scored on the terms of the others' that neither stand in the
fifth nor share a word with one that does; so are the alternatives. `benign_relearn` has public text alone.
Rates and epochs are swept, and every setting is reported: the worst counts. Source:
Deeb & Roger 2024, arXiv 2410.08827.
"""

from collections.abc import Callable

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from .. import models
from ..devices import give_back
from ..evaluation import remembered
from ..predictions import Units, layout
from ..training import default_learning_rate, fine_tune
from .graft import grafted
from .rows import of_report, only, words_of

SHARE = 0.2  # of the records, at least
RATES = (1 / 3, 1, 3)  # times the usual one
EPOCHS = (2, 6)
WIDE = 512  # from which width on a state of the encoder is computed twice rather than kept: the same numbers


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


def _swept(copied: Callable[[], PreTrainedModel], text: Dataset, seed: int, score) -> list[dict]:
    """The rows that `score` gives after every rate's epochs on a text, of copies made anew for each."""
    rows = []
    for times in RATES:
        model = copied()
        rate = default_learning_rate(model) * times
        if model.config.hidden_size >= WIDE and model.supports_gradient_checkpointing:
            model.config.use_cache = False  # or every batch would say that the two do not go together
            newer = getattr(model, "activation_checkpointing_enable", None)
            (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})

        def measure(trained, epoch, rate=rate):
            rows.extend(score(trained, f"rate {rate:.1e}, {epoch} epochs"))
            return {}

        # In place and without weights to go back to: a copy less of each, in memory.
        fine_tune(model, text, epochs=EPOCHS[-1], learning_rate=rate, seed=seed, progress=False, measure_at=EPOCHS,
                  measure=measure, inplace=True, resume=False)  # fmt: skip
        del model  # before the next copy is made
        give_back()
    return rows


def _relearned(copied: Callable[[], PreTrainedModel], blocks: Dataset, seed: int) -> list[dict]:
    known, other, _, unknown = parts(blocks, seed)

    def score(trained, setting):
        return of_report(remembered(trained, other, among=unknown, seed=seed), setting)

    return _swept(copied, known, seed, score)


def relearn(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    return _relearned(lambda: models.clone(model), blocks, seed)


def retie_relearn(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    return _relearned(lambda: models.retie(models.clone(model)), blocks, seed)


def graft_relearn(model: PreTrainedModel, blocks: Dataset, base: PreTrainedModel, seed: int, **_) -> list[dict]:
    return _relearned(lambda: grafted(model, base), blocks, seed)


def benign_relearn(model: PreTrainedModel, blocks: Dataset, heldout: Dataset, seed: int, **_) -> list[dict]:
    def score(trained, setting):
        return of_report(remembered(trained, blocks, seed=seed), setting)

    return _swept(lambda: models.clone(model), heldout, seed, score)
