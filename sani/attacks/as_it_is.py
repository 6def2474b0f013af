"""No attack: the model as it is, in place and by its ranking, with other listed terms readable and hidden.

Beside it `elsewhere`, by kind: the share of listed terms in whose place another listed one is predicted. Where it is
more than of the model before, others have taken the place of what was forgotten.
"""

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from ..evaluation import remembered
from ..text.blacklists import KINDS
from .rows import bootstrapped, of_report

BOTH = ("visible", "isolated")


def as_it_is(model: PreTrainedModel, blocks: Dataset, seed: int, **_) -> list[dict]:
    report = remembered(model, blocks, BOTH, seed=seed)
    rows, units = of_report(report, contexts=BOTH), report.units
    for kind in (*[k for k in KINDS if (units["kind"] == k).any()], "all"):
        asked = units["scored"] & (units["kind"].eq(kind) | (kind == "all"))
        rows.append(
            bootstrapped(units, np.where(asked, units["elsewhere"].ne(""), np.nan), kind, "elsewhere", "", "visible")
        )
    return rows
