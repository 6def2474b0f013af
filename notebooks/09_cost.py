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
# # 09 · Cost: how low can one go?
#
# The paper repairs for 20 % of the epochs of the fine-tuning. What do 10, 5, 2, 1 and ½ % do, and is it enough to
# repair the LM head alone?
#
# - **Shows** regurgitation and utility against the cost of unlearning, for SANI with a repair of the whole model and of
#   its head alone, beside repair-only, retraining from the base model, the logit filter, and the model just erased.
# - **Needs** the fine-tuned model of 03, which is made when it is not there.
# - **Writes** `runs/figures/09_cost` (`.csv .svg .png`).
# - **Takes** about 6 minutes and 2 GB on two cores from nothing. Five seeds are a command of their own:
#   `python -m sani.study costs`.

# %% tags=["parameters"]
preset: str = "tiny"  # name of the setting
model: str = "tiny-bert"  # the base model: shipped name, local folder or Hub id
corpus: str = "synthetic-clinical"  # name or path, as in sani.load_corpus
records: int = 200  # of the private corpus, at most
heldout_records: int = 60  # records of persons never trained on
block_size: int = 128  # tokens per row
epochs: int = 64  # of fine-tuning
learning_rate: float = 3.0e-3  # of fine-tuning and repair
batch_size: int = 4  # rows per step
seed: int = 0  # varies corpus, training and erasure
jobs: int = 0  # processes side by side; 0: one per core

# %%
from sani.results import figures, tables
from sani.study import Setting, costs
from sani.study.prepare import prepare

setting = Setting.from_parameters(globals())

# %% [markdown]
# ## What is counted, and what is it spent on?
# A cost is a share of the fine-tuning's multiply-adds in matrix products, a backward pass counted twice. A repair of
# the whole model spends it on epochs, or on a part of one. A repair of the **head alone** first keeps the hidden states
# of one exhaustive pass (seven forward passes), after which an epoch of the head is cheap: 13 of them on as many rows as
# the budget affords, and more only where it affords all rows. This was written down before the runs (`sani/study/costs.py`).

# %%
data = prepare(setting, seed)
body, head = costs.multiply_adds(data.base, block_size)
print(f"multiply-adds per token: {body:,} in the encoder, {head:,} in the LM head, where a token is predicted")

# %% [markdown]
# ## Privacy and utility against cost, for one seed

# %%
table = costs.table(setting, [seed], jobs)
summary = tables.summary(table)
figures.present(
    "09_cost",
    summary,
    "Four panels: regurgitation and utility over cost, for two erased targets; values in the table below.",
)

# %% [markdown]
# *Direct identifiers predicted (top) and utility (bottom) against the cost of unlearning, for two readings of the last
# layer (left and right). Dashed with hollow markers: the head alone is repaired. Straight lines: models that cost nothing, and the model
# just erased.*

# %%
shown = summary[summary["metric"].isin(["regurgitation", "utility", "utility_heldout", "epochs", "rows repaired on"])]
shown.pivot_table(
    index=["method", "target", "scope", "budget"], columns="metric", values="value", observed=True, sort=False
).round(3)

# %% [markdown]
# ## The same over five seeds

# %%
figures.show(
    "use_case_a_cost", "As above: means over five seeds, 95 % intervals.", command="python -m sani.study costs"
)

# %% [markdown]
# *As above, five seeds, each with a corpus, a training and an erasure of its own.*

# %%
at = table[table["metric"] == "regurgitation"].set_index(["method", "target", "scope", "budget"])["value"].sort_index()
assert at["logit-filter", "", "", 0.0] == 0, "the filter lets no listed term through"
assert len(at) == len(costs.points())

# %% [markdown]
# Costs are counted, not timed. The hidden states that a repair of the head keeps take memory: width × 4 bytes for each
# token.
