"""Is it still inside? The embeddings as a lens on each layer's states at the blanks (masked models).

A layer's states are read by the input embeddings, as the logit lens does (nostalgebraist 2020), so neither erased
output matrix nor head's transform is looked through. Exposure is that of PAPER §5, on the lens's logits.
"""

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from .. import blocks as blocks_
from ..exposure import NAMES, Ranks
from ..masking import attended
from ..models import family
from ..predictions import Portion, evaluating, layout, passes
from .rows import bootstrapped


@torch.inference_mode()
def probe(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    """Exposure of names by layer. Raises ValueError for a causal model, whose states stand for a next token."""
    if family(model).causal:
        raise ValueError("a causal model's states are read by free generation and exposure; probe is for masked ones")
    units, info = layout(blocks, seed), blocks_.info(blocks)
    settings = [f"layer {n}" for n in range(model.config.num_hidden_layers + 1)]
    ranks = Ranks(units, seed, (units.table["term_id"] >= 0).to_numpy(), False, settings)
    (one,) = passes(units, False, ("isolated",))
    matrix = model.get_input_embeddings().weight
    with evaluating(model):
        for rows in one.chosen.any(dim=1).nonzero()[:, 0].split(32):
            ids = units.columns["input_ids"][rows].masked_fill(one.hidden[rows], info["mask_token_id"])
            attention = attended(units.columns["attention_mask"][rows], ids, info["pad_token_id"])
            shown = {"input_ids": ids.to(model.device), "attention_mask": attention.to(model.device)}
            states = model.base_model(**shown, output_hidden_states=True).hidden_states
            chosen = one.chosen[rows]
            for setting, state in zip(settings, states):
                ranks.add(Portion(setting, rows, ids, chosen, state[chosen.to(state.device)] @ matrix.T))
    types = np.array([*info["types"], ""], dtype=object)[units.table["type_id"]]
    table = units.table.assign(names=np.isin(types, [*NAMES]))
    chosen = table["names"] if table["names"].any() else table["term_id"] >= 0
    rows = []
    for setting, found in ranks.of_units().items():
        rows.append(bootstrapped(table[chosen], found[chosen], "names", "exposure", setting))
    return rows
