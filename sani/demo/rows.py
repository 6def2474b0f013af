"""What an erasure leaves of a matrix, row by row, for a picture: `results.drawings.erasure`."""

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..erasure import layers, usual_target, weight_matrix
from ..runs import checked

ROWS = ["matrix", "row", "before", "after", "rows", "zero_before", "zero_after"]


def row_norms(
    before: PreTrainedModel, after: PreTrainedModel, target: str | None = None, sample: int = 100
) -> pd.DataFrame:  # fmt: skip
    """The lengths (L2 norms) of some rows of the erased matrix and of the input embeddings, before and after.

    A row is a neuron: of the output matrix the weights that give one token of the vocabulary its logit. They are taken
    at equal distances, as a draw of its own could meet the draw of the erasure. Of a target of several layers, the
    first. Columns: matrix, row, before, after; and of the whole matrix: rows, and how many of them are zero before and
    after. Raises TypeError or ValueError for bad arguments.
    """
    checked("sample", sample, int, 1)
    target = usual_target(before) if target is None else target
    name = next(iter(layers(before, target)))
    models = (before, after)
    matrices = {
        "output matrix" if target == "lm-head" else name: [weight_matrix(m.get_submodule(name)) for m in models],
        "input embeddings": [m.get_input_embeddings().weight for m in models],
    }
    return pd.concat([_rows(name, *both, sample) for name, both in matrices.items()], ignore_index=True)


@torch.no_grad()
def _rows(name: str, before: Tensor, after: Tensor, sample: int) -> pd.DataFrame:
    lengths = [matrix.float().norm(dim=1).cpu() for matrix in (before, after)]
    chosen = torch.linspace(0, len(before) - 1, min(sample, len(before))).round().long()
    zero = [int((length == 0).sum()) for length in lengths]
    told = zip(chosen.tolist(), *(length[chosen].tolist() for length in lengths))
    return pd.DataFrame([(name, *row, len(before), *zero) for row in told], columns=ROWS)
