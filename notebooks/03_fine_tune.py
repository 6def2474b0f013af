# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Fine-tuning: how a model comes to know the identifiers
#
# The left part of the paper's Figure 2: one base model fine-tuned in three ways on the same records.
#
# | name | trained on | objective |
# |---|---|---|
# | MLM | the raw text | masked language modelling, no protection |
# | MLMA | pseudonymised text | the same |
# | PPMLM | the raw text | masked language modelling that never takes a blacklisted term as a target |
#
# - **Shows** privacy and utility after 0, 4, 8, 16, 32 and 64 epochs.
# - **Needs** nothing but this repository; a preset (`-f notebooks/presets/paper-bert.yaml`) for the paper's setting.
# - **Writes** `runs/figures/03_fine_tune.{csv,svg,png}`; run folders under `runs/`, which later notebooks load.
# - **Takes** about 5 minutes and 2 GB on two cores; nothing when the runs are there.

# %% tags=["parameters"]
preset: str = "tiny"  # name of the setting, as the ledger calls it
model: str = "tiny-bert"  # the base model: shipped name, local folder or Hub id
corpus: str = "synthetic-clinical"  # name or path, as in sani.load_corpus
folder: str = ""  # where n2c2-2006 or tab lie
half: str = ""  # "private": only the half of the records that no base model was pre-trained on
records: int = 200  # of the private corpus, at most
heldout_records: int = 60  # records of persons never trained on
block_size: int = 128  # tokens per row
epochs: int = 64  # of fine-tuning
repair_epochs: int = 13  # of unlearning: the paper's 20 %
learning_rate: float = 3.0e-3  # of fine-tuning and repair
batch_size: int = 4  # rows per step
seed: int = 0  # varies corpus, training and erasure
jobs: int = 0  # processes side by side; 0: one per core

# %%
import pandas as pd

from sani import study
from sani.results import figures, tables
from sani.study import Setting
from sani.study.prepare import prepare

setting = Setting.from_parameters(globals())

# %% [markdown]
# ## What is trained, and on what?

# %%
data = prepare(setting, seed)
print(f"{len(data.corpus)} records, {len(data.raw)} rows; {data.blacklist}")

# %% [markdown]
# ## What do 64 epochs do to privacy and utility?
# Each of the three is trained unless its run folder is there. *Privacy* is 1 − the share of blacklisted terms that the
# model predicts whole where they stand; *utility* its accuracy on all other words.

# %%
runs = study.fine_tuned(setting)[:3]
made = study.complete(setting, [seed], runs, jobs)
print(f"{made} runs made, {len(runs) - made} found")
results = study.results(setting, [seed], runs)
table = tables.summary(results)
table = table[table["subset"] == ""]
figures.present(
    "03_fine_tune",
    table,
    "Two panels of curves over epochs, privacy and utility, for MLM, MLMA and PPMLM; values below.",
)

# %% [markdown]
# *Privacy over all identifiers (left) and utility (right) by epoch of fine-tuning; epoch 0 is the base model.*

# %%
at = {
    (name, method): tables.pick(table, metric, kind, method=method).set_index("epoch")["value"]
    for name, metric, kind in (
        ("direct regurgitated", "in_place", "direct"),
        ("indirect regurgitated", "in_place", "indirect"),
        ("utility", "utility", "none"),
        ("utility, all words", "utility_all", "none"),
        ("utility, other persons", "utility_heldout", "none"),
    )
    for method in setting.objectives
}
pd.DataFrame(at).round(4)

# %%
predicted = [
    f"{method.upper()} {tables.pick(table, 'in_place', 'direct', method=method, epoch=epochs)['value'].iloc[0]:.1%}"
    for method in setting.objectives
]
print(f"Of the direct identifiers, predicted after {epochs} epochs: {', '.join(predicted)}.")

# %%
start = tables.pick(table, "utility", epoch=0)
assert start["value"].nunique() == 1, "all three start from the same base model"
assert sorted(table["epoch"].unique()) == setting.trained_at

# %% [markdown]
# One seed shows a run, not a rule: the verdicts on the paper's claims A1–A4 over five seeds stand in the
# [results](../figures/README.md) and in [05_baselines](05_baselines.ipynb). Next: [04_sani](04_sani.ipynb), erase and repair.
