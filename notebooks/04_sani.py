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
# # 04 · SANI: erase, then repair
#
# - **Shows** regurgitation and utility over the epochs of repair, from MLM (forget direct and indirect identifiers) and
#   from MLMA (forget the indirect ones); what a term that the blacklist misses costs; and what the model predicts
#   in contexts it was never repaired on.
# - **Needs** the models of 03, which are made when they are not there.
# - **Writes** `runs/figures/04_sani`, `04_recall` and `04_contexts` (`.csv .svg .png`).
# - **Takes** about 8 minutes and 2 GB on two cores from nothing; nothing when the runs are there.

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
fraction: float = 0.5  # of its neurons that are erased
target: str = "lm-head"  # what to erase: lm-head, head-transform, last-block-output or last-block

# %%
from sani import study
from sani.results import figures, tables
from sani.study import Setting

setting = Setting.from_parameters(globals())
if not setting.with_gaps:
    raise ValueError(f"{model}: blacklists with gaps are measured on masked language models; run 03 and 05 instead")

# %% [markdown]
# ## What is run?
# From the models of 03: half of the neurons of the last layer reset to zero, then 13 epochs of PPMLM. Beside it, the
# same with a blacklist that misses some of the terms, and with half of the records kept out of the repair.

# %%
raw, pseudonymized, _ = setting.objectives
sani_runs = [study.Run("sani", start, which) for which in ("lm-head", target) for start in (raw, pseudonymized)]
gaps = [*study.missed_terms(setting), *study.half_repaired(setting)]
runs = list(dict.fromkeys([*study.fine_tuned(setting), *sani_runs, *gaps]))
made = study.complete(setting, [seed], runs, jobs)
print(f"{made} runs made, {len(runs) - made} found")
table = tables.summary(tables.add_excess(study.results(setting, [seed], runs)))
plain = table[(table["subset"] == "") & (table["missed"] == 0) & (table["kept_out"] == 0)]

# %% [markdown]
# ## What does the repair do, epoch by epoch?
# *Visible*: other mentions of a term in the row are readable, so it can be copied. *Isolated*: they are masked too, so
# only memory is left. The line of the *counterfactual* is the chance level of direct identifiers, that of a model which
# read the same text with others in their place; that of the *base* model is what can be guessed without the text.

# %%
figures.present(
    "04_sani",
    plain[plain["target"].isin(["", target])],
    "Three panels of curves over epochs: direct and indirect identifiers regurgitated, utility; values below.",
)

# %% [markdown]
# *SANI by epoch: direct identifiers from MLM (left), indirect ones from MLMA (middle), utility (right).*

# %%
tables.endpoint_table(plain).round(4)

# %% [markdown]
# `excess` is what a model predicts beyond the base model, over the same units. Below 0 it predicts *less* than can be guessed:
# a sign of suppression, for a model that had simply never read the terms would still guess some.
#
# ## What does a term cost that the blacklist misses?
# A share of the terms, drawn at random, is left out of the repair's blacklist; how often are *they* still predicted?

# %%
recall = tables.recall_table(table)
figures.present(
    "04_recall", recall, "Curves by share of terms missed: regurgitation of these terms by four models; values below."
)

# %%
recall.pivot(index="missed", columns="model", values="value").round(4)

# %% [markdown]
# *Of the terms that the blacklist misses, the share predicted: by the unprotected model, by SANI's model repaired with
# that gap, by the one repaired with the full list, and by the base model.*
#
# ## And in contexts that it was never repaired on?
# The same persons elsewhere: records that the repair never saw, new records about the same persons (where the corpus
# has some), and bare prompts such as "Patient name: [MASK]".

# %%
contexts = tables.contexts_table(table)
figures.present(
    "04_contexts",
    contexts,
    "Dot plot by context: share of direct identifiers predicted by five models; values in the table below.",
)

# %%
contexts.pivot(index=["context", "reading"], columns="model", values="value").round(4)

# %% [markdown]
# *Direct identifiers predicted, by context. For bare prompts: the share of prompts whose answer is a listed term, and the
# share of one-token terms among the ten likeliest.*

# %%
of_sani = tables.pick(plain, "utility", method="sani", start=raw, target=target).set_index("epoch")["value"]
erased, repaired = of_sani[epochs], of_sani[epochs + repair_epochs]
print(f"Utility just after the erasure: {erased:.3f}; after {repair_epochs} epochs of repair: {repaired:.3f}.")

# %% [markdown]
# ## The same over five seeds

# %%
figures.show("use_case_a_recall", "As the recall figure above, means over five seeds.")

# %%
figures.show("use_case_a_contexts", "As the figure of contexts above, means over five seeds.")

# %%
# Nothing but the listed runs is in the tables, and every rate is one.
assert set(plain["method"]) == {run.method for run in runs}
assert plain.loc[plain["metric"] != "excess", "value"].dropna().between(0, 1).all()

# %% [markdown]
# Next: [05_baselines](05_baselines.ipynb), SANI among its competitors and controls.
