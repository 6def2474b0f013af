"""The experiments of the paper: settings, and the runs that notebooks and ledger share."""

# ruff: noqa: F401, I001
from .runs import (
    Run, all_runs, complete, controls, fine_tuned, folder, half_repaired, is_done, missed_terms, model_of, readings,
    results, unlearned,
)  # fmt: skip
from .setting import SETTINGS, Setting
