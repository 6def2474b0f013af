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
# # 05 · The frame: SANI among its competitors and controls
#
# The paper's Figure 2, with the four controls that it lacks, and the verdicts on its claims.
#
# - **Shows** privacy (a) and utility (b) of MLM, MLMA and PPMLM over fine-tuning, then of repair-only, pruning and SANI
#   over unlearning, beside base, counterfactual, retrain at equal cost and logit filter; where each ends; and the
#   ledger of claims over five seeds.
# - **Needs** the models of 03 and 04, which are made when they are not there.
# - **Writes** `runs/figures/05_frame`, `05_tradeoff` and `05_memory` (`.csv .svg .png`).
# - **Takes** about 8 minutes and 2 GB on two cores from nothing; nothing when the runs are there. The ledger is a
#   command of its own: `python -m sani.study ledger`.

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
from IPython.display import Markdown

from sani import study
from sani.results import figures, matrix, tables
from sani.runs import figure_file
from sani.study import Setting

setting = Setting.from_parameters(globals())

# %% [markdown]
# ## What is compared?
#
# | name | what it is |
# |---|---|
# | MLM, MLMA, PPMLM | fine-tuned on raw text, on pseudonymised text, and on raw text without listed targets |
# | repair-only | no erasure, then 13 epochs of PPMLM |
# | pruning | neurons of every layer reset by magnitude, then the same repair |
# | SANI | half of the last layer's neurons reset, then the same repair |
# | base | control: the model before fine-tuning, what can be guessed |
# | counterfactual | control: fine-tuned on other direct identifiers, their chance level |
# | retrain at equal cost | control: PPMLM from the base model for the same 13 epochs |
# | logit filter | control: listed terms banned at decoding, no training |

# %%
targets = ["lm-head"]
raw, pseudonymized, _ = setting.objectives
unlearned = [*study.unlearned(raw, targets), *study.unlearned(pseudonymized, targets)]
runs = [*study.fine_tuned(setting), *study.controls(setting), *unlearned]
made = study.complete(setting, [seed], runs, jobs)
print(f"{made} runs made, {len(runs) - made} found")
table = tables.summary(tables.add_excess(study.results(setting, [seed], runs)))
table = table[table["subset"] == ""]

# %% [markdown]
# ## Figure 2, for one seed

# %%
figures.present(
    "05_frame",
    table[table["metric"].isin(["in_place", "utility"])],
    "Four panels: privacy and utility over epochs, from MLM above and from MLMA below; ends in the table.",
)

# %% [markdown]
# *Privacy (a) and utility (b) over fine-tuning and unlearning (grey), from MLM (top: all identifiers) and from MLMA
# (bottom: the indirect ones, which are what is left to forget). Dotted: what the base model guesses.*
#
# ## Where does each end?

# %%
figures.present(
    "05_tradeoff",
    tables.endpoints(table),
    "Two scatter plots of utility against privacy, a marker per method; values in the table below.",
)

# %% [markdown]
# *Utility against privacy at the end of each method, on the training text (left) and on persons never trained on
# (right; their own rare words count as ordinary ones there). The dotted line joins the methods that no other beats in
# both.*

# %%
tables.endpoint_table(table).round(4)

# %% [markdown]
# ## How much of it is memory?
# What stands in the row can be copied, and what is usual can be guessed. *Isolated* masks the other mentions too;
# *excess* takes off what the base model predicts of the same units. The dotted line is the chance level: the counterfactual
# for direct identifiers, which it never read, and the base model for rare words, which the counterfactual did read.

# %%
figures.present(
    "05_memory",
    tables.endpoints(table),
    "Dot plot by method: regurgitation visible, isolated, and beyond the base; values above.",
)

# %% [markdown]
# *Share of direct (left) and indirect (right) identifiers that each method predicts in the end.*
#
# ## The same on GPT-2 (the paper's Figure 5)
# CLM, CLMA and PPCLM in the place of MLM, MLMA and PPMLM, over five seeds (`python -m sani.study ledger --setting tiny-gpt2`).
# This notebook itself runs on GPT-2 with `papermill -f notebooks/presets/tiny-gpt2.yaml`.

# %%
figures.show(
    "use_case_a_tiny_gpt2_frame", "Two panels: privacy and utility of GPT-2 over epochs, five seeds.", "tiny-gpt2"
)

# %% [markdown]
# *GPT-2: privacy (a) and utility (b) by teacher forcing, over fine-tuning and unlearning (grey).* Its free generation is
# in [the results](../figures/README.md#on-gpt-2).
#
# ## Five seeds, and the verdicts
# The same frame over five seeds, each with a corpus, a training and an erasure of its own; and the paper's claims,
# judged by rules that were written down before the runs (`sani/study/claims.py`; each verdict with its numbers in
# [the results](../figures/README.md#the-papers-claims)). The trade-off over five seeds is
# [a figure of its own](../figures/use_case_a_tradeoff.png).

# %%
figures.show("use_case_a_frame", "As the figure of four panels above, means over five seeds with 95 % intervals.")

# %%
path = figure_file("claims.csv")
text = matrix.markdown(pd.read_csv(path)) if path.exists() else "*No ledger yet: `python -m sani.study ledger`.*"
Markdown(text)

# %%
at = tables.endpoints(table).set_index(["method", "start", "metric", "kind", "context"])["value"].sort_index()
assert at["logit-filter", raw, "in_place", "all", "visible"] == 0, "the filter lets no listed term through"
assert len(tables.endpoint_table(table)) == len(runs) + 1

# %% [markdown]
# What these numbers do not say: that any of these models is anonymous. Terms that are not listed stay as they were,
# and nothing here asks what an attacker who retrains the model would find.
