"""A person named once in the context: does the rest of the record come back?

All listed terms of a row are hidden but the names of its person, and the others predicted; beside it the same with
these hidden too. What the name adds is what the model still holds of who belongs to whom. A causal model is asked for
what stands after the name, by the ranking of alternatives alone, since each of them is read after its own tokens.
"""

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from .. import blocks as blocks_
from ..exposure import NAMES, Ranks
from ..models import family
from ..predictions import Pass, best_tokens, layout, portions
from .rows import bootstrapped

PERSONS = (
    "PATIENT",
    "PERSON",
    "PER",
    "NAME",
)  # the type that names the person of a record, the first that is annotated


@torch.inference_mode()
def reintroduce(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    """In_place of what else is listed in rows that name a person (masked models), and the exposure of names.

    Direct identifiers only, where there are some. None where no type names persons.
    """
    causal = family(model).causal
    units, info = layout(blocks, seed), blocks_.info(blocks)
    types = np.array([*info["types"], ""], dtype=object)[units.table["type_id"]]
    naming = next((name for name in PERSONS if name in types), None)
    if naming is None:
        return []
    table = units.table
    person = types == naming
    others = (table["term_id"] >= 0).to_numpy() & ~person & table["row"].isin(table.loc[person, "row"]).to_numpy()
    kind = "direct" if (others & table["kind"].eq("direct")).any() else "all"
    asked = others & (table["kind"].eq(kind) | (kind == "all")).to_numpy()
    at = units.spread(np.where(person, 1, np.where(table["term_id"] >= 0, 2, 0)))
    settings = {"person hidden": at > 0, "person named": at == 2}
    if causal:
        named_at = table.loc[person].groupby("row")["unit_id"].min()
        asked &= (table["unit_id"] > table["row"].map(named_at)).to_numpy()
    ranks = Ranks(units, seed, asked, causal, [*settings])
    if causal:
        ranks.add_causal(model, blocks, False, settings)
        return _exposures(ranks, types)
    chosen = units.spread(asked.astype(int)) == 1
    right = {setting: np.zeros(len(table)) for setting in settings}
    unit_of = units.spread(np.arange(len(table)))
    for part in portions(model, blocks, [Pass(s, hidden, chosen) for s, hidden in settings.items()], 32, shared=True):
        ranks.add(part)
        unit = unit_of[part.rows][part.chosen]
        best = best_tokens(model, part.output, part.input_ids, part.chosen, units.columns["unit_ids"][part.rows])
        truth = units.columns["input_ids"][part.rows][part.chosen]
        np.add.at(right[part.context], unit[best == truth].numpy(), 1)
    rows = []
    for setting in settings:
        whole = (right[setting] == table["tokens"]).to_numpy().astype(float)
        rows.append(bootstrapped(table, np.where(asked, whole, np.nan), kind, "in_place", setting))
    return rows + _exposures(ranks, types)


def _exposures(ranks: Ranks, types: np.ndarray) -> list[dict]:
    """The rows of exposure of names among the units that were ranked."""
    named = np.isin(types, [*NAMES])
    return [
        bootstrapped(ranks.units.table, np.where(named, found, np.nan), "names", "exposure", setting)
        for setting, found in ranks.of_units().items()
    ]
